"""Fetches files whose URLs are inputs, into a folder that somebody else owns and empties."""

import asyncio
import os
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from tidegate.hooks.addresses import GuardError, PrivateError, checked
from tidegate.hooks.guard import Door, reason
from tidegate.hooks.settings import FileSettings
from tidegate.hooks.turns import Turns
from tidegate.kernel.allowance import Allowance

AT_A_TIME: Final = 32
OF_A_HOST: Final = 8
"""Of those at a time, so many of one host: files of a prediction are often on the same."""
CHUNK_BYTES: Final = 256 * 1024
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SUFFIX: Final = re.compile(r"(?:\.tar)?\.[A-Za-z0-9]{1,11}\Z")


class Files:
    """Fetches files. Holds: at most AT_A_TIME connections, OF_A_HOST to one, and CHUNK_BYTES of each file; `resolver` is the system's."""

    def __init__(self, settings: FileSettings, *, agent: str, resolver: AbstractResolver | None = None) -> None:
        self._settings = settings
        self._turns = Turns(AT_A_TIME, OF_A_HOST)
        self._door = Door(agent=agent, allow_private=settings.allow_private, connections=AT_A_TIME, resolver=resolver)

    async def fetch(self, url: str, directory: Path, allowance: Allowance) -> tuple[Path | None, str]:
        """Store what a URL leads to in a new file; gives its path, or else a sentence that says why not.

        Shape: the sentence has the host at most of the URL.
        Holds: nothing on the disk unless a path is given.
        """
        try:
            first = checked(url, allow_private=self._settings.allow_private)
        except GuardError as error:
            return None, f"A file cannot be fetched: {_worded(error)}."
        try:
            # Its time begins with its turn: how long others take is not its fault.
            async with self._turn(f"{first.host}:{first.port}", allowance), _timed(allowance):
                path = directory / f"{secrets.token_hex(8)}{suffix_of(first)}"
                await self._follow(first, path, allowance)
                return path, ""
        except GuardError as error:
            why = _worded(error)
        except (TimeoutError, aiohttp.ClientError) as error:
            why = reason(error)
        except OSError:
            why = "it cannot be stored"
        return None, f"The file at {first.host} cannot be fetched: {why}."

    @asynccontextmanager
    async def _turn(self, host: str, allowance: Allowance) -> AsyncIterator[None]:
        """Give the scope of one fetch from a host. Errors: GuardError when no place came in the time there is for that."""
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            began = loop.time()
            try:
                async with asyncio.timeout(allowance.line_s):
                    await stack.enter_async_context(self._turns.turn(host))
            except TimeoutError:
                raise GuardError("too many other files are being fetched") from None
            finally:
                allowance.stand(loop.time() - began)
            yield

    async def close(self) -> None:
        """Cut the fetches that run, each of which says so."""
        await self._door.close()

    async def _follow(self, url: URL, path: Path, allowance: Allowance) -> None:
        for _ in range(self._settings.max_redirects + 1):
            async with self._door.session().get(url, allow_redirects=False) as response:
                if response.status not in REDIRECTS:
                    await self._store(response, path, allowance)
                    return
                url = self._next(url, response.headers.get("location", ""))
        raise GuardError(f"it is redirected more than {self._settings.max_redirects} times")

    def _next(self, url: URL, location: str) -> URL:
        try:
            joined = str(url.join(URL(location)))
        except ValueError as error:
            raise GuardError("it is redirected to what is not a URL") from error
        target = checked(joined, allow_private=self._settings.allow_private)
        if url.scheme == "https" and target.scheme != "https":
            raise GuardError("it is redirected from https to http")
        return target

    async def _store(self, response: aiohttp.ClientResponse, path: Path, allowance: Allowance) -> None:
        if response.status != 200:
            raise GuardError(f"the answer has the status {response.status}")
        # Of an encoded body this is less than it will be.
        _check(allowance, response.content_length or 0)
        with _Partial(path) as partial:
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                _check(allowance, partial.size + len(chunk))
                await partial.write(chunk)
            await partial.done()
        allowance.take(partial.size)


class _Partial:
    """A file that is removed unless it is done. Holds: one descriptor."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BufferedWriter
        self._whole = False
        self.size = 0

    def __enter__(self) -> Self:
        # Here and not in a thread: one that is cancelled would make the file after it had been removed.
        # A chunk is at most as large as the buffer, so that nearly each write is one to the disk.
        self._file = BufferedWriter(FileIO(self._path, "xb", opener=_private), CHUNK_BYTES)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._whole:
            # What it says of bytes that are thrown away must not take the place of the reason.
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    async def write(self, chunk: bytes) -> None:
        """Write a part, in a thread where it reaches the disk. Shape: the buffer is as large as the largest part."""
        self.size += len(chunk)
        await asyncio.to_thread(self._file.write, chunk)

    async def done(self) -> None:
        """Write what is left and close it; from now on the file stays."""
        await asyncio.to_thread(self._file.close)
        self._whole = True


@asynccontextmanager
async def _timed(allowance: Allowance) -> AsyncIterator[None]:
    """Give a scope that lasts no longer than what is left, and takes from it. Errors: TimeoutError."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout(allowance.left_s):
            yield
    finally:
        allowance.spend(loop.time() - began)


def _check(allowance: Allowance, size: int) -> None:
    try:
        allowance.check(size)
    except ValueError as error:
        raise GuardError(str(error)) from None


def _worded(error: GuardError) -> str:
    """Say why, and which setting would allow it."""
    return f"{error} (predictions.files.allow_private allows it)" if isinstance(error, PrivateError) else str(error)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def suffix_of(url: URL) -> str:
    """Give the suffix of a URL's last segment, if it is a plain one: handlers and libraries judge files by it."""
    match = _SUFFIX.search(unquote(url.raw_name))
    return match[0] if match is not None else ""
