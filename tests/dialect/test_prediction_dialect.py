import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversing import check_grammar
from tidegate.dialect import Dialect, Notice, ProviderDialect, ProviderError, Sight
from tidegate.dialect.conversation import Conversation, Untranslatable
from tidegate.dialect.events import Done, Event, Failed, Finished, Started, Text, UsageSeen
from tidegate.dialect.prediction import Prediction, PredictionProvider, read_envelope, text_bytes, write_envelope
from tidegate.dialect.prediction.frames import (
    MAX_ERROR_CHARS,
    Completed,
    Metric,
    chunk_of,
    completed_frame,
    completed_of,
    error_frame,
    log_frame,
    metric_frame,
    metric_of,
    output_frame,
    read_frame,
    value_frame,
)
from tidegate.exchange import Ask, Usage
from tidegate.relay.meter import Meter
from tidegate.verdict import BAD_REQUEST, Refused
from tidegate.wire import Frame, FrameError
from tidegate.wire.sse import SseFramer

DIALECT: Dialect = Prediction()
PROVIDER: ProviderDialect = PredictionProvider("prompt", ())
BODY = write_envelope("river", "p1", b'{"prompt":"x"}', {"user": "ada"})
ASK = Ask(model="river", stream=True, wants_usage=True, body=b"b" * 40)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["chunk", "index", "a"]), inner),
    max_leaves=8,
)


def packed(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def read(*frames: bytes) -> list[Event]:
    """Give all events of a stream that ends after these frames."""
    decoder = PROVIDER.decoder(ASK)
    events = [event for frame in SseFramer().feed(b"".join(frames)) for event in decoder.feed(frame)]
    events += decoder.finish()
    check_grammar(events)
    return events


# --- frames ----------------------------------------------------------------------------------------------------------


@given(values, st.integers(min_value=0))
def test_an_output_is_found_in_its_frame_as_it_was_written(value: Any, index: int) -> None:
    for event, frame in ((b"output", output_frame(packed(value), index)), (b"value", value_frame(packed(value)))):
        name, data = read_frame(frame)
        assert (name, chunk_of(data)) == (event, packed(value))
        assert Frame(frame).event == event
        assert Frame(frame).data == data
    assert json.loads(read_frame(output_frame(packed(value), index))[1]) == {"chunk": value, "index": index}


@given(values)
def test_a_chunk_is_found_where_its_index_is_not_last(value: Any) -> None:
    assert chunk_of(b'{"index":7,"chunk":' + packed(value) + b"}") == packed(value)
    assert chunk_of(b'{"chunk":' + packed(value) + b"}") == packed(value)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"index":1}', b"[" * 10_000, b'{"chunk":'])
def test_data_without_a_chunk_is_no_output(data: bytes) -> None:
    with pytest.raises(FrameError, match="no chunk"):
        chunk_of(data)


@pytest.mark.parametrize(
    ("raw", "read_as"),
    [
        (b": keep-alive\n\n", (b"", b"")),
        (b"data: 1\n\n", (b"", b"1")),
        (b"event: log\n\n", (b"log", b"")),
        (b"event: log\r\ndata: 1\r\n\r\n", (b"log", b"1")),
        (b"event: log\nid: 4\ndata: 1\n\n", (b"log", b"1")),
        (b"event: log\ndata: 1\ndata: 2\n\n", (b"log", b"1\n2")),
        (b"event:log\ndata:1\n\n", (b"log", b"1")),
    ],
)
def test_a_frame_that_looks_otherwise_is_read_too(raw: bytes, read_as: tuple[bytes, bytes]) -> None:
    assert read_frame(raw) == read_as


def test_logs_and_metrics_are_json_on_one_line() -> None:
    name, data = read_frame(log_frame("stderr", 'a "b"\nc\n'))
    assert (name, json.loads(data)) == (b"log", {"source": "stderr", "data": 'a "b"\nc\n'})
    name, data = read_frame(metric_frame("a.b", b'{"c":[1]}', "append"))
    assert (name, json.loads(data)) == (b"metric", {"name": "a.b", "value": {"c": [1]}, "mode": "append"})
    metric = metric_of(data)
    assert (metric.name, bytes(metric.value), metric.mode) == ("a.b", b'{"c":[1]}', "append")
    assert isinstance(metric, Metric)
    with pytest.raises(FrameError, match="a metric"):
        metric_of(b'{"name":1}')


def test_the_end_says_what_belongs_to_it() -> None:
    ends: list[tuple[bytes, dict[str, Any], Completed]] = [
        (
            completed_frame("succeeded", array=True),
            {"status": "succeeded", "array": True},
            Completed(status="succeeded", array=True),
        ),
        (
            completed_frame("succeeded", error="no"),
            {"status": "succeeded", "array": False},
            Completed(status="succeeded"),
        ),
        (
            completed_frame("failed", error="a\nb"),
            {"status": "failed", "error": "a\nb"},
            Completed(status="failed", error="a\nb"),
        ),
        (completed_frame("canceled", array=True), {"status": "canceled"}, Completed(status="canceled")),
    ]
    for frame, said, completed in ends:
        name, data = read_frame(frame)
        assert (name, json.loads(data), completed_of(data)) == (b"completed", said, completed)
    with pytest.raises(FrameError, match="the end"):
        completed_of(b'{"status":"lost"}')


def test_a_long_error_is_cut() -> None:
    completed = completed_of(read_frame(completed_frame("failed", error="\x01" * (MAX_ERROR_CHARS + 1)))[1])
    assert completed.error == "\x01" * MAX_ERROR_CHARS + "…"


def test_half_a_surrogate_pair_is_written_as_a_question_mark() -> None:
    assert read(completed_frame("failed", error="\ud83c!"))[0] == Failed(ProviderError("?!", code="prediction_failed"))


# --- requests --------------------------------------------------------------------------------------------------------


def test_an_envelope_is_read_as_it_was_written() -> None:
    envelope = read_envelope(BODY)
    assert (envelope.model, envelope.id, bytes(envelope.input)) == ("river", "p1", b'{"prompt":"x"}')
    assert envelope.context == {"user": "ada"}
    assert json.loads(write_envelope("m", "", b"{}", {})) == {"model": "m", "input": {}}
    assert read_envelope(b'{"input":{},"model":"m"}').context == {}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"[]", None),
        (b"{", None),
        (b'{"input":{}}', "model"),
        (b'{"model":"","input":{}}', "model"),
        (b'{"model":"m"}', "input"),
        (b'{"model":"m","input":[]}', "input"),
        (b'{"model":"m","input":{},"id":4}', "id"),
        (b'{"model":"m","input":{},"context":{"a":1}}', "context[...]"),
        (b'{"model":"m","input":{},"context":3}', "context"),
    ],
)
def test_what_is_no_envelope_is_refused(body: bytes, param: str | None) -> None:
    with pytest.raises(Refused) as refused:
        read_envelope(body)
    assert (refused.value.verdict, refused.value.param) == (BAD_REQUEST, param)


