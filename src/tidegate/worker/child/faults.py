"""What is said of an error that a handler raised: one sentence, and the traceback of the user's own code."""

import traceback
from pathlib import Path
from typing import Final

MAX_CHARACTERS: Final = 64 * 1024
_OURS: Final = (str(Path(__file__).parent), str(Path(__file__).parents[2] / "predict"))


def sentence(error: BaseException) -> str:
    """Give `ValueError: message`, or the name alone where there is no message. Never raises."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  (the user's own __str__)
        text = "<its text cannot be made>"
    name = type(error).__name__
    return _cut(f"{name}: {text}" if text else name)


def trace(error: BaseException) -> str:
    """Give the traceback without our frames; "" where there is no other. Never raises."""
    try:
        told = traceback.TracebackException.from_exception(error, compact=True)
        _strip(told)
        return _cut("".join(told.format()))
    except Exception:  # noqa: BLE001  (user classes take part in this)
        return sentence(error)


def _strip(told: traceback.TracebackException) -> None:
    told.stack = traceback.StackSummary.from_list([frame for frame in told.stack if not _is_ours(frame.filename)])
    for other in (told.__cause__, told.__context__, *(told.exceptions or ())):
        if other is not None:
            _strip(other)


def _is_ours(filename: str) -> bool:
    return filename.startswith(_OURS)


def _cut(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "…"
