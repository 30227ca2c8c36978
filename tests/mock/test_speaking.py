"""What the mock says in every dialect: the same words, in the right frames and order, as independent judges see it."""

import struct
from typing import Any

import pytest
from listeners import Heard, elements, events, hear, hear_packed_vectors, hear_vectors, messages
from mock_client import Mock, Reply, request, with_mock
from speaking import SSE, STREAMED, TOOLS, WHOLE, asking, speak

EITHER = [(dialect, True) for dialect in STREAMED] + [(dialect, False) for dialect in WHOLE]


def heard(dialect: str, query: str = "", *, stream: bool = True, **more: Any) -> Heard:
    reply = speak(dialect, query, stream=stream, **more)
    assert (reply.status, reply.ended) == (200, "complete"), reply.body
    return hear(dialect, reply.body, stream=stream)


# The same words


@pytest.mark.parametrize(("dialect", "stream"), EITHER)
def test_every_dialect_says_the_same_words_in_answer_to_the_same_prompt(dialect: str, stream: bool) -> None:
    said, chat = heard(dialect, "tokens=40&reasoning=7", stream=stream), heard("chat", "tokens=40&reasoning=7")
    assert (said.text, said.thinking) == (chat.text, chat.thinking)
    assert (len(said.text.split()), len(said.thinking.split())) == (40, 7)
    assert said.complete
    assert said.usage == chat.usage == (4, 47)


@pytest.mark.parametrize(("dialect", "stream"), EITHER)
@pytest.mark.parametrize("calls", [1, 3])
def test_every_dialect_calls_the_same_tools_with_the_same_arguments(dialect: str, stream: bool, calls: int) -> None:
    said, chat = (
        heard(dialect, f"tools={calls}&tokens=20", stream=stream),
        heard("chat", f"tools={calls}&tokens=20"),
    )
    assert said.called() == chat.called()
    assert [name for name, _ in said.called()] == list(TOOLS[:calls])
    assert all(arguments["text"] for _, arguments in said.called())
    assert said.usage == chat.usage == (4, 20)
    ids = [id_ for id_, _, _ in said.calls]
    assert len(set(ids)) == (1 if dialect in {"gemini", "gemini_array", "ollama"} else calls)


@pytest.mark.parametrize(("dialect", "stream"), EITHER)
def test_calls_may_have_no_arguments(dialect: str, stream: bool) -> None:
    said = heard(dialect, "tools=2&noargs", stream=stream)
    assert said.called() == [(name, {}) for name in TOOLS[:2]]
    bare = stream and dialect in {"chat", "messages", "converse", "invoke"}
    assert [arguments for _, _, arguments in said.calls] == ["" if bare else "{}"] * 2


@pytest.mark.parametrize("dialect", ["chat", "responses"])
def test_arguments_of_parallel_calls_take_turns_where_the_dialect_allows_it(dialect: str) -> None:
    order = heard(dialect, "tools=3&tokens=12").order
    assert order[:3] == order[3:6] == ["call0", "call1", "call2"]


@pytest.mark.parametrize("dialect", ["messages", "converse", "invoke"])
def test_arguments_of_parallel_calls_come_one_call_after_the_other_where_they_must(dialect: str) -> None:
    order = heard(dialect, "tools=3&tokens=12").order
    assert order == ["call0"] * 4 + ["call1"] * 4 + ["call2"] * 4


@pytest.mark.parametrize(("dialect", "stream"), EITHER)
def test_more_calls_than_tools_call_them_again(dialect: str, stream: bool) -> None:
    names = [name for name, _ in heard(dialect, "tools=5&tokens=10", stream=stream).called()]
    assert names == [*TOOLS, *TOOLS[:2]]


@pytest.mark.parametrize("dialect", STREAMED)
def test_the_same_seed_gives_the_same_bytes_but_for_ids_and_times(dialect: str) -> None:
    first, second = (speak(dialect, "tokens=5&reasoning=2", seed=9) for _ in range(2))
    one, two = (hear(dialect, reply.body, stream=True) for reply in (first, second))
    assert len(first.body) == len(second.body)
    assert (one.text, one.thinking) == (two.text, two.thinking)
    assert one.text != heard(dialect, "tokens=5&reasoning=2").text