def test_a_prediction_is_asked_for_as_a_stream() -> None:
    assert DIALECT.read_request(BODY) == Ask(
        model="river", stream=True, wants_usage=False, body=BODY, dialect="prediction"
    )
    assert DIALECT.write_request(DIALECT.read_request(BODY), "river") is BODY
    renamed = DIALECT.write_request(DIALECT.read_request(BODY), "lake")
    assert renamed == write_envelope("lake", "p1", b'{"prompt":"x"}', {"user": "ada"})


def test_a_prediction_is_no_conversation() -> None:
    with pytest.raises(Untranslatable) as asked:
        DIALECT.read_conversation(BODY)
    assert asked.value.param == "input"
    with pytest.raises(Untranslatable) as said:
        DIALECT.write_conversation(Conversation(turns=(), members={"turns": "messages"}), "river")
    assert said.value.param == "messages"


# --- the raw road ----------------------------------------------------------------------------------------------------


def test_the_last_frame_alone_is_hit_and_where_it_begins() -> None:
    end = completed_frame("succeeded", array=True)
    before = output_frame(packed("event: completed\n\nevent: completed\n"), 0) + b": keep-alive\n\n"
    assert DIALECT.hit(before, 0) == -1
    assert DIALECT.hit(before + end, 0) == len(before)
    assert DIALECT.hit(end, 0) == 0
    assert DIALECT.hit(before + end, len(before)) == len(before)
    assert DIALECT.hit(before + end, len(before) + 1) == -1


def metered(*frames: bytes) -> tuple[Meter, bytes]:
    meter = Meter(DIALECT, strips_usage=True)
    return meter, meter.observe(b"".join(frames))


@pytest.mark.parametrize("end", [completed_frame("succeeded", array=True), completed_frame("canceled")])
def test_a_prediction_that_ended_well_is_complete_and_passes_whole(end: bytes) -> None:
    stream = output_frame(b'"a"', 0) + log_frame("stdout", "x\n") + end
    meter, passed = metered(stream)
    assert passed == stream
    assert (meter.done, meter.error, meter.frames, meter.unreadable) == (True, None, 2, "")
    assert meter.learn() is None


