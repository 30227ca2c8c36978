"""What a request says about its size and its sender, which admission and balancing go by."""

import json
from typing import Any

import pytest

from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.dialect.requests import MAX_USER_BYTES
from tidegate.exchange import Ask


def asked(**members: Any) -> Ask:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **members}
    return OpenAIChat.read_request(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("members", "bound"),
    [
        ({}, 0),
        ({"max_tokens": 400}, 400),
        ({"max_completion_tokens": 300}, 300),
        ({"max_tokens": 400, "max_completion_tokens": 300}, 300),
        ({"max_tokens": 400, "max_completion_tokens": None}, 400),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": -5}, 0),
        ({"max_tokens": 1.5}, 0),
        ({"max_tokens": "400"}, 0),
        ({"max_tokens": [400]}, 0),
        ({"max_tokens": 10**30}, 0),
    ],
)
def test_the_bound_of_an_answer_is_read_leniently(members: dict[str, Any], bound: int) -> None:
    assert asked(**members).max_tokens == bound


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("user-1234", "user-1234"),
        ("žofie", "žofie"),
        ("", ""),
        (None, ""),
        (7, ""),
        ({"id": "x"}, ""),
        ("x" * (MAX_USER_BYTES + 1), ""),
    ],
)
def test_a_user_is_a_text_of_some_length_or_nobody(user: object, name: str) -> None:
    assert asked(user=user).user == name
