"""A client that reads one stream after another as the tokens come, and knows when the first one did.

Blocking, on a plain socket, and cheap for each token: whoever wants many of them at a time brings threads, or greenlets,
and what the client itself needs is measured as if it were the gateway's.
"""

import socket
from collections.abc import Callable
from typing import Any, Final

import httptools
import msgspec
from msgspec import Struct

PATH: Final = "/v1/chat/completions"
READ_BYTES: Final = 65536
DONE: Final = b"data: [DONE]"


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


class _Error(Struct):
    code: str | None = None


class _Frame(Struct):
    choices: list[_Choice] = []
    error: _Error | None = None


class _Answer:
    """One answer as far as it was read. Shape: `body` is what nobody has taken yet."""

    def __init__(self) -> None:
        self.parser: Any = httptools.HttpResponseParser(self)
        self.body = b""
        self.whole = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.whole = True


class Streamer:
    """One client. Holds: a connection, kept from stream to stream, until `close`."""

    def __init__(self, host: str, port: int, clock: Callable[[], float], timeout_s: float = 30.0) -> None:
        self._address = host, port
        self._timeout_s = timeout_s
        self._clock = clock
        self._decode = msgspec.json.Decoder(_Frame).decode
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Let the connection go."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def stream(self, body: dict[str, Any], seen: Streamed, on_first: Callable[[Streamed], None]) -> None:
        """Read one stream to its end into `seen`; `on_first` is told when the first token is there.

        Errors: StreamFailedError for another status than 200, an error frame, no token, no end, a broken connection.
        """
        seen.began_at = self._clock()
        try:
            self._read(self._ask(msgspec.json.encode(body)), seen, on_first)
        except (OSError, httptools.HttpParserError, msgspec.DecodeError) as error:
            self.close()
            raise StreamFailedError(type(error).__name__) from error
        except StreamFailedError:
            self.close()  # what it has not read yet is of no use to the next stream
            raise
        finally:
            seen.ended_at = self._clock()

    def _ask(self, body: bytes) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, self._timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = self._address
        head = (
            f"POST {PATH} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)
        return self._socket

    def _read(self, connection: socket.socket, seen: Streamed, on_first: Callable[[Streamed], None]) -> None:
        answer, done = _Answer(), False
        while not answer.whole:
            data = connection.recv(READ_BYTES)
            if not data:
                raise StreamFailedError("connection closed")
            answer.parser.feed_data(data)
            *frames, answer.body = answer.body.split(b"\n\n")
            for frame in frames:
                done = done or frame == DONE
                if not done and frame.startswith(b"data: "):
                    self._note(self._decode(frame[6:]), seen, on_first)
        self._judge(answer.parser.get_status_code(), seen, done=done)

    def _note(self, frame: _Frame, seen: Streamed, on_first: Callable[[Streamed], None]) -> None:
        if frame.error is not None:
            raise StreamFailedError(f"error frame: {frame.error.code}")
        if any(choice.delta.content for choice in frame.choices):
            seen.last_at = self._clock()
            seen.tokens += 1
            if seen.tokens == 1:
                seen.first_at = seen.last_at
                on_first(seen)

    @staticmethod
    def _judge(status: int, seen: Streamed, *, done: bool) -> None:
        """Find fault with an answer that is whole. Errors: StreamFailedError."""
        if status != 200:
            raise StreamFailedError(f"status {status}")
        if not seen.tokens:
            raise StreamFailedError("no token")
        if not done:
            raise StreamFailedError("no [DONE]")
