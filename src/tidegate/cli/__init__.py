"""The `tidegate` command. Commands import what they need when they run: `version` must not pay for a server.

Exit codes: 0 fine, 1 failure, 2 usage or configuration error.
"""

import os
import sys
from typing import Annotated, Final, Literal, NoReturn

import typer

from tidegate import __version__

STYLE: Final[Literal["rich"] | None] = "rich" if sys.stdout.isatty() else None
"""Frames and colours are for terminals; a pipe gets plain lines."""

app = typer.Typer(
    name="tidegate",
    help=(
        "A streaming gateway for language models, and for models of your own.\n\n"
        "Example:  tidegate serve -c tidegate.yaml\n\n"
        "Example:  tidegate serve --predict model.py:Model --port 5000"
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=STYLE,
)
keys = typer.Typer(
    help="Keys of clients.\n\nExample:  tidegate keys hash", no_args_is_help=True, rich_markup_mode=STYLE
)
app.add_typer(keys, name="keys")

ConfigPath = Annotated[
    str | None, typer.Option("--config", "-c", help="The YAML file; without it ./tidegate.yaml, else the environment.")
]
Host = Annotated[str | None, typer.Option(help="Address to listen on (server.host).")]
Port = Annotated[int | None, typer.Option(help="Port to listen on (server.port); 0 takes a free one.")]
AllowOpen = Annotated[bool, typer.Option("--allow-open", help="Serve without keys beyond this machine.")]
OpsListen = Annotated[str | None, typer.Option(help="host:port of metrics and health (ops.listen); '' is none.")]


def main() -> NoReturn:
    """Run the command line."""
    app()
    sys.exit(0)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 (as typer calls it)
    if wanted:
        typer.echo(f"tidegate {__version__}")
        raise typer.Exit


@app.callback()
def _tidegate(
    _version: Annotated[  # noqa: FBT002
        bool,
        typer.Option("--version", help="Print the version, and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Take what may stand before a command."""


def _overrides(
    host: str | None, port: int | None, ops_listen: str | None, drain_timeout: str | None = None
) -> dict[str, str]:
    given = {
        "server.host": host,
        "server.port": None if port is None else str(port),
        "ops.listen": ops_listen,
        "server.drain_timeout": drain_timeout,
    }
    return {path: value for path, value in given.items() if value is not None}


@app.command()
def serve(
    config: ConfigPath = None,
    host: Host = None,
    port: Port = None,
    ops_listen: OpsListen = None,
    drain_timeout: Annotated[str | None, typer.Option(help="How long running streams may go on at shutdown.")] = None,
    allow_open: AllowOpen = False,  # noqa: FBT002
    predict: Annotated[
        str | None,
        typer.Option(
            help="Serve a Python model, without a file: model.py:Name or package.module:Name. Its port is 5000."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that --predict runs the model in.", min=1)] = 1,
    allow_private: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--allow-private",
            help="With --predict: let files and webhooks be on private addresses, this machine's own too.",
        ),
    ] = False,
) -> None:
    """Serve. SIGTERM drains; a second one ends at once. SIGHUP reads the configuration anew.

    Example:  tidegate serve -c tidegate.yaml --port 9000

    Example:  tidegate serve --predict model.py:Model --port 5000
    """
    from tidegate.cli import serving

    overrides = _overrides(host, port, ops_listen, drain_timeout)
    if predict is not None:
        if config is not None:
            raise serving.refuse_both(predict, workers, allow_private=allow_private)
        loaded = serving.load_model(predict, workers, os.environ, overrides, allow_private=allow_private)
        raise typer.Exit(serving.serve(loaded, os.environ, allow_open=allow_open))
    if allow_private:
        raise typer.BadParameter(
            "--allow-private is for --predict: a file has predictions.files and predictions.webhooks"
        )
    loaded = serving.load(config, os.environ, overrides)
    reread = serving.reader(config, os.environ, overrides)
    raise typer.Exit(serving.serve(loaded, os.environ, allow_open=allow_open, reread=reread))


@app.command()
def demo(
    host: Host = None,
    port: Port = None,
    ops_listen: OpsListen = None,
    allow_open: AllowOpen = False,  # noqa: FBT002
) -> None:
    """Start a small model, the mock provider and the gateway, stream one completion, keep serving until Ctrl-C.

    Example:  tidegate demo --port 9000
    """
    from tidegate.cli import demonstration

    raise typer.Exit(demonstration.run(os.environ, _overrides(host, port, ops_listen), allow_open=allow_open))


def _mock_help() -> str:
    from tidegate.mock.script import describe

    return describe()


@app.command()
def mock(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8090,
    seed: Annotated[int, typer.Option(help="The same seed says the same words.")] = 0,
    knobs: Annotated[bool, typer.Option("--knobs", help="List what a request can ask for, and exit.")] = False,  # noqa: FBT002
) -> None:
    """Serve the mock provider: a peer that speaks every provider's dialect and does what the model name asks for.

    Example:  tidegate mock --port 8090   then ask for the model 'mock?ttft=200ms&itl=20ms&tokens=200'
    """
    if knobs:
        typer.echo(_mock_help())
        return
    from tidegate.cli import serving

    raise typer.Exit(serving.serve_mock(host, port, seed))


@app.command()
def explain(
    model: Annotated[str, typer.Argument(help="The name that a client would ask for.")], config: ConfigPath = None
) -> None:
    """Say what becomes of a request for a model: the layers, the targets, and what each verdict would do.

    Example:  tidegate explain gpt-4o-mini -c tidegate.yaml
    """
    from tidegate.cli import explanation, serving

    raise typer.Exit(explanation.explain(serving.load(config, os.environ, {}).config, model))


@app.command()
def check(config: ConfigPath = None) -> None:
    """Check a configuration and print what it comes to, secrets masked.

    Example:  tidegate check -c tidegate.yaml
    """
    from tidegate.cli import serving

    loaded = serving.load(config, os.environ, {})
    raise typer.Exit(serving.check(loaded, os.environ))


@keys.command("hash")
def keys_hash(
    key: Annotated[
        str | None, typer.Argument(help="The key; better none: it is then read from standard input.")
    ] = None,
) -> None:
    """Print the SHA-256 that the configuration holds instead of a key. Without a key and input, make a new key.

    Example:  tidegate keys hash < key.txt
    """
    from tidegate.cli import keyring

    raise typer.Exit(keyring.run(key))


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="A rough answer in about a minute.")] = False,  # noqa: FBT002
    scenario: Annotated[list[str] | None, typer.Option(help="Only this scenario; can be repeated.")] = None,
    out: Annotated[str, typer.Option(help="Where to write the figures as JSON.")] = "bench.json",
    repeats: Annotated[int, typer.Option(help="Runs of each scenario; medians are shown.", min=1)] = 5,
) -> None:
    """Measure against the mock directly and nginx, in one run.

    Example:  tidegate bench --quick
    """
    from tidegate import bench as benchmark

    options = benchmark.Options(quick=quick, scenarios=tuple(scenario or ()), out=out, repeats=repeats)
    raise typer.Exit(benchmark.run(options))


@app.command()
def version() -> None:
    """Print the version.

    Example:  tidegate version
    """
    typer.echo(f"tidegate {__version__}")