def test_a_prediction_that_failed_is_an_error_of_the_provider() -> None:
    output = output_frame(b'"a"', 0)
    meter, passed = metered(output, completed_frame("failed", error="ValueError: x"))
    assert passed == output
    assert (meter.done, meter.error) == (False, ProviderError("ValueError: x", code="prediction_failed"))


@pytest.mark.parametrize("status", ["succeeded", "failed", "canceled"])
def test_what_a_handler_counted_is_the_usage_of_its_prediction(status: Any) -> None:
    usage = Usage(input_tokens=7, output_tokens=5)
    meter, _ = metered(output_frame(b'"a"', 0), completed_frame(status, error="x", usage=usage))
    assert meter.usage == usage


def test_an_end_that_cannot_be_read_is_no_end() -> None:
    meter, passed = metered(b'event: completed\ndata: {"status":"lost"}\n\n')
    assert (passed, meter.done) == (b"", False)
    assert "the end of a prediction" in meter.unreadable


def test_any_data_is_content_and_says_nothing_else() -> None:
    for frame in (log_frame("stdout", "x\n"), completed_frame("failed", error="x")):
        assert DIALECT.look(Frame(frame)) == (Sight.CONTENT, None)
    assert DIALECT.look(Frame(DIALECT.heartbeat)) == (Sight.SILENT, None)
    assert DIALECT.notice(Frame(output_frame(b'"completed"', 0))) == Notice()
    assert DIALECT.read_response(b"{}") == Notice()
    assert DIALECT.usage_in_tail(b'{"usage":{"prompt_tokens":1}}') is None
    assert not DIALECT.is_usage_only(Frame(completed_frame("succeeded")))
    assert DIALECT.envelope(output_frame(b'"a"', 0)) is None


def test_errors_are_in_cogs_shape() -> None:
    body = DIALECT.error_body("queue_full", "too many", kind=None, param=None, status=503)
    assert json.loads(body) == {"error": "too many", "status": "failed"}
    frame = DIALECT.error_frame("idle_timeout", "nothing came", first=b"x", last=b"y")
    assert frame == error_frame("nothing came") == b'event: error\ndata: {"error":"nothing came"}\n\n'


# --- answers to chats ------------------------------------------------------------------------------------------------


def test_texts_are_the_answer_and_logs_are_not() -> None:
    assert read(
        log_frame("stdout", "loading\n"),
        b": keep-alive\n\n",
        output_frame(b'"The "', 0),
        output_frame(packed("tide 🌊"), 1),
        output_frame(b'""', 2),
        completed_frame("succeeded", array=True),
    ) == [
        Started(),
        Text(0, "The "),
        Text(0, "tide 🌊"),
        UsageSeen(Usage(10, 3, estimated=True)),
        Finished(0, "stop"),
        Done(),
    ]


@pytest.mark.parametrize(
    ("chunk", "texts"),
    [
        (b'"a\\n\\"b\\""', ['a\n"b"']),
        (b'"\\ud83c"', ["\ud83c"]),
        (b'{"a":[1,null]}', ['{"a":[1,null]}']),
        (b"1.50", ["1.50"]),
        (b"false", ["false"]),
        (b"null", []),
        (b'""', []),
    ],
)
def test_an_output_that_is_no_text_is_said_as_its_json(chunk: bytes, texts: list[str]) -> None:
    events = read(value_frame(chunk), completed_frame("succeeded"))
    assert [event.text for event in events if isinstance(event, Text)] == texts
    assert (events[0], events[-1]) == (Started(), Done())


def usage_of(*frames: bytes) -> Usage:
    events = read(*frames, completed_frame("succeeded"))
    (usage,) = [event.usage for event in events if isinstance(event, UsageSeen)]
    return usage


def test_tokens_that_a_handler_counts_are_told() -> None:
    counted = metric_frame("input_token_count", b"7", "replace"), metric_frame("output_token_count", b"9", "replace")
    assert usage_of(*counted, value_frame(b'"a"')) == Usage(7, 9)
    other = metric_frame("prompt_tokens", b"0", "replace"), metric_frame("completion_tokens", b"2", "replace")
    assert usage_of(*other) == Usage(0, 2)
    one = metric_frame("output_tokens", b"1", "increment")
    assert usage_of(counted[0], one, one, one) == Usage(7, 3)


