from pytest_benchmark.fixture import BenchmarkFixture

from tidegate.admission.identity import KeyGate, hash_key
from tidegate.admission.settings import AuthSettings, KeySettings

KEYS = tuple(KeySettings(id=f"key-{n}", sha256=hash_key(f"tg-{n:040d}")) for n in range(100))


def test_a_key_is_checked_hashed_and_looked_up(benchmark: BenchmarkFixture) -> None:
    gate = KeyGate(AuthSettings(mode="keys", keys=KEYS))
    identity = benchmark(gate.identify, {b"authorization": b"Bearer tg-" + b"%040d" % 42})
    assert identity.key_id == "key-42"
