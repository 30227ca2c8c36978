import pytest

from tidegate.admission.address import MAX_HOPS, Proxies, group, plain

PROXIES = Proxies(["10.0.0.0/8", "192.0.2.7", "2001:db8:ffff::/48"])


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("odd:address", "odd:address"),
    ],
)
def test_an_address_of_ipv6_counts_by_its_network(address: str, counted: str) -> None:
    assert group(address) == counted


@pytest.mark.parametrize(
    ("peer", "shown"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:DB8::1", "2001:db8::1"),
        ("a:b", "a:b"),
    ],
)
def test_a_peer_is_named_in_its_own_family(peer: str, shown: str) -> None:
    assert plain(peer) == shown


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("10.1.2.3", True),
        ("192.0.2.7", True),
        ("::ffff:10.1.2.3", True),
        ("2001:db8:ffff::1", True),
        ("192.0.2.8", False),
        ("", False),
        ("unix", False),
    ],
)
def test_a_proxy_is_trusted_by_network_or_by_address(peer: str, trusted: bool) -> None:
    assert PROXIES.trusts(peer) is trusted


def test_nobody_is_trusted_where_no_proxy_is_named() -> None:
    assert not Proxies().trusts("127.0.0.1")


def test_what_is_no_network_is_an_error() -> None:
    with pytest.raises(ValueError, match="proxy"):
        Proxies(["proxy"])


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (b"203.0.113.9", "203.0.113.9"),
        (b"1.1.1.1, 203.0.113.9", "203.0.113.9"),
        (b"1.1.1.1, 203.0.113.9, 10.0.0.2, 192.0.2.7", "203.0.113.9"),
        (b"not an address, 203.0.113.9 , 10.0.0.2", "203.0.113.9"),
        (b"203.0.113.9:4711", "203.0.113.9"),
        (b"[2001:db8::5]:4711", "2001:db8::5"),
        (b"[2001:db8::5]", "2001:db8::5"),
        (b"2001:db8::5", "2001:db8::5"),
        (b"::ffff:203.0.113.9", "203.0.113.9"),
        (b"10.0.0.3, 10.0.0.2", "10.0.0.3"),
    ],
)
def test_the_client_is_the_rightmost_hop_that_is_no_proxy_of_ours(forwarded: bytes, client: str) -> None:
    assert PROXIES.client("10.0.0.1", forwarded) == client


@pytest.mark.parametrize(
    "forwarded",
    [b"", b"unknown", b"203.0.113.9, ", b"203.0.113.9, _hidden, 10.0.0.2", b"203.0.113.256", b"\xff", b"[::1"],
)
def test_where_the_header_says_nothing_readable_the_proxy_itself_is_the_client(forwarded: bytes) -> None:
    assert PROXIES.client("10.0.0.1", forwarded) in {"10.0.0.1", "::1"}


def test_of_a_header_without_end_only_so_many_hops_are_looked_at() -> None:
    assert PROXIES.client("10.0.0.1", b"203.0.113.9, " + b"10.0.0.2, " * MAX_HOPS + b"10.0.0.3") == "10.0.0.1"
