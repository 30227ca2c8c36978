"""What a request's path, headers and body say."""

import msgspec
import pytest
from fronting import INFO

from tidegate.predictions.inputs import Inputs, read_input
from tidegate.predictions.paths import Place, route_of
from tidegate.predictions.requests import is_id, read_body, wants_events, wish_of
from tidegate.verdict import Refused

JSON = {b"content-type": b"application/json"}


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (b"/", Place("index")),
        (b"/predictions", Place("predictions")),
        (b"/predictions/a%2Fb", Place("prediction", None, "a/b")),
        (b"/predictions/a/cancel", Place("cancel", None, "a")),
        (b"/v1/models/org/m/predictions", Place("predictions", "org/m")),
        (b"/v1/models/m/predictions/predictions", Place("prediction", "m", "predictions")),
        (b"/v1/models/m/health-check", Place("health", "m")),
        (b"/v1/models/m", None),
        (b"/v1/models/predictions", None),
        (b"/predictions/", None),
        (b"/predictions/a/b", None),
        (b"/predictions/a/cancel/c", None),
        (b"/v1/chat/completions", None),
    ],
)
def test_a_path_names_a_thing_or_none(path: bytes, place: Place | None) -> None:
    assert route_of(path) == place


@pytest.mark.parametrize(
    ("accept", "wants"),
    [
        (b"text/event-stream", True),
        (b'a/b;x="1, text/event-stream", Text/Event-Stream ; q=0.1', True),
        (b'a/b;x=", text/event-stream"', False),
        (b"text/event-stream;q=0", False),
        (b"text/event-stream;q=x", True),
        (b"text/event-stream;charset=utf-8", True),
        (b"*/*", False),
        (b"", False),
    ],
)
def test_events_are_wanted_where_they_are_named_and_not_weighed_as_nothing(accept: bytes, wants: bool) -> None:
    assert wants_events({b"accept": accept}) is wants


@pytest.mark.parametrize(
    ("prefer", "mode", "wait_s"),
    [
        (b"respond-async", "async", 0.0),
        (b'handling=lenient, Respond-Async, wait="5"', "async", 5.0),
        (b"respond-async; wait=7", "async", 7.0),
        (b"respond-async, wait=x", "async", 0.0),
        (b"wait=5", "sync", 0.0),
        (b"", "sync", 0.0),
        (b'x="respond-async', "sync", 0.0),
    ],
)
def test_a_preference_is_one_of_several_and_may_have_parameters(prefer: bytes, mode: str, wait_s: float) -> None:
    wish = wish_of({b"prefer": prefer})
    assert (wish.mode, wish.wait_s) == (mode, wait_s)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 422),
        (b'{"id":5}', 422),
        (b'{"context":{"a":1}}', 422),
        (b'{"timeout":0}', 422),
        (b'{"webhook":"http://[x"}', 422),
        (b'{"webhook":"http://a b"}', 422),
        (b'{"webhook_events_filter":["bogus"]}', 422),
        (b'{"x":' + b"[" * 100_000, 400),
        (b'{"id":"\xff"}', 400),
        (msgspec.json.encode({"context": {str(n): "" for n in range(1001)}}), 422),
    ],
)
def test_a_body_that_cannot_be_read_or_makes_no_sense_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(Refused) as refused:
        read_body(body, JSON)
    assert refused.value.status == status
    assert "bogus" not in refused.value.message


def test_no_body_is_an_empty_one_and_nulls_are_as_nothing() -> None:
    assert bytes(read_body(b"", {}).input) == b"null"
    assert read_body(b'{"id":null,"context":null,"webhook_events_filter":null}', JSON).id is None
    assert read_input(msgspec.Raw(b"null")).members == {}


@pytest.mark.parametrize("ident", ["", ".", "..", "a/b", "a" * 129, "é", "a\n"])
def test_an_id_is_never_a_path(ident: str) -> None:
    assert not is_id(ident)
    assert is_id("...")


@pytest.mark.parametrize(("text", "status"), [(b"[1e999]", 422), (b"[", 400), (b"[" * 100_000, 400)])
def test_an_input_that_cannot_be_read_is_refused(text: bytes, status: int) -> None:
    with pytest.raises(Refused) as refused:
        read_input(msgspec.Raw(text))
    assert refused.value.status == status


def _details(text: bytes) -> list[dict[str, object]]:
    with pytest.raises(Refused) as refused:
        Inputs(INFO).check(read_input(msgspec.Raw(text)))
    assert refused.value.body is not None
    assert b"sesame" not in refused.value.body[1]
    details: list[dict[str, object]] = msgspec.json.decode(refused.value.body[1])["detail"]
    return details


def test_mistakes_are_told_together_by_field_and_without_what_came() -> None:
    fields = [detail["loc"] for detail in _details(b'{"prompt":5,"n":"sesame","maybe":"sesame"}')]
    assert fields == [["body", "input", name] for name in ("maybe", "n", "prompt")]
    assert _details(b'["sesame"]')[0]["loc"] == ["body", "input", "__root__"]


def test_what_no_parameter_takes_is_dropped_and_a_whole_float_is_an_integer() -> None:
    checked = Inputs(INFO).check(read_input(msgspec.Raw(b'{"prompt":"x","n":1.0,"zzz":1}')))
    assert (checked.json, checked.dropped) == (b'{"prompt":"x","n":1}', 1)


def test_inputs_are_the_same_whatever_the_order_of_their_keys() -> None:
    one, two = read_input(msgspec.Raw(b'{"a":1,"b":2}')), read_input(msgspec.Raw(b'{"b":2, "a":1}'))
    assert one.digest == two.digest != read_input(msgspec.Raw(b'{"a":1}')).digest


def test_a_secret_goes_to_the_handler_and_is_told_to_nobody() -> None:
    secret = {"type": ["string", "null"], "x-cog-secret": True}
    properties = {
        "key": secret,
        "other": secret,
        "keys": {"type": "array", "items": secret},
        "groups": {"type": "array", "items": {"type": "array", "items": secret}},
        "some": {"anyOf": [{"type": "integer"}, {"type": "array", "items": secret}]},
        "pair": {"type": "array", "prefixItems": [{"type": "string"}], "items": False},
        "word": {"type": "string"},
    }
    schema = msgspec.Raw(msgspec.json.encode({"type": "object", "properties": properties}))
    inputs = Inputs(msgspec.structs.replace(INFO, input_schema=schema))
    given = {"key": "a", "other": None, "keys": ["b", None], "pair": ["c"], "word": "d", "groups": [["e"]], "some": 5}
    checked = inputs.check(read_input(msgspec.Raw(msgspec.json.encode(given))))
    assert msgspec.json.decode(checked.json) == given
    masked = {"key": "**********", "keys": ["**********", None], "groups": [["**********"]], "some": "**********"}
    assert msgspec.json.decode(checked.shown) == given | masked
