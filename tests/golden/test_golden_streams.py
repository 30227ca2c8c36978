"""Every golden stream of every provider, cut anywhere, told to the clients of every dialect: the cuts change nothing.

What clients get is checked by rules written here from each API's reference, not by the code that wrote it.
"""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec import Struct, structs

from conversing import check_grammar
from mutations import mutated
from tidegate.dialect import Dialect, ProviderDialect
from tidegate.dialect.anthropic import Anthropic, AnthropicOnBedrock
from tidegate.dialect.bedrock import BedrockConverse, InvokeFramer
from tidegate.dialect.events import Event, Origin, ProviderError, ToolArguments
from tidegate.dialect.gemini import Gemini
from tidegate.dialect.ollama import Ollama
from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.openai_responses import OpenAIResponses
from tidegate.exchange import Ask
from tidegate.relay.meter import Meter
from tidegate.relay.translate import Translator
from tidegate.wire import Framed, FrameError, FramerOf
from tidegate.wire.eventstream import EventStreamFramer, Message, encode
from tidegate.wire.jsonarray import JsonArrayFramer
from tidegate.wire.ndjson import NdjsonFramer
from tidegate.wire.sse import SseFramer

ROOT: Final = Path(__file__).parent
ASK: Final = Ask(model="m", stream=True, wants_usage=True, body=b"{}")
CUT_OFF: Final = ProviderError("the provider's stream ended too early", code="upstream_truncated")


class Golden(Struct, frozen=True):
    """One stream of a provider's, and how it is read. Shape: one of the `ends` is in it wherever it is complete."""

    stream: bytes
    framer: Callable[[], FramerOf[Framed]]
    dialect: ProviderDialect
    ends: tuple[bytes, ...]


def goldens() -> dict[str, Golden]:
    """Give every golden stream by its name; what is no stream (Anthropic's whole bodies) is read elsewhere."""
    messages = (Anthropic(), (b"message_stop",))
    google = (Gemini(), (b"finishReason", b"blockReason"))
    kinds: list[tuple[str, Callable[[], FramerOf[Framed]], tuple[ProviderDialect, tuple[bytes, ...]]]] = [
        ("anthropic/*.sse", SseFramer, messages),
        ("bedrock/[!i]*.bin", EventStreamFramer, (BedrockConverse(), (b"messageStop",))),
        ("bedrock/internal.bin", EventStreamFramer, (BedrockConverse(), (b"messageStop",))),
        ("bedrock/invoke*.bin", InvokeFramer, (AnthropicOnBedrock(), (b"eyJ0eXBlIjoibWVzc2FnZV9zdG9w",))),
        ("gemini/*.sse", SseFramer, google),
        ("gemini/*.json", JsonArrayFramer, google),
        ("ollama/*.ndjson", NdjsonFramer, (Ollama(), (b'"done":true',))),
        ("openai/*.sse", SseFramer, (OpenAIChat(), (b'finish_reason":"', b'finish_reason": "'))),
        ("openai_responses/*.sse", SseFramer, (OpenAIResponses(), (b"response.completed", b"response.incomplete"))),
    ]
    return {
        str(path.relative_to(ROOT)): Golden(path.read_bytes(), framer, *read)
        for pattern, framer, read in kinds
        for path in sorted(ROOT.glob(pattern))
    }


GOLDENS: Final = goldens()
FAILED: Final = {
    *("anthropic/error.sse", "bedrock/broken.bin", "bedrock/internal.bin", "bedrock/throttled.bin"),
    *("bedrock/invoke_throttled.bin", "gemini/broken.sse", "gemini/overloaded.sse", "gemini/error.json"),
    *("gemini/overloaded.json", "ollama/error.ndjson", "openai/error.sse", "openai/openrouter-error.sse"),
    *("openai/vllm-error.sse", "openai_responses/error.sse", "openai_responses/error_first.sse"),
    *("openai_responses/failed.sse", "ollama/load.ndjson"),
}
"""What ends in the provider's own error."""
CUT_SHORT: Final = {"ollama/truncated.ndjson"}
"""What just ends."""


# --- what a client may expect ----------------------------------------------------------------------------------------


def frames_in(written: bytes) -> list[tuple[str, Any]]:
    """Give names and data of server-sent events, each of which has one line of either at most."""
    assert not written or written.endswith(b"\n\n")
    found = []
    for block in written.decode().split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        assert lines.keys() <= {"event", "data"}
        found.append(
            (lines.get("event", ""), lines["data"] if lines["data"] == "[DONE]" else json.loads(lines["data"]))
        )
    return found


