from collections.abc import Mapping

from tidegate.admission.address import Proxies
from tidegate.admission.crowd import Crowd

DIRECT: Mapping[bytes, bytes] = {}


def via(*hops: str) -> dict[bytes, bytes]:
    return {b"x-forwarded-for": ", ".join(hops).encode()}


def test_a_connection_beyond_the_limit_has_no_place_for_a_request() -> None:
    crowd = Crowd(max_connections=2)
    first, second, third = (crowd.join(f"203.0.113.{n}") for n in range(3))
    assert (first.begin(DIRECT), second.begin(DIRECT), third.begin(DIRECT)) == ("203.0.113.0", "203.0.113.1", None)
    assert (len(crowd), crowd.addresses) == (2, 2)


def test_a_place_that_came_free_is_taken_by_the_next_request() -> None:
    crowd = Crowd(max_connections=1)
    first, second = crowd.join("203.0.113.1"), crowd.join("203.0.113.2")
    assert second.begin(DIRECT) is None
    first.leave()
    assert second.begin(DIRECT) == "203.0.113.2"
    assert crowd.join("203.0.113.3").begin(DIRECT) is None


def test_each_address_has_so_many_connections() -> None:
    crowd = Crowd(max_per_address=1)
    first, second, other = crowd.join("203.0.113.1"), crowd.join("203.0.113.1"), crowd.join("203.0.113.2")
    assert (first.begin(DIRECT), second.begin(DIRECT), other.begin(DIRECT)) == ("203.0.113.1", None, "203.0.113.2")
    assert len(crowd) == 2, "a refused connection takes no other place either"


def test_the_addresses_of_one_network_of_ipv6_are_one() -> None:
    crowd = Crowd(max_per_address=1)
    assert crowd.join("2001:db8::1").begin(DIRECT) == "2001:db8::1"
    assert crowd.join("2001:db8::2").begin(DIRECT) is None
    assert crowd.join("2001:db8:0:1::2").begin(DIRECT) == "2001:db8:0:1::2"
    assert crowd.addresses == 2


def test_a_direct_connection_counts_while_it_is_idle() -> None:
    crowd = Crowd(max_per_address=1)
    first = crowd.join("203.0.113.1")
    assert first.begin(DIRECT)
    first.done()
    assert crowd.join("203.0.113.1").begin(DIRECT) is None
    first.leave()
    assert (len(crowd), crowd.addresses) == (0, 0)


def test_leaving_twice_gives_back_once() -> None:
    crowd = Crowd(max_connections=1)
    seat = crowd.join("203.0.113.1")
    seat.leave()
    seat.leave()
    assert len(crowd) == 0


def test_a_header_from_anybody_is_not_believed() -> None:
    seat = Crowd(proxies=Proxies(["10.0.0.1"])).join("203.0.113.1")
    assert seat.begin(via("198.51.100.1")) == "203.0.113.1"


def test_behind_a_proxy_each_request_in_work_counts_for_its_client() -> None:
    crowd = Crowd(max_per_address=1, proxies=Proxies(["10.0.0.1"]))
    seats = [crowd.join("10.0.0.1") for _ in range(3)]
    assert crowd.addresses == 0, "the proxy itself is nobody's address"
    assert seats[0].begin(via("198.51.100.1")) == "198.51.100.1"
    assert seats[1].begin(via("198.51.100.1")) is None
    assert seats[2].begin(via("198.51.100.2")) == "198.51.100.2"
    assert crowd.addresses == 2
    seats[0].done()
    assert seats[1].begin(via("198.51.100.1")) == "198.51.100.1"
    for seat in seats:
        seat.leave()
    assert (len(crowd), crowd.addresses) == (0, 0)


def test_the_connections_of_a_proxy_count_as_connections() -> None:
    crowd = Crowd(max_connections=1, proxies=Proxies(["10.0.0.1"]))
    assert crowd.join("10.0.0.1").begin(via("198.51.100.1")) == "198.51.100.1"
    assert crowd.join("10.0.0.1").begin(via("198.51.100.2")) is None


def test_a_peer_without_an_address_gives_its_place_back_as_well() -> None:
    crowd = Crowd(max_per_address=1)
    seat = crowd.join("")
    assert seat.begin(DIRECT) == ""
    seat.leave()
    assert crowd.addresses == 0


def test_a_proxy_that_is_no_longer_trusted_is_a_client_like_any_other_from_its_next_request() -> None:
    crowd = Crowd(max_per_address=1, proxies=Proxies(["10.0.0.0/8"]))
    seat = crowd.join("10.0.0.1")
    assert seat.begin(via("203.0.113.1")) == "203.0.113.1"
    seat.done()
    crowd.proxies = Proxies()
    assert seat.begin(via("203.0.113.2")) == "10.0.0.1"
    assert (len(crowd), crowd.addresses) == (1, 1)
    assert crowd.join("10.0.0.1").begin(DIRECT) is None
    crowd.proxies = Proxies(["10.0.0.0/8"])
    assert seat.begin(via("203.0.113.3")) == "203.0.113.3"
    seat.done()
    seat.leave()
    assert crowd.addresses == 0
