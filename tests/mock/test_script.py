"""Reading `mock?…`: who wins, what each key accepts, what each mistake says."""

import pytest

from tidegate.mock.script import KNOBS, Script, ScriptError, describe, parse


def test_a_plain_model_name_asks_for_nothing() -> None:
    assert parse("gpt-4o", "alice", "") == Script()


def test_the_example_of_the_manual_is_read_in_full() -> None:
    script = parse("mock?ttft=200ms&itl=20ms±5ms&tokens=200&fail_at=17&fail=reset&status=429&retry_after=2&cut=1")
    assert script == Script(
        ttft_s=0.2,
        itl_s=0.02,
        jitter_s=0.005,
        tokens=200,
        fail_at=17,
        fail="reset",
        status=429,
        retry_after="2",
        cut_bytes=1,
    )


def test_the_header_wins_over_the_user_and_the_user_over_the_model() -> None:
    script = parse("mock?tokens=1&itl=1ms&ttft=1ms", "mock?tokens=2&itl=2ms", "tokens=3")
    assert (script.tokens, script.itl_s, script.ttft_s) == (3, 0.002, 0.001)


@pytest.mark.parametrize("user", ["mock?drip", "drip=1", "drip=yes"])
def test_a_user_member_is_a_query_when_it_looks_like_one(user: str) -> None:
    assert parse("mock", user).drip


@pytest.mark.parametrize("user", ["alice", "drip", "who?drip"])
def test_a_user_member_that_is_a_name_is_left_alone(user: str) -> None:
    assert parse("mock", user) == Script()


@pytest.mark.parametrize("mark", ["±", "+-", "~", "%C2%B1", "%2B-"])
def test_jitter_may_be_written_in_several_ways(mark: str) -> None:
    script = parse(f"mock?itl=20ms{mark}5ms")
    assert (script.itl_s, script.jitter_s) == (0.02, 0.005)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("250", 0.25), ("250ms", 0.25), ("1.5s", 1.5), ("2m", 120.0), ("500us", 0.0005)],
)
def test_durations_take_units_and_are_milliseconds_without(text: str, seconds: float) -> None:
    assert parse(f"mock?ttft={text}").ttft_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"), [("7", 7), ("7B", 7), ("2KB", 2000), ("300KiB", 300 * 1024), ("8MiB", 8 * 1024**2)]
)
def test_sizes_take_units(text: str, size: int) -> None:
    assert parse(f"mock?bigframe={text}").bigframe_bytes == size


BAD_VALUES: dict[str, list[str]] = {
    "ttft": ["", "-1ms", "11m", "1h", "fast", "1e3"],
    "itl": ["61s", "5ms±6ms", "5ms±1ms±1ms", "5ms±", "±5ms"],
    "tokens": ["", "-1", "20001", "1.5", "many", "²"],
    "events": ["0", "20001"],
    "reasoning": ["20001"],
    "role_only": ["10001"],
    "bigframe": ["0", "9MiB", "1GiB"],
    "tools": ["maybe", "129", "-1"],
    "noargs": ["x"],
    "refusal": ["x"],
    "finish": ["", "because"],
    "usage": ["never"],
    "nodone": ["2"],
    "fail": ["", "loudly"],
    "fail_at": ["head", "40001"],
    "status": ["200", "600", "4xx"],
    "retry_after": ["86401", "soon", "1.5"],
    "reject": ["x"],
    "stall": ["", "body"],
    "json_error": ["x"],
    "cut": ["0", "2MiB"],
    "drip": ["x"],
    "crlf": ["x"],
    "nospace": ["x"],
    "close": ["x"],
    "comments": ["11m", "x"],
}


@pytest.mark.parametrize("key", KNOBS)
def test_every_key_refuses_what_it_cannot_mean_and_is_named(key: str) -> None:
    for value in BAD_VALUES[key]:
        with pytest.raises(ScriptError) as caught:
            parse(f"mock?{key}={value}")
        assert caught.value.key == key
        assert f"`{key}`" in caught.value.message


def test_an_unknown_key_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(ScriptError, match="Did you mean `tokens`") as caught:
        parse("mock?tokns=3")
    assert caught.value.key == "tokns"


@pytest.mark.parametrize(
    ("query", "key"),
    [
        ("fail_at=3", "fail_at"),
        ("retry_after=3", "retry_after"),
        ("fail=garbage&close", "fail"),
        ("tools&tokens=0", "tokens"),
        ("tools=3&tokens=2", "tokens"),
        ("noargs", "noargs"),
        ("tools&refusal", "refusal"),
        ("reasoning=15000&tokens=15000", "reasoning"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(query: str, key: str) -> None:
    with pytest.raises(ScriptError) as caught:
        parse(f"mock?{query}")
    assert caught.value.key == key


@pytest.mark.parametrize(("text", "calls"), [("", 1), ("=yes", 1), ("=1", 1), ("=no", 0), ("=0", 0), ("=3", 3)])
def test_tools_is_a_number_of_calls_and_yes_is_one(text: str, calls: int) -> None:
    assert parse(f"mock?tools{text}").tools == calls


def test_a_later_length_replaces_an_earlier_one_of_the_other_kind() -> None:
    assert parse("mock?tokens=5", "", "events=40").events == 40
    replaced = parse("mock?events=40", "", "tokens=5")
    assert (replaced.events, replaced.tokens) == (0, 5)


def test_an_endless_query_is_refused() -> None:
    with pytest.raises(ScriptError) as caught:
        parse("mock", "", "drip&" * 1000)
    assert caught.value.key == "x-mock"


def test_the_help_text_has_a_line_for_every_key() -> None:
    assert [line.split()[0] for line in describe().splitlines()] == list(KNOBS)
