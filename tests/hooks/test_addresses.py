"""Which addresses and URLs are fit to be asked for."""

import pytest

from tidegate.hooks.addresses import MAX_URL_CHARACTERS, GuardError, checked, public

PRIVATE = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.168.1.1", "198.18.0.1",
    "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "64:ff9b::10.0.0.1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1", "2001::1", "2001:db8::1", "3fff::1",
    "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "100::1", "5f00::1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0",
    "168.63.129.15", "223.255.255.255", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_of_the_internet_is_not_public(address: str) -> None:
    assert not public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert public(address)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "017700000001",
        "0", "[::1]", "[::ffff:127.0.0.1]", "[0:0:0:0:0:ffff:7f00:1]", "[::ffff:7f00:1]", "[fe80::1%25eth0]",
        "169.254.169.254", "0xa9.0xfe.0xa9.0xfe", "①②⑦.⓪.⓪.①", "1.2.3.4.5", "256.256.256.256", "name.0x1",
        "127。0。0。1", "8.8.2056",
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_private_address_is_refused_however_it_is_written(host: str, scheme: str) -> None:
    with pytest.raises(GuardError):
        checked(f"{scheme}://{host}:8080/x", allow_private=False)


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1"])
def test_an_uncommon_spelling_is_refused_where_private_addresses_are_not(host: str) -> None:
    with pytest.raises(GuardError, match="written the usual way"):
        checked(f"http://{host}/", allow_private=True)


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "/etc/passwd", "file:///etc/passwd", "ftp://example.com/", "gopher://example.com/", "http:///path",
        "http://", "//example.com/", "http://user:word@example.com/", "http://user@example.com/",
        "http://example.com:99999/", "http://example.com:x/", "http://exa mple.com/", "http://example.com/\r\nx: y",
        "http://example.com\\@127.0.0.1/", "http://[::1", "http://example.com/\t", "http://example.com:0/", "javascript:1",
        "http://example.com/" + "x" * MAX_URL_CHARACTERS,
    ],
)  # fmt: skip
def test_what_is_no_plain_web_address_is_refused(text: str) -> None:
    with pytest.raises(GuardError):
        checked(text, allow_private=True)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("http://example.com", "example.com", 80),
        ("https://EXAMPLE.com:8443/a?b=c", "example.com", 8443),
        ("https://8.8.8.8/x", "8.8.8.8", 443),
        ("https://[2606:4700::1111]:1/", "2606:4700::1111", 1),
        ("https://bücher.example/", "xn--bcher-kva.example", 443),
    ],
)
def test_a_plain_web_address_passes(text: str, host: str, port: int) -> None:
    url = checked(text, allow_private=False)
    assert (url.raw_host, url.port) == (host, port)


def test_what_is_behind_the_hash_stays_at_home() -> None:
    assert str(checked("https://example.com/a?b#secret", allow_private=False)) == "https://example.com/a?b"


def test_a_refusal_repeats_neither_path_nor_query_nor_password() -> None:
    for text in (
        "http://10.0.0.1/sentinel?sentinel",
        "http://a:sentinel@b/",
        "ftp://a/sentinel",
        "http://a:x/sentinel",
    ):
        with pytest.raises(GuardError) as caught:
            checked(text, allow_private=False)
        assert "sentinel" not in str(caught.value)
