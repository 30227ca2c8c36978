"""Running processes: the gateway until a signal, the mock until a signal, and `check`."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import structlog
import typer
import uvloop
from msgspec import structs

from tidegate import __version__
from tidegate.assemble import Tidegate
from tidegate.config import (
    Config,
    ConfigError,
    Loaded,
    is_loopback,
    lines,
    load_demo,
    load_handler,
    proxy_of,
    render,
    warnings,
)
from tidegate.config import load as load_config
from tidegate.edge.listener import PortBusyError, raise_nofile_limit
from tidegate.mock.server import MockProvider
from tidegate.observe import log
from tidegate.tasks import Tasks

GC_THRESHOLD = (50_000, 10, 10)
"""Collections are for cycles, and an exchange leaves none behind: looking for them less often costs nothing."""


def load(path: str | None, environ: Mapping[str, str], overrides: Mapping[str, str]) -> Loaded:
    """Give the configuration, or end the process with exit code 2 and every mistake on a line of its own."""
    try:
        return load_config(path, environ, overrides)
    except ConfigError as error:
        raise _told(error) from None


def load_model(
    reference: str, workers: int, environ: Mapping[str, str], overrides: Mapping[str, str], *, allow_private: bool
) -> Loaded:
    """Give the configuration that serves one handler, or end the process with exit code 2."""
    try:
        return load_handler(reference, workers, environ, overrides, allow_private=allow_private)
    except ConfigError as error:
        raise _told(error) from None


def refuse_both(reference: str, workers: int, *, allow_private: bool) -> typer.Exit:
    """Tell who names a file and a handler what the file would say in place of the flag."""
    typer.echo(
        "error: expected --config or --predict, not both: with a file, the file says what is served, and keys, secrets and "
        f"limits go there as well. These lines of it stand for the flag:\n\n{lines(reference, workers, allow_private=allow_private)}",
        err=True,
    )
    return typer.Exit(2)


def reader(path: str | None, environ: Mapping[str, str], overrides: Mapping[str, str]) -> Callable[[], Loaded]:
    """Give how to read the configuration anew. Errors: ConfigError, when it is called."""
    return partial(load_config, path, environ, overrides)


def load_for_demo(environ: Mapping[str, str], overrides: Mapping[str, str]) -> Loaded:
    """Give the environment's configuration with the mock beside it, or end the process with exit code 2."""
    try:
        return load_demo(environ, overrides)
    except ConfigError as error:
        raise _told(error) from None


def _told(error: ConfigError) -> typer.Exit:
    for mistake in error.mistakes:
        typer.echo(f"error: {mistake}", err=True)
    return typer.Exit(2)


def proxies(config: Config, environ: Mapping[str, str]) -> dict[str, str]:
    """Give the proxy of each provider that goes through one."""
    found = {provider.name: proxy_of(provider.base_url, environ) for provider in config.providers}
    return {name: proxy for name, proxy in found.items() if proxy}


def check(loaded: Loaded, environ: Mapping[str, str]) -> int:
    """Print the resolved table and what is unwise about it; gives the exit code."""
    try:
        proxies(loaded.config, environ)
    except ConfigError as error:
        raise _told(error) from None
    rows = render(loaded.config)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table("setting", "value", title=loaded.source)
        for path, value in rows:
            table.add_row(path, value)
        Console().print(table)
    else:
        for path, value in rows:
            typer.echo(f"{path}\t{value}")
    for warning in (*loaded.notes, *warnings(loaded.config, raise_nofile_limit())):
        typer.echo(f"note: {warning}", err=True)
    return 0


class Mocks:
    """The built-in mocks behind mock providers without an address. Holds: each that was started, until `close`."""

    def __init__(self) -> None:
        self._started: dict[str, tuple[MockProvider, int]] = {}

    async def behind(self, config: Config) -> Config:
        """Give the configuration with the addresses of mocks filled in; those that run already stay where they are."""
        providers = []
        for provider in config.providers:
            if provider.kind == "mock" and not provider.base_url:
                if provider.name not in self._started:
                    mock = MockProvider()
                    self._started[provider.name] = mock, await mock.start()
                port = self._started[provider.name][1]
                providers.append(structs.replace(provider, base_url=f"http://127.0.0.1:{port}/v1"))
            else:
                providers.append(provider)
        return structs.replace(config, providers=tuple(providers))

    async def close(self) -> None:
        """Stop them all."""
        for mock, _ in self._started.values():
            await mock.close()


