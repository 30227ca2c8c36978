"""The gateway's end of the socket to one worker: messages out, messages in."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol, cast

import msgspec

from tidegate.worker.messages import MAX_MESSAGE_BYTES, FromWorker, ToWorker

LENGTH_BYTES: Final = 4

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(FromWorker).decode


class Hearing(Protocol):
    """Who hears what a worker says."""

    def heard(self, messages: list[FromWorker], /) -> None:
        """Take messages, in their order."""
        ...

    def garbled(self, why: str, /) -> None:
        """Take notice that the worker said what is no message; nothing is heard of it any more."""
        ...


class Link(asyncio.Protocol):
    """One connection. Holds: of what came, at most the beginning of one message; no task."""

    __slots__ = ("_buffer", "_hearing", "_lost", "_number", "_on_lost", "_paused", "_transport")

    def __init__(self, hearing: Hearing, on_lost: Callable[[], None]) -> None:
        self._hearing = hearing
        self._on_lost = on_lost
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._number = -1
        self._paused = False
        self._lost = False

    def send(self, message: ToWorker) -> None:
        """Say something. Shape: nothing happens once the connection is lost."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        packed = _encode(message)
        data = len(packed).to_bytes(LENGTH_BYTES, "big") + packed
        if not transport.get_write_buffer_size():
            # At once, so that the worker begins while we go on: uvloop's transport waits for the end of the loop's turn.
            with suppress(OSError):  # the transport meets it too
                data = data[os.write(self._number, data) :]
        if data:
            transport.write(data)

    def pause(self) -> None:
        """Hear nothing for now."""
        if self._transport is not None and not self._lost and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Hear again."""
        if self._transport is not None and not self._lost and self._paused:
            self._paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._number = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        """Take bytes; messages that are whole are heard together."""
        if self._lost:
            return
        buffer, messages, why = self._buffer, list[FromWorker](), ""
        buffer += data
        while len(buffer) >= LENGTH_BYTES:
            length = int.from_bytes(buffer[:LENGTH_BYTES], "big")
            if length > MAX_MESSAGE_BYTES:
                why = f"a message of {length} bytes"
                break
            end = LENGTH_BYTES + length
            if len(buffer) < end:
                break
            try:
                messages.append(_decode(memoryview(buffer)[LENGTH_BYTES:end]))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                why = "bytes that are no message"
                break
            del buffer[:end]  # a bytearray remembers where it begins: what follows is seldom moved
        if messages:
            self._hearing.heard(messages)
        if why:
            self._lost = True
            buffer.clear()
            self.close()
            self._hearing.garbled(f"the worker sent {why}")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (why does not matter: its process is judged)
        """Take notice that nothing comes any more."""
        self._lost = True
        self._on_lost()
