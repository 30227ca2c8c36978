"""How the mock finds a dialect by a path, and reads good requests: the same for all dialects."""

import json
from typing import Any

import pytest
from asks import MODEL, OTHERS, PATHS, VERSION, ask, plain, tooled
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.mock.ask import Ask, BadAsk
from tidegate.mock.asking.routes import Route, read, route

DIALECTS = [*PATHS, "gemini_array"]


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("/v1/chat/completions", Route("chat")),
        ("/chat/completions?x=1", Route("chat")),
        ("/openai/deployments/gpt%2D4/chat/completions?api-version=2024-10-21", Route("chat", "gpt-4")),
        ("/openai/deployments/e/embeddings?api-version=2024-10-21", Route("embeddings", "e")),
        ("/openai/deployments/gpt-4/chat/completions", None),
        ("/v1/responses", Route("responses")),
        ("/v1/messages", Route("messages")),
        ("/v1/messages/count_tokens", Route("count_tokens", stream=False)),
        ("/v1/embeddings", Route("embeddings", stream=False)),
        ("/v1beta/models/m:streamGenerateContent?alt=sse&key=k", Route("gemini", "m", stream=True)),
        ("/v1beta/models/m:streamGenerateContent?key=k", Route("gemini_array", "m", stream=True)),
        ("/v1/models/m%3Ftokens%3D3:generateContent", Route("gemini", "m?tokens=3", stream=False)),
        ("/model/a.b%3A0/converse", Route("converse", "a.b:0", stream=False, signed=True)),
        ("/model/a%2Fb/converse-stream", Route("converse", "a/b", stream=True, signed=True)),
        ("/model/m/invoke", Route("invoke", "m", stream=False, signed=True)),
        ("/model/m/invoke-with-response-stream", Route("invoke", "m", stream=True, signed=True)),
        ("/api/chat", Route("ollama")),
        ("/v1/models", None),
        ("/model/a/b/converse", None),
    ],
)
def test_a_path_says_its_dialect_its_model_and_whether_to_stream(target: str, found: Route | None) -> None:
    assert route(b"POST", target) == found
    assert route(b"GET", target) is None


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_plain_prompt_is_the_same_ask_in_every_dialect(dialect: str) -> None:
    said, chat = ask(dialect, plain(dialect)), ask("chat", plain("chat"))
    assert (said.dialect, said.model, said.stream) == (dialect, MODEL, True)
    assert (said.prompt_tokens, said.variety, said.tools) == (chat.prompt_tokens, chat.variety, ())
    assert said.prompt_tokens == len("Be brief.\nHow high is it?") // 4
    assert (said.choices, said.wants_json, said.encrypted) == (1, False, False)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_tools_images_thoughts_and_results_are_the_same_ask_in_every_dialect(dialect: str) -> None:
    said, chat = ask(dialect, tooled(dialect)), ask("chat", tooled("chat"))
    assert said.tools == ("get_tide",)
    assert (said.prompt_tokens, said.variety) == (chat.prompt_tokens, chat.variety)
    assert said.encrypted is (dialect == "responses")


def test_usage_is_wanted_where_it_is_always_told_and_where_chat_asks_for_it() -> None:
    wants = {dialect: ask(dialect, plain(dialect)).wants_usage for dialect in DIALECTS}
    assert wants == {dialect: dialect != "chat" for dialect in DIALECTS}
    assert ask("chat", plain("chat") | {"stream_options": {"include_usage": True}}).wants_usage


