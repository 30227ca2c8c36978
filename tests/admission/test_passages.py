import pytest

from tidegate.admission.passage import ANY, ROUTE, Passages
from tidegate.exchange import Arrival, Ask, Outcome, Timeouts
from tidegate.verdict import BAD_REQUEST, NOT_FOUND, Refused

TIMEOUTS = Timeouts(idle_s=7.0)
PASSAGES = Passages({"main": TIMEOUTS, "a b": Timeouts()})


class Unread:
    """A body that nobody asks for."""

    async def read(self, within_s: float = 0.0) -> bytes:
        """Give nothing."""
        raise AssertionError(within_s)


def find(target: str, body: bytes = b"", **headers: str) -> tuple[Ask, Arrival]:
    """Find where a request goes; gives what is asked, and the arrival as it is then."""
    sent = {name.encode(): value.encode() for name, value in headers.items()}
    arrival = Arrival("id", 1, ROUTE, sent, "", Unread(), Outcome(0.0), "POST", target)
    ask, model = PASSAGES.find(arrival, body)
    assert model.name == ask.model
    return ask, arrival


def test_a_model_of_its_own_stands_for_each_provider_with_its_timeouts() -> None:
    assert [model.name for model in PASSAGES.models] == ["/p/main", "/p/a b"]
    (target,) = PASSAGES.models[0].targets
    assert (target.provider, target.model, target.timeouts) == ("main", ANY, TIMEOUTS)
    assert all(model.once for model in PASSAGES.models)


def test_the_provider_is_asked_for_what_stands_behind_its_name() -> None:
    ask, arrival = find("/p/main/v2/files?limit=2", b"{}")
    assert (ask.model, ask.dialect, ask.body, arrival.target) == ("/p/main", ROUTE, b"{}", "/v2/files?limit=2")
    assert find("/p/a%20b/x")[0].model == "/p/a b"


@pytest.mark.parametrize(
    ("target", "body", "stream"),
    [
        ("/p/main/chat/completions", b'{"stream": true}', True),
        ("/p/main/chat/completions", b'{"stream" :\n true}', True),
        ("/p/main/chat/completions", b'{"stream": false}', False),
        ("/p/main/models/m:streamGenerateContent?alt=sse", b"{}", True),
        ("/p/main/models/m:generateContent", b"{}", False),
        ("/p/main/model/m/converse-stream", b"{}", True),
        ("/p/main/model/m/invoke-with-response-stream", b"{}", True),
        ("/p/main/model/m/converse", b"{}", False),
        ("/p/main/files/up-streamed", b"", False),
    ],
)
def test_a_stream_is_known_by_how_each_family_asks_for_it(target: str, body: bytes, stream: bool) -> None:
    assert find(target, body)[0].stream is stream


def test_a_client_that_takes_events_asks_for_a_stream() -> None:
    assert find("/p/main/x", accept="application/json, text/event-stream")[0].stream
    assert not find("/p/main/x", accept="application/json")[0].stream


@pytest.mark.parametrize(
    "target", ["/p/main", "/p//x", "/p/main/../x", "/p/main/a%2e%2e/..", "/p/main/%252e", "/p/main/a#b"]
)
def test_a_path_that_is_not_plain_is_refused(target: str) -> None:
    with pytest.raises(Refused) as caught:
        find(target)
    assert caught.value.verdict is BAD_REQUEST


def test_a_provider_that_lets_nothing_through_is_not_there() -> None:
    with pytest.raises(Refused) as caught:
        find("/p/other/x")
    assert caught.value.verdict is NOT_FOUND
