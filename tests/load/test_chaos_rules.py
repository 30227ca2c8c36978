"""The judge of `make chaos`: what is owed, what is excused, and that it says no when it must."""

import random
from collections.abc import Iterable
from typing import Any

import pytest

from chaos import (
    GAUGES,
    PROVIDERS,
    SETTLE_S,
    Asked,
    Fault,
    Metrics,
    Records,
    Rules,
    cut,
    fine_throughout,
    judge_answers,
    judge_hits,
    judge_records,
    judge_rest,
    owed,
    plan,
    read_answer,
)
from gates import Gate
from streams import DONE, FINISH, ROLE, word
from tidegate.testing.upstream import LAST, chunk

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-tidegate-target: b/steady"


def asked(number: int = 1, **members: Any) -> Asked:
    plain = {"id": f"chaos-{number}", "kind": "stream", "model": "steady", "tokens": 2, "began_s": 50.0}
    came = {"opened_s": 50.1, "ended_s": 51.0, "status": 200, "provider": "a", "whole": True}
    return Asked(**{**plain, **came, **members})


def records(*told: dict[str, Any]) -> Records:
    found = Records()
    for record in told:
        full = {"request": "chaos-1", "duration_s": 1.0, "code": "completed", **record}
        found.exchanges.setdefault(full["request"], []).append(full)
    return found


def failed(rules: Rules) -> list[str]:
    return [text for fine, text in rules if not fine]


def stream(*frames: bytes) -> bytes:
    return b"".join(map(chunk, frames)) + LAST


@pytest.mark.parametrize("seed", range(20))
def test_the_plan_breaks_every_provider_and_leaves_one_fine_and_settled_at_any_time(seed: int) -> None:
    faults = plan(300.0, random.Random(seed))
    assert {fault.provider for fault in faults} == set(PROVIDERS)
    assert all(fine_throughout(faults, at_s / 4, at_s / 4) for at_s in range(1200))
    assert max(fault.until_s for fault in faults) < 300.0


def test_the_plan_breaks_two_providers_at_a_time_now_and_then() -> None:
    faults = plan(300.0, random.Random(1))
    assert any(
        fault.overlaps(other.from_s, other.until_s) for fault in faults for other in faults if other is not fault
    )


def test_the_same_dice_give_the_same_plan() -> None:
    assert plan(60.0, random.Random(7)) == plan(60.0, random.Random(7)) != plan(60.0, random.Random(8))


def test_two_providers_that_were_fine_by_turns_are_not_one_that_was_fine_throughout() -> None:
    faults = [Fault("a", "stall", 0.0, 99.0), Fault("b", "stall", 0.0, 40.0), Fault("c", "stall", 50.5, 60.0)]
    assert fine_throughout(faults, 50.0, 50.4)
    assert fine_throughout(faults, 50.0, 51.0)  # b has been fine for ten seconds
    assert not fine_throughout(faults, 40.0 + SETTLE_S - 1.0, 51.0)


@pytest.mark.parametrize(
    ("members", "faults", "due"),
    [
        ({}, [], True),
        ({"kind": "whole"}, [], True),
        ({"kind": "leaving"}, [], False),
        ({"kind": "overlong"}, [], False),
        ({}, [Fault(name, "stall", 50.5, 50.6) for name in PROVIDERS], False),
        ({}, [Fault("a", "reset", 50.5, 50.6)], False),
        ({}, [Fault("a", "busy", 50.5, 50.6)], True),
        ({}, [Fault("b", "reset", 50.5, 50.6)], True),
        ({"opened_s": 0.0, "provider": "", "status": 0}, [Fault("a", "reset", 50.5, 50.6)], True),
        ({"status": 503, "code": "upstream_failed"}, [Fault("a", "reset", 50.5, 50.6)], True),
        ({"status": 504, "code": "total_timeout"}, [Fault("a", "stall", 49.0, 49.9)], True),
        ({"status": 504, "code": "total_timeout"}, [Fault("a", "stall", 50.01, 50.05)], False),
        ({"status": 503, "code": "upstream_failed", "may_retry": False}, [], False),
        ({"status": 503, "code": "upstream_failed"}, [], True),
        ({"status": 504, "code": "deadline_exceeded", "may_retry": False}, [], True),
        ({"status": 503, "code": "somebody_elses", "may_retry": False}, [], False),
    ],
)
def test_an_answer_is_owed_where_a_provider_was_fine_and_the_budget_not_empty(
    members: dict[str, Any], faults: list[Fault], due: bool
) -> None:
    assert owed(asked(**members), faults) is due


def test_a_stream_is_cut_by_a_fault_of_its_own_provider_after_it_opened() -> None:
    assert cut(asked(), [Fault("a", "refuse", 50.9, 53.0)])
    assert not cut(asked(), [Fault("a", "refuse", 49.0, 50.05)])
    assert not cut(asked(), [Fault("a", "refuse", 51.1, 53.0)])


