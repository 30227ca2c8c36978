import json
from typing import Any

import pytest

from tidegate.dialect import Sight
from tidegate.dialect.passage import Passage
from tidegate.exchange import Usage
from tidegate.wire import Frame

PASSAGE = Passage()


def frame(value: Any) -> Frame:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Frame(b"data: " + data + b"\n\n")


@pytest.mark.parametrize(
    "said",
    [
        {"usage": {"prompt_tokens": 5, "completion_tokens": 3}},
        {"usage": {"input_tokens": 5, "output_tokens": 3}},
        {"usage": {"inputTokens": 5, "outputTokens": 3}},
        {"usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 3}},
        {"response": {"usage": {"input_tokens": 5, "output_tokens": 3}}},
        {"message": {"usage": {"input_tokens": 5, "output_tokens": 3}}},
    ],
)
def test_usage_is_found_in_every_family_s_words_and_where_it_may_be(said: dict[str, Any]) -> None:
    event = frame(said)
    assert PASSAGE.hit(event.raw, 0) > 0
    assert PASSAGE.notice(event).usage == Usage(input_tokens=5, output_tokens=3)
    assert PASSAGE.hit(event.raw, len(event.raw) - 4) == -1


@pytest.mark.parametrize(
    "said",
    [
        b"not json", b"[]", b"\xff", b"", {"usage": None}, {"usage": 5}, {"usage": {}}, {"usage": {"input_tokens": True}},
        {"usage": {"input_tokens": -1}}, {"usage": {"input_tokens": "5"}}, {"response": []},
    ],
)  # fmt: skip
def test_what_says_no_usage_says_nothing(said: Any) -> None:
    assert PASSAGE.notice(frame(said)).usage is None


def test_any_data_is_content_and_a_comment_is_none() -> None:
    assert PASSAGE.look(frame(b"anything")) == (Sight.CONTENT, None)
    assert PASSAGE.look(Frame(b": ping\n\n")) == (Sight.SILENT, None)


def test_nothing_of_a_block_goes_unseen_and_nothing_is_added_at_its_end() -> None:
    assert PASSAGE.envelope(frame({"choices": [{"delta": {"content": "a"}}]}).raw) is None
    assert PASSAGE.terminator == b""