def check_chat(written: bytes, *, complete: bool) -> None:
    """Check the order of a chat completion: each choice begins once and ends once; nothing follows the last frame."""
    *said, (_, last) = frames_in(written)
    assert (last == "[DONE]") is complete
    assert complete or last["error"]["message"]
    assert all(data["object"] == "chat.completion.chunk" and "error" not in data for _, data in said)
    assert len({(data["id"], data["model"], data["created"]) for _, data in said}) <= 1
    choices = [choice for _, data in said for choice in data["choices"]]
    seen = {choice["index"] for choice in choices}
    for index in seen:
        deltas = [choice["delta"] for choice in choices if choice["index"] == index]
        reasons = [choice["finish_reason"] for choice in choices if choice["index"] == index]
        assert ["role" in delta for delta in deltas] == [True, *[False] * (len(deltas) - 1)]
        assert complete <= bool(reasons[-1])
        assert not any(reasons[:-1])
        check_calls([call for delta in deltas for call in delta.get("tool_calls", ())], reasons[-1])
    assert seen or not complete


def check_calls(pieces: Sequence[dict[str, Any]], reason: str | None) -> None:
    """Check that calls begin in order, each once with its id and name, and that each is whole where the choice is."""
    begun = [piece for piece in pieces if "id" in piece]
    assert [piece["index"] for piece in begun] == list(range(len(begun)))
    assert all(piece["id"] and piece["function"]["name"] for piece in begun)
    for number in range(len(begun) if reason == "tool_calls" else 0):
        joined = "".join(piece["function"]["arguments"] for piece in pieces if piece["index"] == number)
        assert isinstance(json.loads(joined), dict)


def check_messages(written: bytes, *, complete: bool) -> None:
    """Check the order of a message: it starts once, one block after the other is open, it stops or fails."""
    said = frames_in(written)
    assert all(name == data["type"] for name, data in said)
    names = [name for name, _ in said if name != "ping"]
    assert names.count("message_start") == (names[0] == "message_start")
    assert complete <= (names[0] == "message_start")
    assert names[-1] == ("message_stop" if complete else "error")
    assert (names.count("message_stop"), names.count("error")) == (complete, not complete)
    assert names.count("message_delta") == (names[-2:-1] == ["message_delta"])
    assert complete <= (names[-2:-1] == ["message_delta"])
    called = any(data["delta"]["stop_reason"] == "tool_use" for name, data in said if name == "message_delta")
    inside, count, arguments = False, 0, ""
    for name, data in said:
        if not name.startswith("content_block"):
            assert not inside or name in {"error", "ping"}
            continue
        assert inside is (name != "content_block_start")
        assert data["index"] == count
        inside = name != "content_block_stop"
        arguments += data.get("delta", {}).get("partial_json", "")
        if not inside:
            count += 1
            assert not called or isinstance(json.loads(arguments or "{}"), dict)
            arguments = ""


def check_responses(written: bytes, *, complete: bool) -> None:
    """Check the order of a response: numbers without a gap, items that begin and end once, one last word."""
    said = frames_in(written)
    assert all(name == data["type"] for name, data in said)
    assert [data["sequence_number"] for _, data in said] == list(range(len(said)))
    names = [name for name, _ in said]
    assert names[0] == "response.created"
    assert names.count("response.created") == 1
    assert (names[-1] in {"response.completed", "response.incomplete"}) is complete
    assert (names[-1] in {"response.failed", "error"}) is not complete
    ends = {"response.completed", "response.incomplete", "response.failed", "error"}
    assert len(ends.intersection(names)) == 1
    opened = [data["output_index"] for name, data in said if name == "response.output_item.added"]
    closed = [data["output_index"] for name, data in said if name == "response.output_item.done"]
    assert opened == list(range(len(opened)))
    assert sorted(closed) == opened if complete else set(closed) <= set(opened)
    for name, data in said:
        if name == "response.function_call_arguments.done":
            pieces = [one["delta"] for word, one in said if word == name.replace("done", "delta") and one["output_index"] == data["output_index"]]  # fmt: skip
            assert "".join(pieces) == data["arguments"]
            assert names[-1] != "response.completed" or isinstance(json.loads(data["arguments"]), dict)


Check = Callable[..., None]
CLIENTS: Final[dict[str, tuple[Dialect, Check]]] = {
    "chat": (OpenAIChat(), check_chat),
    "messages": (Anthropic(), check_messages),
    "responses": (OpenAIResponses(), check_responses),
}
every_golden = pytest.mark.parametrize("name", GOLDENS)
every_client = pytest.mark.parametrize("client", CLIENTS)


# --- replaying -------------------------------------------------------------------------------------------------------


def replayed(golden: Golden, client: Dialect, pieces: Iterable[bytes]) -> tuple[bytes, Meter]:
    """Give what the relay tells a client of a stream that comes in pieces, and what it learned of it."""
    meter = Meter(client, strips_usage=False)
    origin = Origin("req-1", "m", 1, golden.dialect.name)
    decoder, encoder = golden.dialect.decoder(ASK), client.encoder(ASK, origin)
    translator = Translator(golden.framer(), decoder, encoder, meter)
    written = b"".join([translator.take(piece) for piece in pieces if not (meter.done or meter.error)])
    if not (meter.done or meter.error):
        written += translator.finish()
    if not meter.done:
        written += translator.fail(meter.error or CUT_OFF)
    assert meter.unreadable == ""
    return written, meter


def whole(golden: Golden, client: Dialect) -> bytes:
    return replayed(golden, client, [golden.stream])[0]


