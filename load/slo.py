"""What a load test is judged by: objectives, the knee of a ramp, memory that must stay flat. Pure: samples in, verdicts out."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import Struct

from profiles import Profile
from tidegate.bench.measure import percentile

STEP_S: Final = 5.0
"""How long a ramp's step is."""
MOST_GROWTH: Final = 1.1
"""What memory may be in the last third of a test, as a multiple of the middle third."""


class Sample(Struct, frozen=True, kw_only=True):
    """One stream that is over.

    Shape: seconds; `began_s` since the test began; `ttft_s` is when the first token came, None for never, and `asked_s`
    when the provider was told to give it; `failure` is empty where all went well.
    """

    began_s: float
    took_s: float
    asked_s: float = 0.0
    ttft_s: float | None = None
    failure: str = ""


Value = Callable[[Sequence[Sample]], float | None]
"""Gives a figure of some streams, in seconds or as a part of 1; None where there is nothing to tell."""


class Objective(Struct, frozen=True):
    """A bound that a figure stays below."""

    name: str
    bound: float
    value: Value

    def met(self, samples: Sequence[Sample]) -> bool:
        """Say whether it is kept; where there is nothing to judge it is not."""
        value = self.value(samples)
        return value is not None and value < self.bound


class Knee(Struct, frozen=True):
    """The first step of a ramp that is out of bounds. Shape: `users` are those at its end."""

    users: int
    ttft_p95_s: float | None
    errors: float


class Line(Struct, frozen=True):
    """A line of the report. Shape: `met` is None for what is told and not judged."""

    met: bool | None
    text: str


def ttft(share: float) -> Value:
    """Give the percentile of the time to the first token, of streams that had one."""
    return lambda samples: _percentile((sample.ttft_s for sample in samples if sample.ttft_s is not None), share)


def added(share: float) -> Value:
    """Give the percentile of what came on top of the time that the provider was told to take to the first token."""
    return lambda samples: _percentile(
        (sample.ttft_s - sample.asked_s for sample in samples if sample.ttft_s is not None), share
    )


def generation(share: float) -> Value:
    """Give the percentile of the time that whole streams took; failed ones count among the errors."""
    return lambda samples: _percentile((sample.took_s for sample in samples if not sample.failure), share)


def errors(samples: Sequence[Sample]) -> float | None:
    """Give the part of the streams that failed."""
    return sum(bool(sample.failure) for sample in samples) / len(samples) if samples else None


def _percentile(values: Iterable[float], share: float) -> float | None:
    ordered = sorted(values)
    return percentile(ordered, share) if ordered else None


TTFT_P95: Final = Objective("TTFT p95", 1.0, ttft(0.95))
ERRORS: Final = Objective("errors", 0.001, errors)
OBJECTIVES: Final = (
    Objective("TTFT p50", 0.3, ttft(0.50)),
    TTFT_P95,
    Objective("TTFT p99", 2.0, ttft(0.99)),
    Objective("generation p50", 5.0, generation(0.50)),
    Objective("generation p95", 15.0, generation(0.95)),
    ERRORS,
)


def find_knee(samples: Iterable[Sample], profile: Profile, step_s: float = STEP_S) -> Knee | None:
    """Give the first step at which TTFT's p95 or the errors are out of bounds; None for none.

    Shape: a stream belongs to the step in which it began; a step in which none did says nothing.
    """
    steps: dict[int, list[Sample]] = {}
    for sample in samples:
        steps.setdefault(int(sample.began_s / step_s), []).append(sample)
    for number, step in sorted(steps.items()):
        if not (TTFT_P95.met(step) and ERRORS.met(step)):
            return Knee(profile.users_at((number + 1) * step_s), TTFT_P95.value(step), errors(step) or 0.0)
    return None


def growth(readings: Sequence[float]) -> float | None:
    """Give the mean of the last third as a multiple of the middle third's; None for fewer than three readings."""
    third = len(readings) // 3
    if not third:
        return None
    middle, last = readings[-2 * third : -third], readings[-third:]
    return sum(last) / sum(middle)


def report(samples: Sequence[Sample], profile: Profile, rss_mib: Sequence[float]) -> list[Line]:
    """Give the table that ends a test."""
    lines = [_judged(objective, samples) for objective in OBJECTIVES]
    if profile.flat:
        lines.append(_judged_growth(rss_mib))
    if profile.knee:
        lines.append(Line(None, _knee_text(find_knee(samples, profile), profile)))
    extra = " / ".join(_seconds(added(share)(samples)) for share in (0.50, 0.95, 0.99))
    lines.append(Line(None, f"on top of the provider's own time to the first token, p50 / p95 / p99: {extra}"))
    causes = Counter(sample.failure for sample in samples if sample.failure)
    lines.append(Line(None, f"{len(samples)} streams, {causes.total()} failed" + _listed(causes)))
    return lines


def _judged(objective: Objective, samples: Sequence[Sample]) -> Line:
    write = _part if objective is ERRORS else _seconds
    text = f"{objective.name:<15} {write(objective.value(samples)):>9}   < {write(objective.bound)}"
    return Line(objective.met(samples), text)


def _judged_growth(rss_mib: Sequence[float]) -> Line:
    grown = growth(rss_mib)
    said = "nothing known" if grown is None else f"x{grown:.3f}"
    text = f"{'memory flat':<15} {said:>9}   < x{MOST_GROWTH} from the middle third to the last"
    return Line(grown is not None and grown < MOST_GROWTH, text)


def _knee_text(knee: Knee | None, profile: Profile) -> str:
    if knee is None:
        return f"no knee up to {profile.users_at(profile.ends_s)} users"
    return f"knee at {knee.users} users: TTFT p95 {_seconds(knee.ttft_p95_s)}, errors {_part(knee.errors)}"


def _listed(causes: Counter[str]) -> str:
    return "".join(f"; {count} x {cause}" for cause, count in causes.most_common())


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def _part(value: float | None) -> str:
    return "none" if value is None else f"{value:.3%}"
