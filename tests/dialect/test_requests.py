"""A client's request, read member by member."""

import pytest

from tidegate.dialect.conversation import Untranslatable
from tidegate.dialect.requests import MAX_MODEL_CHARS, Members


@pytest.mark.parametrize(
    ("name", "param"),
    [("sybil", "a.sybil"), ("x" * MAX_MODEL_CHARS, "a." + "x" * MAX_MODEL_CHARS), ("x" * 2**21, "a." + "x" * MAX_MODEL_CHARS + "…")],
)  # fmt: skip
def test_a_member_that_is_not_understood_is_named_up_to_a_length(name: str, param: str) -> None:
    with pytest.raises(Untranslatable) as caught:
        Members({name: 1}, "a", []).end()
    assert caught.value.param == param
    assert len(caught.value.message) < 2 * MAX_MODEL_CHARS
