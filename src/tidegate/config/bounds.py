"""What the numbers of attempts and limits must be like."""

from typing import Final

from tidegate.config.decode import Seen, Spot
from tidegate.config.mistakes import Mistakes

_LIMITS: Final = ("requests_per_minute", "tokens_per_minute", "max_streams")


def check_attempts(seen: Seen, mistakes: Mistakes) -> None:
    """Note what would let no attempt be made, or a breaker never close."""
    for attempts in seen.get("providers[].retry.max_attempts", ()):
        _require(attempts, mistakes, "expected at least 1, the first attempt included; 1 is no retry")
    for breaker in seen.get("providers[].breaker", ()):
        _check_breaker(breaker, mistakes)


def _check_breaker(breaker: Spot, mistakes: Mistakes) -> None:
    ratio = breaker.member("ratio")
    if ratio.value is not None and ratio.value > 1:
        mistakes.add(ratio.node.at, ratio.path, f"expected a part of all calls, from 0 to 1, got {ratio.shown}")
    by_ratio = ratio.value != 0
    if not by_ratio and breaker.member("failures").value == 0:
        return  # it is off
    off = "failures: 0 and ratio: 0 switch the breaker off"
    for name in ("open_for", "probes", "successes"):
        _require(breaker.member(name), mistakes, "expected more than 0, as the breaker is on", off)
    for name in ("window", "min_calls") if by_ratio else ():
        _require(breaker.member(name), mistakes, "expected more than 0, as ratio is judged by it", "ratio: 0 is off")


def _require(spot: Spot, mistakes: Mistakes, problem: str, hint: str = "") -> None:
    """Refuse a 0."""
    if spot.value == 0:
        mistakes.add(spot.node.at, spot.path, problem, hint)


def check_rates(seen: Seen, mistakes: Mistakes) -> None:
    """Note rules that limit nothing."""
    for rule in seen.get("limits.rate[]", ()):
        if not any(rule.value.get(name) for name in _LIMITS):
            mistakes.add(rule.node.at, rule.path, f"expected a limit: {', '.join(_LIMITS[:-1])} or {_LIMITS[-1]}")
        elif rule.member("burst").value and not rule.value.get("requests_per_minute"):
            requests = rule.member("requests_per_minute")
            mistakes.add(requests.node.at, requests.path, "required, as burst is set")