@pytest.mark.parametrize(
    ("dialect", "more"),
    [
        ("chat", {"response_format": {"type": "json_object"}}),
        ("chat", {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}}),
        ("responses", {"text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}}),
        ("responses", {"text": {"format": {"type": "json_object"}}}),
        ("messages", {"output_config": {"format": {"type": "json_schema", "schema": {}}}}),
        ("gemini", {"generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": {"a": 1}}}),
        (
            "converse",
            {"outputConfig": {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": "{}"}}}}},
        ),
        ("ollama", {"format": "json"}),
        ("ollama", {"format": {"type": "object"}}),
    ],
)
def test_json_is_wanted_in_each_dialects_way(dialect: str, more: dict[str, Any]) -> None:
    assert ask(dialect, plain(dialect) | more).wants_json


@pytest.mark.parametrize(
    ("dialect", "more"),
    [("chat", {"user": "u"}), ("responses", {"user": "u"}), ("messages", {"metadata": {"user_id": "u"}})],
)
def test_the_user_is_known(dialect: str, more: dict[str, Any]) -> None:
    assert ask(dialect, plain(dialect) | more).user == "u"


def test_the_body_says_whether_to_stream_and_ollama_streams_unless_told_not_to() -> None:
    for dialect in ("chat", "responses", "messages", "ollama"):
        assert not ask(dialect, plain(dialect) | {"stream": False}).stream
    silent = {name: value for name, value in plain("ollama").items() if name != "stream"}
    assert ask("ollama", silent).stream


def test_a_deployment_names_the_model_and_candidates_are_choices() -> None:
    path = "/openai/deployments/mock/chat/completions?api-version=1"
    assert ask("chat", {"messages": plain("chat")["messages"]}, path=path).model == "mock"
    assert ask("gemini", plain("gemini") | {"generationConfig": {"candidateCount": 3}}).choices == 3


def test_a_count_is_asked_without_a_limit_on_the_answer() -> None:
    body = {name: value for name, value in plain("messages").items() if name in {"model", "system", "messages"}}
    assert ask("count_tokens", body).prompt_tokens == ask("messages", plain("messages")).prompt_tokens
    with pytest.raises(BadAsk, match="max_tokens: Extra inputs are not permitted"):
        ask("count_tokens", body | {"max_tokens": 5})


@pytest.mark.parametrize(
    ("given", "inputs", "tokens"),
    [("12345678", 1, 2), (["1234", "56789"], 2, 2), ([1, 2, 3], 1, 3), ([[1, 2], [3, 4]], 2, 4)],
)
def test_embeddings_are_asked_of_texts_and_of_tokens(given: object, inputs: int, tokens: int) -> None:
    said = ask("embeddings", {"model": "mock", "input": given, "dimensions": 8, "encoding_format": "base64"})
    assert (said.inputs, said.prompt_tokens, said.dimensions, said.base64) == (inputs, tokens, 8, True)


@pytest.mark.parametrize("given", ["", [], ["a", 1], ["a", [1]], [[]], [""], ["x"] * 2049, [[1] * 8193], 7])
def test_embeddings_of_nothing_of_a_mixture_or_of_too_much_are_refused(given: object) -> None:
    with pytest.raises(BadAsk) as refused:
        ask("embeddings", {"model": "mock", "input": given})
    assert str(refused.value.param).startswith("input")


def test_embeddings_need_a_model_and_know_their_members() -> None:
    with pytest.raises(BadAsk, match="must provide a model"):
        ask("embeddings", {"input": "x"})
    with pytest.raises(BadAsk, match="Unknown parameter: 'top_k'"):
        ask("embeddings", {"input": "x", "model": "m", "top_k": 1})


# Whatever comes

_WORDS = st.sampled_from(
    ["model", "messages", "role", "content", "type", "text", "user", "assistant", "tool", "input", "contents", "parts",
     "system", "tools", "name", "function", "tool_calls", "id", "max_tokens", "mock", "stream", "thinking", "toolUse"]
)  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS | st.text(max_size=5), inner, max_size=5),
    max_leaves=15,
)


def _any(dialect: str, body: bytes) -> None:
    found = route(b"POST", (PATHS | OTHERS)[dialect])
    assert found is not None
    try:
        said: Ask | BadAsk = read(found, VERSION, body)
    except BadAsk as error:
        said = error
    assert isinstance(said, Ask) or (said.message and 400 <= said.status < 500)


@pytest.mark.parametrize("dialect", [*PATHS, *OTHERS])
@settings(max_examples=30, deadline=None)
@given(said=_JSON)
def test_whatever_json_comes_is_read_or_refused(dialect: str, said: object) -> None:
    _any(dialect, json.dumps(said).encode())


@settings(max_examples=150, deadline=None)
@given(data=st.data(), dialect=st.sampled_from(DIALECTS))
def test_a_good_request_with_anything_anywhere_is_read_or_refused(data: st.DataObject, dialect: str) -> None:
    body: Any = tooled(dialect)
    at = body
    while isinstance(at, dict | list) and at:
        key: Any = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            at[key] = data.draw(_JSON)
            break
        at = at[key]
    _any(dialect, json.dumps(body).encode())


@pytest.mark.parametrize("dialect", [*PATHS, *OTHERS])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"[]", b'"\\ud800"', b'{"model":' + b"[" * 9000, b'{"model":' + b"[" * 9000 + b"]" * 9000 + b"}",
     b'{"max_tokens":' + b"9" * 9000 + b"}"],
)  # fmt: skip
def test_what_is_no_request_is_refused(dialect: str, body: bytes) -> None:
    with pytest.raises(BadAsk):
        ask(dialect, body)


def test_a_choice_of_too_many_or_of_no_model_is_refused() -> None:
    wrong: list[dict[str, Any]] = [{"n": 17}, {"n": 0}, {"model": ""}, {"messages": []}]
    for more in wrong:
        with pytest.raises(BadAsk):
            ask("chat", plain("chat") | more)
