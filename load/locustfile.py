"""Users that read chat completions as they come, three short ones to a long one: `make load`, or `locust -f` by itself.

TTFT is a metric of its own (request type TTFT); `generation` is the whole stream. See docs/load.md.
"""

import random
import sys
import time
from argparse import ArgumentParser
from typing import Any, Final
from urllib.parse import urlsplit

from locust import LoadTestShape, User, between, events, task
from locust.env import Environment
from msgspec import structs

from profiles import PROFILES, Profile
from streaming import Streamed, Streamer, StreamFailedError
from watch import Watch

SHORT_TOKENS: Final = 40
LONG_TOKENS: Final = 200
ITL_MS: Final = 15
TTFT_MS: Final = (60, 180)
"""Between which times the provider is told to give the first token."""


@events.init_command_line_parser.add_listener
def _add_options(parser: ArgumentParser, **_: Any) -> None:
    parser.add_argument("--seconds", type=float, default=0.0, help="when the test ends; 0 is the profile's own end")
    parser.add_argument("--gateway-pid", type=int, default=0, help="the process whose memory and CPU are watched")


@events.init.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    Watch(environment, _profile(environment), environment.parsed_options.gateway_pid)


def _profile(environment: Environment) -> Profile:
    """Give what `--profile` names: locust's own option, a word to group tests by."""
    options = environment.parsed_options
    name = options.profile or "ramp"
    if name not in PROFILES:
        sys.exit(f"no profile {name!r}; there are {', '.join(PROFILES)}")
    profile = PROFILES[name]
    return structs.replace(profile, ends_s=options.seconds) if options.seconds else profile


class Shape(LoadTestShape):
    """The profile that was asked for."""

    def tick(self) -> tuple[int, float] | None:
        """Give users and how many come a second; None at the end."""
        if self.runner is None:
            return None
        stage = _profile(self.runner.environment).stage_at(self.get_run_time())
        return (stage.users, stage.per_second) if stage is not None else None


class Reader(User):
    """Somebody who asks, reads the answer as it comes, and thinks for a while."""

    wait_time = between(1, 3)

    def on_start(self) -> None:
        """Take a connection."""
        at = urlsplit(self.host or "")
        self._streamer = Streamer(at.hostname or "127.0.0.1", at.port or 80, time.perf_counter)

    def on_stop(self) -> None:
        """Let it go."""
        self._streamer.close()

    @task(3)
    def short(self) -> None:
        """Ask for a short answer."""
        self._read("short", SHORT_TOKENS)

    @task(1)
    def long(self) -> None:
        """Ask for a long one."""
        self._read("long", LONG_TOKENS)

    def _read(self, name: str, tokens: int) -> None:
        asked_ms = random.randint(*TTFT_MS)
        body = {
            "model": "mock",
            "messages": [{"role": "user", "content": f"A {name} answer, please."}],
            "stream": True,
            "user": f"mock?ttft={asked_ms}ms&itl={ITL_MS}ms&tokens={tokens}",
        }
        seen, failure = Streamed(), None
        try:
            self._streamer.stream(body, seen, lambda seen: self._fire("TTFT", name, seen.first_at - seen.began_at))
        except StreamFailedError as error:
            failure = error
        told = {"streamed": seen, "asked_s": asked_ms / 1000}
        self._fire("generation", name, seen.ended_at - seen.began_at, failure, told)

    def _fire(
        self, kind: str, name: str, took_s: float, failure: Exception | None = None, told: dict[str, Any] | None = None
    ) -> None:
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=took_s * 1000,
            response_length=0,
            exception=failure,
            context=told or {},
        )
