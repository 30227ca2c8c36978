"""The shortcut for plain frames: whatever is sent and however it is cut, nobody can tell that it was taken."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, cast

from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import structs

from tidegate.dialect.anthropic import Anthropic
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.exchange import Ending, Plain, Sink, Usage
from tidegate.relay.relay import Relay, RelayRules
from tidegate.testing.memory import MemoryClient, MemorySource, open_stream
from tidegate.testing.upstream import HEAD, LAST, chunk
from tidegate.upstream.connection import UpstreamConnection
from tidegate.verdict import CLIENT_GONE
from tidegate.wire.sse import SseFramer

RULES = RelayRules(
    dialect=OpenAIChat(), framer=SseFramer, clock=time.monotonic, heartbeat_s=15, slow_client_s=30, finishes=False
)


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def token(text: str, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None, **more}
    return event({"id": "c", "model": "m", "choices": [choice], "usage": None})


FINISH = token("", finish_reason="stop")
TWO = event(
    {
        "id": "c",
        "model": "m",
        "choices": [
            {"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"},
            {"index": 0, "delta": {"content": "b"}, "logprobs": None, "finish_reason": None},
        ],
        "usage": None,
    }
)
USAGE = event({"id": "c", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
ERROR = event({"error": {"message": "no", "code": "x"}})
DONE = b"data: [DONE]\n\n"

words = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ['"', "\\", '"finish_reason":"stop"', "x" * 300]
)
frames = st.lists(
    words.map(token) | st.sampled_from([TWO, FINISH, USAGE, ERROR, b": note\n\n", token("a", extra={"error": {}})]),
    max_size=12,
)
cuts = st.lists(st.integers(1, 400), max_size=30)


class CodedClient(MemoryClient):
    """A client whose answer is sent in chunks: what passes by must be one whole chunk."""

    passed = 0

    def coded(self) -> Callable[[bytes], None] | None:
        return self.take_chunk if self.written else None

    def take_chunk(self, data: bytes) -> None:
        size, _, rest = data.partition(b"\r\n")
        payload = rest[:-2]
        assert rest.endswith(b"\r\n")
        assert int(size, 16) == len(payload)
        self.passed += 1
        self.written.append(payload)


class Wire:
    """A transport that takes everything."""

    def write(self, data: bytes) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def abort(self) -> None:
        pass


class Provider(MemorySource):
    """A source in front of a real connection, which is fed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self._buffer = bytearray(64 * 1024)
        self.connection = UpstreamConnection(self._buffer, lambda _: None)
        self.connection.connection_made(cast("asyncio.Transport", Wire()))

    def attach(self, sink: Sink, /) -> None:
        self.connection.send(b"", sink)

    def divert(self, plain: Plain | None, /) -> None:
        self.connection.divert(plain)

    def feed(self, data: bytes) -> None:
        self._buffer[: len(data)] = data
        self.connection.buffer_updated(len(data))


def facts(relay: Relay, client: MemoryClient) -> tuple[object, ...]:
    outcome = relay._outcome
    return (
        b"".join(client.written),
        client.aborted,
        outcome.ending and outcome.ending.verdict.code,
        outcome.usage,
        outcome.finish_reason,
        outcome.flowing.frames,
        outcome.flowing.bytes_out,
    )


def relayed(reads: list[bytes], client: MemoryClient, rules: RelayRules = RULES) -> tuple[object, ...]:
    """Relay what a provider's connection reads."""

    async def work() -> tuple[object, ...]:
        source = Provider()
        stream = open_stream(source, time.monotonic())
        relay = Relay(client, stream, stream.attempt.admitted.arrival.outcome, rules)
        source.attach(relay)
        for read in reads:
            source.feed(read)
            if relay._closed:
                break
        relay.end(Ending(CLIENT_GONE))
        return facts(relay, client)

    return asyncio.run(work())


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [piece for piece in [*pieces, data[at:]] if piece]


