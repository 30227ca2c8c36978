"""A client that reads one stream after another as the tokens come, and knows when the first one did.

Blocking, on the standard library's HTTP: whoever wants many of them at a time brings threads, or greenlets.
"""

import http.client
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

PATH: Final = "/v1/chat/completions"
READ_BYTES: Final = 65536


class StreamFailedError(Exception):
    """A stream that nobody would be content with; the text says why in few words, so that failures can be counted."""


class Streamed(Struct):
    """What a stream came to so far. Shape: instants of the client's clock, 0.0 until they happen; `tokens` are frames with content."""

    began_at: float = 0.0
    first_at: float = 0.0
    last_at: float = 0.0
    ended_at: float = 0.0
    tokens: int = 0


class _Delta(Struct):
    content: str | None = None


class _Choice(Struct):
    delta: _Delta


class _Frame(Struct):
    choices: list[_Choice] = []
    error: msgspec.Raw | None = None


class _Error(Struct):
    code: str | None = None


class Streamer:
    """One client. Holds: a connection, kept from stream to stream, until `close`."""

    def __init__(self, host: str, port: int, clock: Callable[[], float], timeout_s: float = 30.0) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        self._clock = clock
        self._decode = msgspec.json.Decoder(_Frame).decode

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()

    def stream(self, body: dict[str, Any], seen: Streamed, on_first: Callable[[Streamed], None]) -> None:
        """Read one stream to its end into `seen`; `on_first` is told when the first token is there.

        Errors: StreamFailedError for another status than 200, an error frame, no token, no end, a broken connection.
        """
        seen.began_at = self._clock()
        try:
            for frame in self._frames(body):
                self._note(self._decode(frame), seen, on_first)
            if not seen.tokens:
                raise StreamFailedError("no token")
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
            self.close()
            raise StreamFailedError(type(error).__name__) from error
        except StreamFailedError:
            self.close()  # what it has not read yet is of no use to the next stream
            raise
        finally:
            seen.ended_at = self._clock()

    def _note(self, frame: _Frame, seen: Streamed, on_first: Callable[[Streamed], None]) -> None:
        if frame.error is not None:
            raise StreamFailedError(f"error frame: {msgspec.json.decode(frame.error, type=_Error).code}")
        if any(choice.delta.content for choice in frame.choices):
            seen.last_at = self._clock()
            seen.tokens += 1
            if seen.tokens == 1:
                seen.first_at = seen.last_at
                on_first(seen)

    def _frames(self, body: dict[str, Any]) -> Iterator[bytes]:
        """Give the data of each frame up to the terminal one. Errors: StreamFailedError, OSError, HTTPException."""
        self._connection.request("POST", PATH, msgspec.json.encode(body), {"content-type": "application/json"})
        response = self._connection.getresponse()
        if response.status != 200:
            response.read()
            raise StreamFailedError(f"status {response.status}")
        held = b""
        while data := response.read1(READ_BYTES):
            *frames, held = (held + data).split(b"\n\n")
            for frame in frames:
                if frame == b"data: [DONE]":
                    response.read()
                    return
                if frame.startswith(b"data: "):
                    yield frame[6:]
        raise StreamFailedError("no [DONE]")