def test_every_golden_file_is_replayed_or_is_no_stream() -> None:
    files = {str(path.relative_to(ROOT)) for path in ROOT.glob("*/*.*") if "__pycache__" not in path.parts}
    bodies = {"anthropic/error.json", "anthropic/message.json"}
    assert files - GOLDENS.keys() - bodies == {name.replace(".bin", ".jsonl") for name in GOLDENS if ".bin" in name}
    assert GOLDENS.keys() >= FAILED | CUT_SHORT


@every_client
@every_golden
def test_a_client_reads_a_stream_of_its_own_dialect_whole_and_in_order(name: str, client: str) -> None:
    dialect, check = CLIENTS[client]
    written, meter = replayed(GOLDENS[name], dialect, [GOLDENS[name].stream])
    assert meter.done is (name not in FAILED | CUT_SHORT)
    assert (meter.error is not None) is (name in FAILED)
    check(written, complete=meter.done)


@every_client
@every_golden
def test_a_byte_at_a_time_says_the_same(name: str, client: str) -> None:
    golden, dialect = GOLDENS[name], CLIENTS[client][0]
    pieces = [golden.stream[at : at + 1] for at in range(len(golden.stream))]
    assert replayed(golden, dialect, pieces)[0] == whole(golden, dialect)


@every_client
@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
@pytest.mark.parametrize("name", [name for name in GOLDENS if name.endswith(".sse")])
def test_line_ends_of_any_kind_say_the_same(name: str, end: bytes, client: str) -> None:
    golden, dialect = GOLDENS[name], CLIENTS[client][0]
    stream = golden.stream.replace(b"\r\n", b"\n").replace(b"\n", end)
    assert replayed(golden, dialect, [stream])[0] == whole(golden, dialect)
    assert replayed(golden, dialect, [stream[at : at + 5] for at in range(0, len(stream), 5)])[0] == whole(golden, dialect)  # fmt: skip


@pytest.mark.slow
@every_client
@every_golden
def test_a_stream_cut_in_two_anywhere_says_the_same(name: str, client: str) -> None:
    """Small ones at every byte, others every few; between frames and inside of characters is covered by both."""
    golden, dialect = GOLDENS[name], CLIENTS[client][0]
    expected, size = whole(golden, dialect), len(golden.stream)
    for at in range(1, size, 1 + size // 2000 * 6):
        assert replayed(golden, dialect, [golden.stream[:at], golden.stream[at:]])[0] == expected, at


@every_client
@every_golden
def test_a_stream_that_ends_after_any_frame_is_complete_only_where_it_said_so(name: str, client: str) -> None:
    golden, (dialect, check) = GOLDENS[name], CLIENTS[client]
    framer, seen = golden.framer(), b""
    for frame in [*framer.feed(golden.stream), *framer.finish()]:
        written, meter = replayed(golden, dialect, [seen])
        check(written, complete=meter.done)
        assert not meter.done or any(end in seen for end in golden.ends)
        seen += frame.raw


# --- streams that are not what they were -----------------------------------------------------------------------------


class Line(Struct, eq=False):
    """A frame that is its data."""

    raw: bytes

    @property
    def data(self) -> bytes:
        return self.raw


def changed(frames: Sequence[Framed], rng: random.Random) -> list[Framed]:
    """Give frames of which some are changed, left out, or there twice."""
    found: list[Framed] = []
    for frame in frames:
        if rng.random() < 0.7 or not (frame.data or b"").startswith(b"{"):
            found.append(frame)
            continue
        data = json.dumps(mutated(json.loads(frame.data or b"{}"), rng)).encode()
        other = Message(encode(frame.headers, data)) if isinstance(frame, Message) else Line(data)
        found += [other] * rng.choice((0, 1, 1, 1, 2))
    return found


@every_golden
def test_whatever_is_in_a_frame_is_read_within_the_grammar_or_refused_and_can_be_told(name: str) -> None:
    rng = random.Random(name)
    frames = [*GOLDENS[name].framer().feed(GOLDENS[name].stream)]
    for number in range(60):
        own = number % 2 or isinstance(frames[0], Message)
        dialect = GOLDENS[name].dialect if own else rng.choice([golden.dialect for golden in GOLDENS.values()])
        events = events_of(dialect, changed(frames, rng))
        # What a call is given is the model's business, and may be no JSON here.
        check_grammar([structs.replace(event, fragment="1") if isinstance(event, ToolArguments) else event for event in events])  # fmt: skip
        for client, _ in CLIENTS.values():
            encoder = client.encoder(ASK, Origin("r", "m", 1, dialect.name))
            for event in events:
                encoder.write((event,))


def events_of(dialect: ProviderDialect, frames: Sequence[Framed]) -> list[Event]:
    """Give what frames say up to the first that cannot be read, or to the stream's last word."""
    decoder, events = dialect.decoder(ASK), list[Event]()
    try:
        for frame in frames:
            events += decoder.feed(frame)
            if events and type(events[-1]).__name__ in {"Done", "Failed"}:
                return events
        return [*events, *decoder.finish()]
    except FrameError:
        return events