@asynccontextmanager
async def mocks(config: Config) -> AsyncIterator[Config]:
    """Give the configuration with a mock behind each mock provider without an address. Holds: them, until the exit."""
    behind = Mocks()
    try:
        yield await behind.behind(config)
    finally:
        await behind.close()


class Stop:
    """Hears SIGTERM and SIGINT. Shape: `hurried` is true after SIGINT, which a person sends; a second signal ends at once."""

    def __init__(self, last: Callable[[], object]) -> None:
        self.event = asyncio.Event()
        self.hurried = False
        self._last = last
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._heard, number)

    def ask(self) -> None:
        """Stop as if a person had asked for it."""
        self.hurried = True
        self.event.set()

    def _heard(self, number: int) -> None:
        if self.event.is_set():
            self._last()
            os._exit(1)
        self.hurried = number == signal.SIGINT
        self.event.set()


class Reloads:
    """Hears SIGHUP: reads the configuration anew and lets new exchanges go by it. Holds: one reload at a time.

    Shape: `allow_open` says that a gateway without keys may be open to other machines.
    """

    def __init__(
        self,
        tidegate: Tidegate,
        mocks: Mocks,
        reread: Callable[[], Loaded],
        environ: Mapping[str, str],
        *,
        allow_open: bool = False,
    ) -> None:
        self._tidegate = tidegate
        self._mocks = mocks
        self._reread = reread
        self._environ = environ
        self._allow_open = allow_open
        self._host = tidegate.wiring.config.server.host
        self._tasks = Tasks()
        self._wanted = self._running = self._closed = False
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._heard)

    async def close(self) -> None:
        """Reload no more. Shape: the signal stays heard, since unheard it would end the process."""
        self._closed = True
        await self._tasks.close()

    def _heard(self) -> None:
        if self._closed:
            structlog.get_logger().warning("reload_refused", about="the process is shutting down")
            return
        self._wanted = True
        if not self._running:
            self._running = True
            self._tasks.start(self._run())

    async def _run(self) -> None:
        """Reload until no signal has come since the last reading began."""
        try:
            while self._wanted:
                self._wanted = False
                await self._reload()
        finally:
            self._running = False

    async def _reload(self) -> None:
        """Take the configuration over, or say why not; then everything stays as it is."""
        logger, before = structlog.get_logger(), self._tidegate.wiring.locals
        try:
            loaded = await asyncio.to_thread(self._reread)
            needs_restart = await self._take(loaded)
        except ConfigError as error:
            refusals = [str(mistake) for mistake in error.mistakes]
        except _ExposedError as error:
            refusals = [str(error)]
        except OSError as error:  # a certificate that does not fit its key is one too
            refusals = [f"a file cannot be used: {error.strerror or error}"]
        else:
            refusals = []
            logger.info("reloaded", about=loaded.source)
            for name, local in self._tidegate.wiring.locals.items():
                if before.get(name) is local:
                    logger.info(
                        "note", about=f"{name} goes on with the code that it has: only a new start reads other code"
                    )
            restart = [f"{path} is another now, which only a new start takes" for path in needs_restart]
            for warning in (*restart, *warnings(loaded.config, raise_nofile_limit())):
                logger.warning("unwise", about=warning)
        for refusal in refusals:
            logger.error("reload_refused", about=refusal)

    async def _take(self, loaded: Loaded) -> list[str]:
        """Give the settings that only a new start takes. Errors: ConfigError, OSError, _ExposedError."""
        config = loaded.config
        # Where it listens is as it was at the start, whatever the file says now.
        for host in (self._host, config.server.host):
            _check_exposure(config, host, allow_open=self._allow_open)
        through = proxies(config, self._environ)
        await self._tidegate.prepare(config)
        return self._tidegate.reload(await self._mocks.behind(config), through, loaded.secrets)


class _ExposedError(Exception):
    """A gateway without keys that other machines would reach; the text says what to do about it."""


def _check_exposure(config: Config, host: str, *, allow_open: bool) -> None:
    """Refuse to be open beyond this machine unless somebody said so. Errors: _ExposedError."""
    if config.auth.mode == "open" and not is_loopback(host) and not allow_open:
        raise _ExposedError(
            f"auth.mode is open and {host} can be reached from elsewhere; configure auth.keys, or say --allow-open"
        )


