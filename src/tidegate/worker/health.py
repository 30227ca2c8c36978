"""How a local provider is: the words and members that Cog's clients know from `/health-check`."""

from datetime import UTC, datetime
from typing import Final, Literal

from msgspec import Struct

Status = Literal["STARTING", "READY", "BUSY", "SETUP_FAILED", "UNHEALTHY", "DEFUNCT"]
SetupStatus = Literal["starting", "succeeded", "failed"]

MAX_LOG_CHARS: Final = 256 * 1024
"""What is kept of the words of a setup: the last ones."""


class Setup(Struct, frozen=True, omit_defaults=True):
    """A setup. Shape: instants as in RFC 3339; `completed_at` is empty while it runs; `logs` has what was printed."""

    status: SetupStatus
    started_at: str = ""
    completed_at: str = ""
    logs: str = ""


class Health(Struct, frozen=True, omit_defaults=True):
    """How a local provider is.

    Shape: `user_healthcheck_error` is what its own check said last. `error` is why no worker is ready, as far as that is
    known, and `restart_in_s` when the next one is started; 0.0 where one is, or none will be.
    """

    status: Status
    setup: Setup
    user_healthcheck_error: str = ""
    error: str = ""
    restart_in_s: float = 0.0


class SetupDiary:
    """Writes down one setup while it goes on. Holds: the last MAX_LOG_CHARS of what it printed."""

    __slots__ = ("_chars", "_completed_at", "_lines", "_started_at", "_status")

    def __init__(self, now: float) -> None:
        self._started_at = _instant(now)
        self._completed_at = ""
        self._status: SetupStatus = "starting"
        self._lines: list[str] = []
        self._chars = 0

    def note(self, text: str) -> None:
        """Add what was printed."""
        self._lines.append(text)
        self._chars += len(text)
        if self._chars > 2 * MAX_LOG_CHARS:
            self._lines = [self.logs()]
            self._chars = len(self._lines[0])

    def conclude(self, why: str) -> None:
        """Add why it failed, on a line of its own, unless that was the last thing it printed."""
        logs = self.logs()
        if not logs.endswith(f"{why}\n"):
            self.note(f"{why}\n" if not logs or logs.endswith("\n") else f"\n{why}\n")

    def logs(self) -> str:
        """Give what was printed last."""
        return "".join(self._lines)[-MAX_LOG_CHARS:]

    def complete(self, status: SetupStatus, now: float) -> None:
        """Write down how it ended."""
        self._status, self._completed_at = status, _instant(now)

    def setup(self) -> Setup:
        """Give it as clients see it."""
        return Setup(self._status, self._started_at, self._completed_at, self.logs())


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
