"""`contextlib.redirect_stdout` and `redirect_stderr` where predictions run at the same time: each redirects its own prints."""

import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

from tidegate.worker.child.prints import Targets, Writer, redirected


@dataclass(frozen=True, slots=True)
class _Before:
    writer: Writer
    targets: Targets


def install() -> None:
    """Have them redirect what their context prints, where the stream is ours, and not the stream."""
    for kind in (redirect_stdout, redirect_stderr):
        _replace(kind)


def _replace(kind: Any) -> None:
    begin, end = kind.__enter__, kind.__exit__

    def enter(self: Any) -> Any:
        writer = getattr(sys, self._stream)
        if not isinstance(writer, Writer):
            return begin(self)
        self._old_targets.append(_Before(writer, redirected()))
        writer.redirect(self._new_target)
        return self._new_target

    def leave(self: Any, *raised: Any) -> Any:
        before = self._old_targets[-1]
        if not isinstance(before, _Before):
            return end(self, *raised)
        self._old_targets.pop()
        return before.writer.restore(before.targets)

    kind.__enter__, kind.__exit__ = enter, leave