def test_tokens_that_a_handler_does_not_count_are_judged() -> None:
    long = value_frame(packed("é" * 100))
    assert usage_of(long) == Usage(10, 50, estimated=True)
    assert usage_of(metric_frame("output_token_count", b"9", "replace"), long) == Usage(10, 9, estimated=True)
    deleted = (
        metric_frame("output_token_count", b"9", "replace"),
        metric_frame("output_token_count", b"null", "replace"),
    )
    assert usage_of(*deleted, long) == Usage(10, 50, estimated=True)
    odd = metric_frame("output_token_count", b'"many"', "increment"), metric_frame("other", b"[1]", "append")
    assert usage_of(*odd, long) == Usage(10, 0, estimated=True)


def test_a_handler_may_say_why_it_ends() -> None:
    events = read(metric_frame("finish_reason", b'"length"', "replace"), completed_frame("succeeded"))
    assert events[-2:] == [Finished(0, "length"), Done()]


def test_a_prediction_without_output_is_an_answer_without_text() -> None:
    assert read(completed_frame("succeeded")) == [
        Started(),
        UsageSeen(Usage(10, 0, estimated=True)),
        Finished(0, "stop"),
        Done(),
    ]


def test_what_failed_or_was_canceled_is_no_answer() -> None:
    failed = Failed(ProviderError("ValueError: x", code="prediction_failed"))
    assert read(output_frame(b'"a"', 0), completed_frame("failed", error="ValueError: x"))[-1] == failed
    silent = read(b'event: completed\ndata: {"status":"failed"}\n\n')
    assert silent == [Failed(ProviderError("the prediction failed", code="prediction_failed"))]
    canceled = Failed(ProviderError("the prediction was canceled", code="prediction_canceled"))
    assert read(completed_frame("canceled")) == [canceled]


def test_without_its_last_frame_a_stream_is_not_complete() -> None:
    assert read(output_frame(b'"a"', 0)) == [Started(), Text(0, "a")]


def test_an_opening_stream_is_judged_by_what_it_says() -> None:
    assert PROVIDER.look(Frame(log_frame("stdout", "x\n"))) == (Sight.SILENT, None)
    assert PROVIDER.look(Frame(output_frame(b'"a"', 0))) == (Sight.CONTENT, None)
    error = ProviderError("x", code="prediction_failed")
    assert PROVIDER.look(Frame(completed_frame("failed", error="x"))) == (Sight.ERROR, error)


def test_a_stream_in_one_piece_reads_the_same() -> None:
    stream = output_frame(b'"a"', 0) + completed_frame("succeeded", array=True)
    usage = Usage(0, 1, estimated=True)
    assert PROVIDER.read_answer(stream) == [Started(), Text(0, "a"), UsageSeen(usage), Finished(0, "stop"), Done()]
    assert PROVIDER.read_response(stream) == Notice(usage=usage, finish_reason="stop", finished=1)
    for cut in (b"", output_frame(b'"a"', 0)):
        assert PROVIDER.read_response(cut).error == ProviderError("the prediction's answer is not complete")
    failed = completed_frame("failed", error="x")
    assert PROVIDER.read_answer(failed) == [Failed(ProviderError("x", code="prediction_failed"))]


def test_a_refusal_has_a_message() -> None:
    assert PROVIDER.read_error(503, b"busy\n") == ProviderError("busy", status=503)
    assert PROVIDER.read_error(503, b"").status == 503


@pytest.mark.parametrize(
    ("chunk", "size"),
    [
        (b'"abcd"', 4),
        (b"17", 2),
        (b"null", 4),
        (b'""', 0),
        (b'"data:image/png;base64,AAAA"', 0),
        (b'["data:image/png;base64,AAAA","data:;base64,BBBB"]', 3),
        (b'{"a":"data:image/png;base64,AAAA","b":"x"}', 14),
        (b'"data: it is"', 11),
        (b'"data:text/plain,AAAA"', 20),
    ],
)
def test_files_in_an_output_are_no_text(chunk: bytes, size: int) -> None:
    assert text_bytes(chunk) == size


def test_what_is_no_text_is_told_with_the_request() -> None:
    body = write_envelope("river", "", b'{"image":"data:,AAAA"}', {}, 10)
    assert Prediction.read_request(body).aside == 10
    assert Prediction().write_request(Prediction.read_request(body), "sea") == body.replace(b"river", b"sea")
    assert Prediction.read_request(write_envelope("river", "", b"{}", {}, -3)).aside == 0
