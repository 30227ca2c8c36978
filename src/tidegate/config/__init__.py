"""One YAML file and the environment, to one frozen Config; every mistake is reported at once, with file, line and path.

The only room that is handed environment variables. What a setting means belongs to the room that declares it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct, structs

from tidegate.config import environment, handler, rules
from tidegate.config.addresses import is_loopback, split_address
from tidegate.config.decode import Decoder, Place
from tidegate.config.environment import proxy_of
from tidegate.config.filling import filled
from tidegate.config.handler import lines
from tidegate.config.mistakes import At, ConfigError, Mistake, Mistakes
from tidegate.config.secrets import secret_variables
from tidegate.config.settings import Config, ProviderSettings
from tidegate.config.show import render
from tidegate.config.tree import MAX_BYTES, Node, from_flag, override, parse
from tidegate.config.units import written_duration, written_size
from tidegate.config.unwise import warnings
from tidegate.edge.settings import ServerSettings

__all__ = (
    "DEFAULT_FILE", "Config", "ConfigError", "Loaded", "Mistake", "ProviderSettings", "filled", "is_loopback", "lines",
    "load", "load_demo", "load_handler", "proxy_of", "render", "split_address", "warnings", "written_duration",
    "written_size",
)  # fmt: skip

DEFAULT_FILE: Final = "tidegate.yaml"


class Loaded(Struct, frozen=True):
    """A configuration that can be served. Shape: `notes` are sentences for whoever started it; `source` is where it is from.

    Shape: `secrets` are the variables of the environment that its secrets come from; `ops_moves` says that nobody has
    said where metrics are to be found, so that they may be elsewhere.
    """

    config: Config
    notes: tuple[str, ...]
    source: str
    secrets: frozenset[str] = frozenset()
    ops_moves: bool = False


def load(path: str | None, environ: Mapping[str, str], overrides: Mapping[str, str] | None = None) -> Loaded:
    """Give the configuration of a file; without `path`, of `tidegate.yaml` here, else what the environment names.

    Shape: `overrides` are flags' values by the setting's path (`server.port`). Errors: ConfigError.
    """
    mistakes = Mistakes()
    notes: tuple[str, ...] = ()
    if path is None and Path(DEFAULT_FILE).is_file():
        path = DEFAULT_FILE
        notes = (f"using {DEFAULT_FILE} of this directory",)
    if path is not None:
        root = parse(_read(path, mistakes), path, environ, mistakes)
        return _settle(root, overrides or {}, mistakes, notes, path)
    return _from_environment(environ, overrides or {}, for_demo=False)


def load_demo(environ: Mapping[str, str], overrides: Mapping[str, str] | None = None) -> Loaded:
    """Give what the environment names with the demo's model and the mock beside it, whatever files there are. Errors: ConfigError."""
    return _from_environment(environ, overrides or {}, for_demo=True)


def load_handler(
    reference: str,
    workers: int,
    environ: Mapping[str, str],
    overrides: Mapping[str, str] | None = None,
    *,
    allow_private: bool = False,
) -> Loaded:
    """Give the configuration that serves one handler, `model.py:Name` or `package.module:Name`. Errors: ConfigError.

    Shape: the variables that Cog reads are read here as well; `allow_private` lets files and webhooks be on private addresses.
    """
    given = overrides or {}
    near = is_loopback(given.get("server.host", ServerSettings().host))
    root = handler.tree(reference, workers, environ, allow_private=allow_private, near=near)
    loaded = _settle(root, given, Mistakes(), (), "--predict")
    return structs.replace(loaded, ops_moves="ops.listen" not in given)


def _from_environment(environ: Mapping[str, str], overrides: Mapping[str, str], *, for_demo: bool) -> Loaded:
    root, notes = environment.tree(environ, for_demo=for_demo)
    return _settle(root, overrides, Mistakes(), notes, "environment")


def _read(path: str, mistakes: Mistakes) -> bytes:
    """Give a file's bytes, one more than allowed at most. Errors: ConfigError."""
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        mistakes.fail(At(path), f"cannot be read: {getattr(error, 'strerror', None) or 'not a file name'}")


def _settle(
    root: Node, overrides: Mapping[str, str], mistakes: Mistakes, notes: tuple[str, ...], source: str
) -> Loaded:
    """Give the nodes as settings. Errors: ConfigError with all that is wrong."""
    for path, text in overrides.items():
        root = override(root, path, from_flag(_flag(path), text))
    decoder = Decoder(mistakes)
    plain = decoder.read(Config, root, Place())
    rules.check(decoder.seen, mistakes)
    mistakes.check()
    config = msgspec.convert(filled(plain), Config)
    return Loaded(config, notes, source, secret_variables(decoder.secret, decoder.seen, config))


def _flag(path: str) -> str:
    """Give the flag that sets a path: `--port` for `server.port`, `--ops-listen` for `ops.listen`."""
    return "--" + path.removeprefix("server.").replace(".", "-").replace("_", "-")