@pytest.mark.parametrize(("dialect", "stream"), [(d, s) for d, s in EITHER if d != "converse"])
def test_two_answers_of_one_mock_have_two_ids(dialect: str, stream: bool) -> None:
    async def scenario(mock: Mock) -> list[Reply]:
        peer = await mock.connect()
        return [await peer.exchange(asking(dialect, "tokens=1", stream=stream)) for _ in range(3)]

    assert len({hear(dialect, reply.body, stream=stream).ident for reply in with_mock(scenario)}) == 3


# Thoughts


@pytest.mark.parametrize(("dialect", "stream"), [(d, s) for d, s in EITHER if d not in {"chat", "responses", "ollama"}])
@pytest.mark.parametrize("query", ["reasoning=3&tokens=2", "reasoning=3&tools=2"])
def test_thoughts_are_signed_where_the_dialect_signs_them(dialect: str, stream: bool, query: str) -> None:
    assert heard(dialect, query, stream=stream).signature
    assert not heard(dialect, "tokens=2", stream=stream).signature


@pytest.mark.parametrize("stream", [True, False])
def test_responses_seals_thoughts_when_it_is_asked_to(stream: bool) -> None:
    include: dict[str, Any] = {"include": ["reasoning.encrypted_content"], "store": False}
    assert heard("responses", "reasoning=3", stream=stream, **include).signature
    assert not heard("responses", "reasoning=3", stream=stream).signature


# Ends

ENDS = {
    "chat": ("stop", "length", "content_filter", "tool_calls"),
    "responses": ("completed", "max_output_tokens", "content_filter", "completed"),
    "messages": ("end_turn", "max_tokens", "refusal", "tool_use"),
    "gemini": ("STOP", "MAX_TOKENS", "SAFETY", "STOP"),
    "gemini_array": ("STOP", "MAX_TOKENS", "SAFETY", "STOP"),
    "converse": ("end_turn", "max_tokens", "content_filtered", "tool_use"),
    "invoke": ("end_turn", "max_tokens", "refusal", "tool_use"),
    "ollama": ("stop", "length", "", "stop"),
}


@pytest.mark.parametrize(("dialect", "stream"), EITHER)
@pytest.mark.parametrize("nth", range(4))
def test_an_answer_ends_with_the_dialects_own_word(dialect: str, stream: bool, nth: int) -> None:
    query = ("finish=stop", "finish=length", "finish=content_filter", "tools")[nth]
    word = ENDS[dialect][nth]
    if word:
        assert heard(dialect, query, stream=stream).finish == word
        return
    reply = speak(dialect, query, stream=stream)
    assert (reply.status, "finish" in reply.json()["error"]) == (400, True)


REFUSALS = {
    "chat": "stop",
    "responses": "completed",
    "messages": "refusal",
    "gemini": "SAFETY",
    "gemini_array": "SAFETY",
    "converse": "guardrail_intervened",
    "invoke": "refusal",
    "ollama": "stop",
}


@pytest.mark.parametrize(("dialect", "stream"), EITHER)
def test_a_refusal_is_one_in_the_dialects_own_way(dialect: str, stream: bool) -> None:
    said, plain = heard(dialect, "refusal&tokens=6", stream=stream), heard("chat", "tokens=6").text
    assert said.finish == REFUSALS[dialect]
    apart = dialect in {"chat", "responses"}
    # What Gemini blocks it does not say in a whole answer; a stream may have said it already.
    silent = dialect == "gemini" and not stream
    assert (said.refusal, said.text) == ((plain, "") if apart else ("", "" if silent else plain))


@pytest.mark.parametrize(("dialect", "stream"), EITHER)
def test_usage_no_keeps_it_to_itself_in_every_dialect(dialect: str, stream: bool) -> None:
    assert heard(dialect, "usage=no", stream=stream).usage is None