@settings(max_examples=300, deadline=None)
@given(frames)
@example([token("a"), token("b"), TWO])
def test_each_frame_in_a_read_of_its_own_reads_the_same_with_the_shortcut(sent: list[bytes]) -> None:
    reads = [HEAD, *(chunk(frame) for frame in [token("first"), token("second"), *sent, DONE]), LAST]
    assert relayed(reads, CodedClient()) == relayed(reads, MemoryClient())


@settings(max_examples=300, deadline=None)
@given(frames, cuts, cuts)
def test_any_chunks_and_any_reads_give_the_same_with_the_shortcut(
    sent: list[bytes], chunks: list[int], reads: list[int]
) -> None:
    payload = b"".join([token("first"), token("second"), *sent, DONE])
    wire = HEAD + b"".join(map(chunk, cut(payload, chunks))) + LAST
    assert relayed(cut(wire, reads), CodedClient()) == relayed(cut(wire, reads), MemoryClient())


def test_plain_frames_do_pass_by() -> None:
    client = CodedClient()
    relayed([HEAD, *(chunk(token(f"word {number}")) for number in range(20)), chunk(DONE), LAST], client)
    assert client.passed == 19


def test_a_frame_with_more_than_text_in_the_middle_does_not_pass_by() -> None:
    client = CodedClient()
    seen = relayed([HEAD, chunk(token("a")), chunk(TWO), chunk(DONE), LAST], client)
    assert client.passed == 0
    assert seen[4] == "stop"


def test_a_size_line_that_was_begun_keeps_the_next_read_from_passing_by() -> None:
    # The first digit of 0x1.. came with the read before: what follows looks like a whole chunk and is none.
    frame = token("b")
    assert 0x10 < len(frame) < 0x100
    client = CodedClient()
    head, tail = b"1", b"%02x\r\n" % len(frame) + frame + b"\r\n"
    relayed([HEAD, chunk(token("a")) + head, tail], client)
    assert client.passed == 0


# --- the same for a dialect whose frames have two lines ----------------------------------------------------------------

MESSAGES = structs.replace(RULES, dialect=Anthropic())


def named(kind: str, **members: object) -> bytes:
    value = json.dumps({"type": kind, **members}, ensure_ascii=False, separators=(",", ":"))
    return f"event: {kind}\ndata: {value}\n\n".encode()


def piece(text: str, **more: object) -> bytes:
    return named("content_block_delta", index=0, delta={"type": "text_delta", "text": text}, **more)


BEGUN = named("message_start", message={"id": "m", "usage": {"input_tokens": 5, "output_tokens": 1}})
ENDED = named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 9}) + named("message_stop")
pieces = st.lists(
    words.map(piece)
    | words.map(lambda text: piece(text).replace(b"}}", b"}   }"))
    | st.sampled_from([named("ping"), named("content_block_stop", index=0), piece("a", extra=1), b": note\n\n", ENDED]),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(pieces, cuts, cuts)
def test_messages_arrive_byte_for_byte_with_the_shortcut(
    sent: list[bytes], chunks: list[int], reads: list[int]
) -> None:
    frames = [BEGUN, piece("first"), piece("second"), *sent, ENDED]
    wires = (
        [HEAD, *(chunk(frame) for frame in frames), LAST],
        cut(HEAD + b"".join(map(chunk, cut(b"".join(frames), chunks))) + LAST, reads),
    )
    for wire in wires:
        seen = relayed(wire, CodedClient(), MESSAGES)
        assert seen == relayed(wire, MemoryClient(), MESSAGES)
        assert b"".join(frames).startswith(cast("bytes", seen[0]))


def test_plain_messages_do_pass_by() -> None:
    client = CodedClient()
    frames = [BEGUN, *(piece(f"word {number}") for number in range(20)), ENDED]
    seen = relayed([HEAD, *map(chunk, frames), LAST], client, MESSAGES)
    assert client.passed == 19
    assert seen[:5] == (b"".join(frames), False, "completed", Usage(5, 9), "stop")
