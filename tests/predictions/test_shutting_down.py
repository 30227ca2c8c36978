"""Who may stop the process: whoever is on this machine, and nobody else, with a key or without."""

import pytest
from fronting import fronted

from harness import run
from tidegate.predictions.requests import check_near
from tidegate.verdict import Refused


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "::1", "::1%lo"])
def test_this_machine_is_near(peer: str) -> None:
    check_near(peer, {})


@pytest.mark.parametrize("peer", ["10.0.0.1", "192.168.0.2", "8.8.8.8", "fe80::1%eth0", "2001:db8::1", "", "localhost"])
def test_any_other_is_not(peer: str) -> None:
    with pytest.raises(Refused) as refused:
        check_near(peer, {b"authorization": b"Bearer k"})
    assert refused.value.status == 403


@pytest.mark.parametrize(
    "headers",
    [{"x_forwarded_for": "127.0.0.1"}, {"forwarded": "for=127.0.0.1"}, {"via": "1.1 p"}, {"x_real_ip": "10.0.0.1"}],
)
def test_what_was_forwarded_by_a_proxy_of_this_machine_stops_nothing(headers: dict[str, str]) -> None:
    async def scenario() -> None:
        async with fronted(shutdown=True) as at:
            reply = await at.post(b"", "/shutdown", **headers, authorization="k")
            assert (reply.status, at.shut_down) == (403, 0)
            assert (await at.get("/openapi.json", **headers)).status == 200
            assert (await at.post(b"", "/shutdown")).status == 200
            assert at.shut_down == 1

    run(scenario)