@pytest.mark.parametrize("dialect", STREAMED)
def test_without_its_last_event_a_stream_has_all_words_and_no_end(dialect: str) -> None:
    said = heard(dialect, "nodone&tokens=5")
    assert len(said.text.split()) == 5
    assert not said.complete


# Frames


@pytest.mark.parametrize("dialect", STREAMED)
@pytest.mark.parametrize("query", ["tokens=0", "tokens=1", "role_only=0", "role_only=0&reasoning=1&tokens=0"])
def test_frames_are_in_order_however_few_they_are(dialect: str, query: str) -> None:
    said = heard(dialect, query)
    assert said.complete
    assert bool(said.text) == ("tokens=0" not in query)


@pytest.mark.parametrize("dialect", SSE)
def test_more_frames_without_content_are_in_order_too(dialect: str) -> None:
    few, many = speak(dialect, "tokens=1&role_only=1"), speak(dialect, "tokens=1&role_only=4")
    assert hear(dialect, many.body, stream=True).complete
    assert len(events(many.body)) - len(events(few.body)) == 3


def _frames(dialect: str, body: bytes) -> int:
    if dialect in SSE:
        return len(events(body))
    if dialect in {"converse", "invoke"}:
        return len(list(messages(body)))
    return len(elements(body)[0] if dialect == "gemini_array" else body.splitlines())


@pytest.mark.parametrize("dialect", STREAMED)
@pytest.mark.parametrize("query", ["events=40", "events=100&reasoning=5", "events=30&nodone", "events=60&role_only=0"])
def test_events_counts_every_frame_of_every_dialect(dialect: str, query: str) -> None:
    reply = speak(dialect, query)
    assert reply.status == 200
    assert _frames(dialect, reply.body) == int(query.partition("&")[0].removeprefix("events="))


@pytest.mark.parametrize("dialect", ["chat", "responses", "messages", "converse", "invoke"])
def test_events_counts_the_frames_of_calls_too(dialect: str) -> None:
    assert _frames(dialect, speak(dialect, "events=70&tools=2").body) == 70


@pytest.mark.parametrize(
    ("dialect", "query"), [("gemini", "events=70&tools"), ("messages", "events=3"), ("embeddings", "events=9")]
)
def test_a_number_of_events_that_cannot_be_is_refused(dialect: str, query: str) -> None:
    reply = speak(dialect, query)
    assert reply.status == 400
    assert "`events`" in reply.json()["error"]["message"]


@pytest.mark.parametrize("dialect", STREAMED)
def test_bigframe_is_one_frame_of_every_dialect(dialect: str) -> None:
    said = heard(dialect, "tokens=9&bigframe=300KiB")
    assert len(said.text) > 300 * 1024
    assert said.text == heard("chat", "tokens=9&bigframe=300KiB").text
    assert said.usage == (4, len(said.text.split()))


@pytest.mark.parametrize("dialect", SSE)
def test_lines_may_end_with_both_and_have_no_space_in_every_stream_of_events(dialect: str) -> None:
    reply = speak(dialect, "crlf&nospace&tokens=3")
    assert hear(dialect, reply.body, stream=True).complete
    assert reply.body.count(b"\n") == reply.body.count(b"\r\n") > 0
    assert b"data: " not in reply.body
    assert b"event: " not in reply.body


@pytest.mark.parametrize("dialect", ["gemini_array", "ollama"])
def test_lines_may_end_with_both_in_json_too(dialect: str) -> None:
    reply = speak(dialect, "crlf&tokens=3")
    assert hear(dialect, reply.body, stream=True).complete
    assert reply.body.count(b"\n") == reply.body.count(b"\r\n") > 0


