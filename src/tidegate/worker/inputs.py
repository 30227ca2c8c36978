"""Inputs that are files: what a client says in their place is fetched or decoded, and never taken for a path."""

import asyncio
import base64
import binascii
import mimetypes
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw

from tidegate.kernel.allowance import Allowance
from tidegate.tasks import off_loop
from tidegate.worker.messages import INPUT_ERROR
from tidegate.worker.scratch import Scratch
from tidegate.worker.service import Fetching

MAX_FILES: Final = 256
"""Files of one prediction."""

T = TypeVar("T")

_read_object = msgspec.json.Decoder(dict[str, Raw]).decode
_said_decoder: Final[msgspec.json.Decoder[str | list[str] | None]] = msgspec.json.Decoder(str | list[str] | None)
_write = msgspec.json.Encoder().encode


class InputError(Exception):
    """An input that is no file. Holds: a sentence for the client that names it."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(why)
        self.message = f"{INPUT_ERROR}{name}: {why}"


class InputFiles:
    """The files of one prediction, within what all together may take.

    Holds: a directory from the first file on, until `remove`; a thread that writes into it.
    """

    def __init__(self, fetch: Fetching | None) -> None:
        self._fetch = fetch
        self._allowance = Allowance() if fetch is None else fetch.allowance()
        self._directory: Scratch | None = None
        self._count = 0
        self._writing: asyncio.Future[Any] | None = None

    @property
    def held(self) -> bool:
        """Whether there is anything to remove."""
        return self._directory is not None

    async def take(self, given: bytes, names: Sequence[str]) -> tuple[bytes, dict[str, list[str]]]:
        """Make files of the inputs of these names.

        Shape: the input with empty texts in their place, and their paths by name. Errors: InputError.
        """
        files: dict[str, list[str]] = {}
        members = await off_loop(len(given), lambda: _members(given)) if names else {}
        for name in names:
            said = _said(name, members.get(name))
            if said is None:
                continue
            texts = [said] if isinstance(said, str) else said
            files[name] = [str(await self._file(name, text)) for text in texts]
            members[name] = Raw(_write("" if isinstance(said, str) else [""] * len(said)))
        return (await off_loop(len(given), lambda: _write(members)) if files else given), files

    async def remove(self) -> None:
        """Remove all of them."""
        directory, self._directory = self._directory, None
        if directory is None:
            return
        if self._writing is not None:  # no cancellation reaches a thread, and what it made after us would stay
            await asyncio.wait((self._writing,))
        await asyncio.to_thread(directory.remove)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Do it in a thread, which `remove` waits for."""
        writing = asyncio.get_running_loop().run_in_executor(None, work)
        self._writing = writing
        writing.add_done_callback(_seen)
        return await asyncio.shield(writing)

    async def _file(self, name: str, text: str) -> Path:
        scheme = text[:8].lower()
        if not scheme.startswith(("data:", "http://", "https://")):
            raise InputError(name, "expected an http(s) URL or a data URI")
        self._count += 1
        if self._count > MAX_FILES:
            raise InputError(name, f"there are more than {MAX_FILES} files")
        if self._directory is None:
            self._directory = Scratch("input")
        place = self._directory.path / str(self._count)
        if scheme.startswith("data:"):
            try:
                return await self._in_thread(lambda: _decode(text, place, self._allowance))
            except ValueError as error:
                raise InputError(name, str(error)) from None
        if self._fetch is None:
            raise InputError(name, "files are not fetched from URLs here")
        await self._in_thread(lambda: place.mkdir(0o700))
        file, why = await self._fetch.fetch(text, place, self._allowance)
        if file is None:
            raise InputError(name, why)
        return file


def _seen(writing: asyncio.Future[T]) -> None:
    """Take notice of what it raised, that nobody may have waited for."""
    if not writing.cancelled():
        writing.exception()


def _members(given: bytes) -> dict[str, Raw]:
    try:
        return _read_object(given)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InputError("input", "expected an object") from None


def _said(name: str, value: Raw | None) -> str | list[str] | None:
    if value is None:
        return None
    try:
        return _said_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InputError(name, "expected an http(s) URL or a data URI") from None


def _decode(uri: str, place: Path, allowance: Allowance) -> Path:
    """Write what a data URI holds into a file in a new directory. Errors: ValueError. Source: RFC 2397."""
    head, comma, data = uri[5:].partition(",")
    if not comma:
        raise ValueError("the data URI has no data")
    media, *parameters = head.split(";")
    coded = any(parameter.strip().lower() == "base64" for parameter in parameters)
    if coded and "%" in data:
        data = urllib.parse.unquote(data)
    # Before it is decoded: three bytes are four characters of base64, and one is three that begin with a per cent sign.
    allowance.check(len(data) // 4 * 3 - data[-2:].count("=") if coded else len(data) - 2 * data.count("%"))
    try:
        body = base64.b64decode(data, validate=True) if coded else urllib.parse.unquote_to_bytes(data)
    except (binascii.Error, ValueError):
        raise ValueError(f"the data URI is not valid {'base64' if coded else 'text'}") from None
    allowance.take(len(body))
    place.mkdir(0o700)
    # What the client calls its data decides over the ending alone, and that comes out of a table.
    file = place / f"file{mimetypes.guess_extension(media.strip().lower()) or ''}"
    file.write_bytes(body)
    return file