def judged(good: int, bad: Iterable[Asked], faults: list[Fault] | None = None) -> list[str]:
    return failed(judge_answers([*(asked(number) for number in range(good)), *bad], faults or [], Records()))


def test_one_lost_answer_in_a_thousand_is_allowed_and_two_are_not() -> None:
    lost = asked(status=503, code="breaker_open", whole=False)
    assert judged(1999, [lost, lost]) == []
    assert len(judged(1998, [lost, lost, lost])) == 1


def test_a_run_in_which_hardly_any_answer_was_owed_proves_nothing() -> None:
    excused = [Fault(name, "stall", 50.5, 50.6) for name in PROVIDERS]
    assert len(judged(10, [], excused)) == 1
    assert "0 of 10 answers were owed" in judged(10, [], excused)[0]


def test_a_short_stream_with_a_good_end_is_never_excused() -> None:
    assert judged(5000, [asked(whole=False, forged=True)]) == ["no answer ended well and was not whole"]


@pytest.mark.parametrize(
    ("body", "whole", "forged", "code"),
    [
        (stream(ROLE, word("a"), word("b"), FINISH, DONE), True, False, ""),
        (stream(ROLE, word("a"), FINISH, DONE), False, True, ""),
        (stream(ROLE, word("a"), word("b"), word("b"), FINISH, DONE), False, True, ""),
        (stream(ROLE, word("a")), False, False, ""),
        (b"".join(map(chunk, (ROLE, word("a"), word("b"), FINISH, DONE))), False, False, ""),
        (stream(ROLE, b'data: {"error": {"message": "x", "code": "idle_timeout"}}\n\n'), False, False, "idle_timeout"),
    ],
)
def test_a_stream_is_whole_with_every_token_once_and_its_end(body: bytes, whole: bool, forged: bool, code: str) -> None:
    each = asked(whole=False)
    read_answer(each, HEAD, body)
    assert (each.whole, each.forged, each.code, each.provider) == (whole, forged, code, "b")


def test_a_refusal_says_why_and_whether_the_budget_was_empty() -> None:
    each = asked(whole=False)
    head = b"HTTP/1.1 503 No\r\ncontent-length: 9\r\nx-should-retry: false"
    read_answer(each, head, b'{"error": {"message": "x", "code": "upstream_failed"}}')
    assert (each.status, each.code, each.whole, each.denied) == (503, "upstream_failed", False, True)


def test_records_are_judged_by_deadline_number_and_kind_of_ending() -> None:
    assert failed(judge_records([asked()], records({"duration_s": 12.5}))) == []
    assert "outlived" in failed(judge_records([asked()], records({"duration_s": 13.5})))[0]
    assert "outlived" in failed(judge_records([asked(kind="overlong")], records({"duration_s": 3.0})))[0]
    assert "one record" in failed(judge_records([asked()], records({}, {})))[0]
    assert "one record" in failed(judge_records([asked()], records()))[0]
    assert "no bug" in failed(judge_records([asked()], records({"code": "bug"})))[0]


def metrics(**values: float) -> Metrics:
    plain = {
        "exchanges_started_total": 10.0,
        "requests_total": 10.0,
        "stream_retries_total": 1.0,
        "fallbacks_total": 1.0,
        "hedges_total": 1.0,
        "breaker_transitions_total": 1.0,
    }
    return [(f"tidegate_{name}", {}, value) for name, value in {**plain, **values}.items()]


def gates(hits: int, extra: int) -> dict[str, Gate]:
    gate = Gate(0, 0, set(), random.Random(1))
    gate.hits, gate.extra = hits, extra
    return {"a": gate}


def test_hits_are_bounded_by_ratio_rate_and_burst() -> None:
    assert failed(judge_hits(gates(129, 29), 100, 0.0, metrics())) == []
    assert len(failed(judge_hits(gates(131, 31), 100, 0.0, metrics()))) == 2
    assert failed(judge_hits(gates(131, 31), 100, 1.0, metrics())) == []
    assert "felt" in failed(judge_hits(gates(100, 0), 100, 0.0, metrics(hedges_total=0.0)))[0]


@pytest.mark.parametrize("gauge", GAUGES)
def test_each_gauge_must_be_zero_at_the_end(gauge: str) -> None:
    assert failed(judge_rest(metrics(), [], 0)) == []
    left = [*metrics(), (f"tidegate_{gauge}", dict(GAUGES[gauge]), 1.0)]
    assert gauge in failed(judge_rest(left, [], 0))[0]


def test_idle_connections_to_providers_may_stay() -> None:
    assert failed(judge_rest([*metrics(), ("tidegate_upstream_connections", {"state": "idle"}, 3.0)], [], 0)) == []


def test_unfinished_exchanges_uncounted_denials_and_exit_codes_are_failures() -> None:
    assert "started" in failed(judge_rest(metrics(requests_total=9.0), [], 0))[0]
    denied = asked(status=503, code="upstream_failed", may_retry=False)
    assert "denials" in failed(judge_rest(metrics(), [denied], 0))[0]
    assert "exit code 1" in failed(judge_rest(metrics(), [], 1))[0]
