import json

import pytest

from tidegate.dialect import Dialect, ProviderError
from tidegate.dialect.conversation import Conversation, Untranslatable
from tidegate.dialect.openai_embeddings import OpenAIEmbeddings
from tidegate.exchange import Usage
from tidegate.verdict import BAD_REQUEST, Refused
from tidegate.wire import FrameError

DIALECT: Dialect = OpenAIEmbeddings()


def body_of(members: str) -> bytes:
    return f"{{{members}}}".encode()


@pytest.mark.parametrize(
    "given", ['"tide"', '["tide","moon"]', "[1,2,3]", "[[1,2],[3]]", ' "tide"', '"潮"', '["a"],"encoding_format":null']
)
def test_a_request_is_read_as_far_as_the_gateway_needs_it(given: str) -> None:
    body = body_of(f'"model":"m","input":{given},"dimensions":256,"user":"u7"')
    ask = DIALECT.read_request(body)
    assert (ask.model, ask.stream, ask.wants_usage, ask.user, ask.dialect) == ("m", False, False, "u7", DIALECT.name)
    assert ask.body is body


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b"{", None, "not valid JSON"),
        (b"[]", None, "a JSON object"),
        (b'{"x":"\xff"}', None, "UTF-8"),
        (body_of('"input":"tide"'), "model", "1 to 256"),
        (body_of('"model":"","input":"tide"'), "model", "1 to 256"),
        (body_of('"model":"m"'), "input", "array of texts or tokens"),
        (body_of('"model":"m","input":""'), "input", "not empty"),
        (body_of('"model":"m","input":[]'), "input", "not empty"),
        (body_of('"model":"m","input":7'), "input", "a text"),
        (body_of('"model":"m","input":null'), "input", "a text"),
        (body_of('"model":"m","input":{"text":"tide"}'), "input", "a text"),
        (body_of('"model":"m","input":"tide","encoding_format":"int8"'), "encoding_format", "float, base64"),
        (body_of('"model":"m","input":"tide","model":"n"'), "model", "given twice"),
    ],
)
def test_a_request_that_is_wrong_is_refused_with_the_member_that_is(body: bytes, param: str | None, words: str) -> None:
    with pytest.raises(Refused) as caught:
        DIALECT.read_request(body)
    assert (caught.value.verdict, caught.value.param) == (BAD_REQUEST, param)
    assert words in caught.value.message


def test_only_the_model_is_written_anew() -> None:
    ask = DIALECT.read_request(body_of('"model":"m", "input":[1,  2],"dimensions":256'))
    assert DIALECT.write_request(ask, "m") is ask.body
    assert DIALECT.write_request(ask, "n") == body_of('"model":"n","input":[1,  2],"dimensions":256')


def test_usage_is_read_of_a_whole_answer_and_of_the_end_of_one() -> None:
    answer = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.1, -0.2]}],
        "model": "m",
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }
    body = json.dumps(answer).encode()
    assert DIALECT.read_response(body).usage == Usage(8)
    assert DIALECT.usage_in_tail(body[-60:]) == Usage(8)
    with pytest.raises(FrameError):
        DIALECT.read_response(b"[0.1]")


def test_errors_are_those_of_the_family() -> None:
    written = DIALECT.error_body("unknown_model", "no such model", kind=None, param="model", status=404)
    error = DIALECT.read_error(404, written)
    assert error == ProviderError("no such model", "invalid_request_error", "unknown_model", "model", 404)
    assert DIALECT.status(529) == 503


def test_nothing_is_translated() -> None:
    with pytest.raises(Untranslatable, match="embeddings") as caught:
        DIALECT.read_conversation(b"{}")
    assert caught.value.param == "input"
    with pytest.raises(Untranslatable) as caught:
        DIALECT.write_conversation(Conversation(turns=(), members={"turns": "messages"}), "m")
    assert caught.value.param == "messages"