@pytest.mark.parametrize(
    ("dialect", "query"),
    [
        *((dialect, query) for dialect in ("converse", "invoke") for query in ("crlf", "nospace", "comments=1s", "role_only=2")),
        ("ollama", "nospace"),
        ("gemini_array", "nospace"),
    ],
)  # fmt: skip
def test_a_knob_for_which_a_dialect_has_no_word_is_refused_by_name(dialect: str, query: str) -> None:
    reply = speak(dialect, query)
    assert reply.status == 400
    assert f"`{query.partition('=')[0]}`".encode() in reply.body


@pytest.mark.parametrize("dialect", SSE)
def test_comments_fill_the_silence_of_every_stream_of_events(dialect: str) -> None:
    reply = speak(dialect, "ttft=200ms&tokens=1&comments=20")
    assert reply.body.count(b": ping\n\n") >= 3
    assert hear(dialect, reply.body, stream=True).complete


@pytest.mark.parametrize("dialect", ["gemini_array", "ollama"])
def test_empty_lines_fill_the_silence_of_json(dialect: str) -> None:
    reply = speak(dialect, "ttft=200ms&tokens=1&comments=20")
    assert len(reply.body.splitlines()) - len(list(filter(None, reply.body.splitlines()))) >= 3
    assert hear(dialect, reply.body, stream=True).complete


@pytest.mark.parametrize("dialect", STREAMED)
def test_a_body_without_framing_ends_with_the_connection_in_every_dialect(dialect: str) -> None:
    reply = speak(dialect, "close&tokens=3")
    assert reply.ended == "closed"
    assert hear(dialect, reply.body, stream=True).complete


@pytest.mark.parametrize("dialect", STREAMED)
def test_fragments_and_paces_change_no_byte_of_any_dialect(dialect: str) -> None:
    plain = heard(dialect, "tokens=4")
    for query in ("tokens=4&cut=3", "tokens=4&itl=1ms", "tokens=4&ttft=1ms"):
        assert heard(dialect, query).text == plain.text


# Answers that are no words


def test_embeddings_are_vectors_of_length_one_the_same_in_floats_and_packed() -> None:
    first, second = hear_vectors(speak("embeddings", stream=False, dimensions=8).body)
    packed = hear_packed_vectors(speak("embeddings", stream=False, dimensions=8, encoding_format="base64").body)
    assert [list(struct.unpack("<8f", vector)) for vector in packed] == [first, second]
    assert first != second
    assert sum(number * number for number in first) == pytest.approx(1.0)


def test_embeddings_have_the_usual_length_when_none_is_asked() -> None:
    reply = speak("embeddings", stream=False)
    assert [len(vector) for vector in hear_vectors(reply.body)] == [1536, 1536]
    assert reply.json()["usage"]["prompt_tokens"] > 0
    assert speak("embeddings", "usage=no", stream=False).body.find(b'"usage"') < 0


def test_counting_tokens_gives_what_the_answer_would_say_of_its_prompt() -> None:
    assert speak("count_tokens", stream=False).json() == {"input_tokens": 4}


def test_an_answer_in_json_may_be_empty() -> None:
    said = heard("chat", "tokens=0", response_format={"type": "json_object"})
    assert (said.text, said.complete) == ("", True)


# Lists


@pytest.mark.parametrize(
    ("path", "header", "found"),
    [
        ("/v1/models", "", lambda said: (said["object"], said["data"][0]["id"])),
        ("/v1/models", "anthropic-version: 2023-06-01\r\n", lambda said: (said["first_id"], said["data"][0]["id"])),
        (
            "/v1/models",
            "x-goog-api-key: x\r\n",
            lambda said: ("mock", said["models"][0]["name"].removeprefix("models/")),
        ),
        ("/v1beta/models", "", lambda said: ("mock", said["models"][0]["name"].removeprefix("models/"))),
        ("/api/tags", "", lambda said: ("mock", said["models"][0]["model"])),
    ],
)
def test_each_family_gets_its_own_list_of_models(path: str, header: str, found: Any) -> None:
    async def scenario(mock: Mock) -> Reply:
        return await (await mock.connect()).exchange(request(b"", path, header, method="GET"))

    assert found(with_mock(scenario).json()) in {("list", "mock"), ("mock", "mock")}