def refuses_open(config: Config, *, allow_open: bool) -> bool:
    """Say whether a gateway without keys would be open to other machines, and tell so."""
    try:
        _check_exposure(config, config.server.host, allow_open=allow_open)
    except _ExposedError as error:
        typer.echo(f"error: {error}", err=True)
        return True
    return False


def serve(
    loaded: Loaded,
    environ: Mapping[str, str],
    *,
    allow_open: bool,
    reread: Callable[[], Loaded] | None = None,
    translates: bool = False,
) -> int:
    """Serve until a signal; gives the exit code.

    Shape: `reread` gives the configuration anew, for SIGHUP; `translates` is for the bench, which measures that road.
    """
    config = loaded.config
    if refuses_open(config, allow_open=allow_open):
        return 2
    form = config.observe.log
    writer = log.configure("text" if form == "text" or (form == "auto" and sys.stderr.isatty()) else "json")
    try:
        reloading = partial(Reloads, reread=reread or (lambda: loaded), environ=environ, allow_open=allow_open)
        return uvloop.run(_serve(loaded, environ, writer, reloading, translates=translates))
    except PortBusyError as error:
        typer.echo(f"error: {error} (choose another with --port or --ops-listen)", err=True)
        return 1
    except ConfigError as error:
        raise _told(error) from None
    finally:
        writer.close()


async def _serve(
    loaded: Loaded,
    environ: Mapping[str, str],
    writer: log.LogWriter,
    reloading: Callable[[Tidegate, Mocks], Reloads],
    *,
    translates: bool,
) -> int:
    logger = structlog.get_logger()
    limit = raise_nofile_limit()
    for note in loaded.notes:
        logger.info("note", about=note)
    for warning in warnings(loaded.config, limit):
        logger.warning("unwise", about=warning)
    through, behind = proxies(loaded.config, environ), Mocks()
    try:
        config = await behind.behind(loaded.config)
        stop = Stop(lambda: writer.close(0.2))
        tidegate = Tidegate(config, through, withheld=loaded.secrets, translates=translates, shut_down=stop.ask)
        tidegate.metrics.watch_dropped_lines(lambda: writer.dropped)
        reloads = reloading(tidegate, behind)
        port, ops_port = await tidegate.start(shared=True, ops_moves=loaded.ops_moves)
        settle()
        logger.info("serving", host=config.server.host, port=port, ops_port=ops_port, version=__version__)
        for about in _own_places(config, port):
            logger.info("note", about=about)
        await stop.event.wait()
        logger.info("draining", exchanges=len(tidegate.gateway))
        await reloads.close()
        await tidegate.stop(delay_s=0.0 if stop.hurried else None)
    finally:
        await behind.close()
    logger.info("stopped")
    return 0


def _own_places(config: Config, port: int) -> Iterator[str]:
    """Say where models of our own are asked, to who has just started one."""
    own = {provider.name for provider in config.providers if provider.kind == "local"}
    names = [model.name for model in config.models if any(target.provider in own for target in model.targets)]
    host = f"[{config.server.host}]" if ":" in config.server.host else config.server.host
    scheme = "https" if config.server.tls.cert else "http"
    for name in names:
        place = f"{scheme}://{host}:{port}" + (f"/v1/models/{name}" if len(names) > 1 else "")
        yield f"{name} is ready when its worker is: POST {place}/predictions (schema: {place}/openapi.json)"


def settle() -> None:
    """Tell the collector that what is here now stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)


def serve_mock(host: str, port: int, seed: int) -> int:
    """Serve the mock until a signal; gives the exit code."""
    raise_nofile_limit()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(_serve_mock(host, port, seed))
    except OSError as error:
        typer.echo(
            f"error: cannot listen on {host}:{port}: {error.strerror or error} (choose another with --port)", err=True
        )
        return 1
    return 0


async def _serve_mock(host: str, port: int, seed: int) -> None:
    mock = MockProvider(seed)
    bound = await mock.start(host, port)
    settle()
    stop = Stop(lambda: None)
    typer.echo(f"mock provider on http://{host}:{bound}/v1 (tidegate mock --knobs lists what a request can ask for)")
    await stop.event.wait()
    await mock.close()
