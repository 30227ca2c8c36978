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
    """How a local provider is. Shape: `user_healthcheck_error` is what its own check said last; `error` is why it is not set up."""

    status: Status
    setup: Setup
    user_healthcheck_error: str = ""
    error: str = ""


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
