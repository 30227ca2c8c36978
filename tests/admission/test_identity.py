import hashlib
import hmac
from collections.abc import Mapping

import pytest

from tidegate.admission.identity import Door, KeyGate, credential, gate, hash_key
from tidegate.admission.settings import AuthSettings, KeySettings
from tidegate.exchange import Identity
from tidegate.verdict import UNAUTHENTICATED, Refused

KEY = "tg-0123456789abcdef"
OTHER = "tg-fedcba9876543210"
HEADERS = {
    "authorization": b"Bearer " + KEY.encode(),
    "x-api-key": KEY.encode(),
    "api-key": KEY.encode(),
    "x-goog-api-key": KEY.encode(),
}


def key_gate() -> KeyGate:
    keys = (
        KeySettings(id="laptop", sha256=hash_key(KEY), tenant="acme"),
        KeySettings(id="server", sha256=hash_key(OTHER)),
    )
    return KeyGate(AuthSettings(mode="keys", keys=keys))


def refusal(headers: Mapping[bytes, bytes]) -> Refused:
    with pytest.raises(Refused) as caught:
        key_gate().identify(headers)
    assert caught.value.verdict is UNAUTHENTICATED
    return caught.value


@pytest.mark.parametrize("name", HEADERS)
def test_a_key_is_known_in_each_of_the_usual_headers(name: str) -> None:
    assert key_gate().identify({name.encode(): HEADERS[name]}) == Identity(key_id="laptop", tenant="acme")


def test_each_key_has_an_owner_of_its_own() -> None:
    assert key_gate().identify({b"x-api-key": OTHER.encode()}) == Identity(key_id="server", tenant="")


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
def test_the_scheme_is_read_in_any_case(scheme: bytes) -> None:
    assert key_gate().identify({b"authorization": scheme + b" " + KEY.encode()}).key_id == "laptop"


def test_spaces_around_a_bearer_key_are_no_part_of_it() -> None:
    assert credential({b"authorization": b"Bearer   " + KEY.encode() + b"  "}) == KEY.encode()


def test_without_a_key_the_refusal_says_how_to_send_one() -> None:
    assert "Authorization: Bearer" in refusal({}).message
    assert "Authorization: Bearer" in refusal({b"x-api-key": b""}).message


def test_another_scheme_is_no_key_and_does_not_fall_back_to_other_headers() -> None:
    assert refusal({b"authorization": b"Basic dXNlcjpwYXNz"}).message.startswith("no API key")
    refusal({b"authorization": b"Basic dXNlcjpwYXNz", b"x-api-key": KEY.encode()})


@pytest.mark.parametrize(
    "key", [b"short", b"a" * 257, b"with a space", b"tab\tinside", b"caf\xc3\xa9-latte", b"nul\x00inside"]
)
def test_what_can_be_no_key_is_refused_before_anything_is_hashed(key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    known = key_gate()
    monkeypatch.setattr(hashlib, "sha256", lambda _: pytest.fail("hashed"))
    with pytest.raises(Refused, match="malformed"):
        known.identify({b"x-api-key": key})


@pytest.mark.parametrize("key", [b"a" * 8, b"a" * 256, b"!#$%&'()*+,-./:;<=>?@[]^_`{|}~"])
def test_an_unknown_key_of_any_good_form_is_refused(key: bytes) -> None:
    assert refusal({b"x-api-key": key}).message == "the API key is not known"


def test_no_refusal_repeats_the_key() -> None:
    for key in (b"tg-unknown-key", b"bad key with spaces", b"x"):
        assert key.decode() not in refusal({b"authorization": b"Bearer " + key}).message or key == b"x"


def test_the_digest_of_a_key_is_not_a_key() -> None:
    refusal({b"x-api-key": hash_key(KEY).encode()})


def test_a_known_key_is_decided_by_a_comparison_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    digest = hashlib.sha256(KEY.encode()).digest()

    def never(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return False

    monkeypatch.setattr(hmac, "compare_digest", never)
    with pytest.raises(Refused):
        key_gate().identify({b"x-api-key": KEY.encode()})
    assert compared == [(digest, digest)]


def test_the_gate_keeps_digests_and_no_key() -> None:
    known = key_gate()
    known.identify({b"x-api-key": KEY.encode()})
    assert KEY not in repr(vars(known))


def test_open_mode_lets_anybody_in_as_nobody() -> None:
    assert gate(AuthSettings()).identify({}) == Identity()
    assert gate(AuthSettings()).identify({b"authorization": b"Bearer whatever"}) == Identity()


def test_the_digest_of_the_settings_may_be_written_in_capitals() -> None:
    keys = (KeySettings(id="a", sha256=hash_key(KEY).upper()),)
    assert gate(AuthSettings(mode="keys", keys=keys)).identify({b"api-key": KEY.encode()}).key_id == "a"


@pytest.mark.parametrize("key", ["short", "a" * 257, "with space", "ünicode-key"])
def test_what_can_be_no_key_has_no_digest(key: str) -> None:
    with pytest.raises(ValueError, match="8 to 256"):
        hash_key(key)


# --- the door --------------------------------------------------------------------------------------------------------


class Street:
    """A door, and a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.door = Door(key_gate(), lambda: self.now, lambda: 0.0)

    def knock(self, key: str = "tg-nobody-knows", address: str = "203.0.113.1") -> str:
        try:
            return self.door.identify({b"x-api-key": key.encode()}, address).key_id
        except Refused as fault:
            self.headers = dict(fault.headers)
            return fault.verdict.code


def test_after_twenty_failures_in_a_minute_the_next_is_told_to_wait() -> None:
    street = Street()
    assert [street.knock() for _ in range(22)] == ["unauthenticated"] * 20 + ["too_many_failures"] * 2
    assert street.headers == {b"retry-after": b"3"}
    street.now += 3
    assert [street.knock() for _ in range(2)] == ["unauthenticated", "too_many_failures"]
    street.now += 60
    assert street.knock() == "unauthenticated"


def test_a_good_key_from_the_same_address_still_passes_and_costs_nothing() -> None:
    street = Street()
    for _ in range(40):
        street.knock()
    assert street.knock(KEY) == "laptop"
    street = Street()
    assert [street.knock(KEY) for _ in range(100)] == ["laptop"] * 100
    assert street.knock() == "unauthenticated"


def test_failures_count_for_each_address_and_for_each_network_of_ipv6() -> None:
    street = Street()
    for number in range(20):
        street.knock(address=f"2001:db8::{number}")
    assert street.knock(address="2001:db8::ffff") == "too_many_failures"
    assert street.knock(address="2001:db8:0:1::") == "unauthenticated"
    assert street.knock() == "unauthenticated"


def test_another_gate_takes_over_and_failures_are_remembered() -> None:
    street = Street()
    for _ in range(20):
        street.knock()
    keys = (KeySettings(id="new", sha256=hash_key("tg-brand-new-key")),)
    street.door.use(gate(AuthSettings(mode="keys", keys=keys)))
    assert street.knock("tg-brand-new-key") == "new"
    assert street.knock(KEY) == "too_many_failures"
