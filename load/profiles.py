"""How many users a load test has, and when. Pure."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct


class Stage(Struct, frozen=True):
    """A part of a test. Shape: from `at_s` on, users come at `per_second` until there are `users`."""

    at_s: float
    users: int
    per_second: float


class Profile(Struct, frozen=True, kw_only=True):
    """A test. Shape: stages in the order of time, the first at 0; `knee` and `flat` say what is looked for besides."""

    stages: tuple[Stage, ...]
    ends_s: float
    knee: bool = False
    flat: bool = False

    def stage_at(self, at_s: float) -> Stage | None:
        """Give the stage of an instant; None when the test is over."""
        if at_s >= self.ends_s:
            return None
        return [stage for stage in self.stages if stage.at_s <= at_s][-1]

    def users_at(self, at_s: float) -> int:
        """Give how many users there are at an instant, as planned."""
        users = 0.0
        ends = [*(stage.at_s for stage in self.stages[1:]), self.ends_s]
        for stage, end_s in zip(self.stages, ends, strict=True):
            lasted_s = max(0.0, min(at_s, end_s) - stage.at_s)
            users = min(stage.users, users + stage.per_second * lasted_s)
        return round(users)


RAMP_S: Final = 60.0
PROFILES: Final[Mapping[str, Profile]] = {
    "ramp": Profile(stages=(Stage(0.0, 10, 10.0), Stage(1.0, 500, 490 / (RAMP_S - 1))), ends_s=RAMP_S, knee=True),
    "soak": Profile(stages=(Stage(0.0, 50, 5.0),), ends_s=3600.0, flat=True),
    "spike": Profile(stages=(Stage(0.0, 10, 10.0), Stage(10.0, 200, 95.0)), ends_s=40.0),
}
"""`ramp` looks for the knee, `soak` for a leak, `spike` for what a crowd does that comes all at once and stays for 30 s."""
