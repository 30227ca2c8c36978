"""The mock's own signatures: those of its thoughts and calls, which the next turn has to hand back as they were. Pure.

A seal tells the dialect that made it and what it was made over, so that a foreign or a misplaced one is found out.
"""

import base64
import zlib
from typing import Final

from tidegate.mock.ask import Dialect

_MARK: Final = "mocksig"
# One model behind several doors: what was signed at one is known at the other.
_MAKERS: Final[dict[Dialect, Dialect]] = {"invoke": "messages", "gemini_array": "gemini"}


def sealed(dialect: Dialect, over: str = "") -> str:
    """Give a signature. Shape: Base64; `over` is the thought's whole text in messages, invoke and converse, else empty."""
    made = f"{_MARK}:{_MAKERS.get(dialect, dialect)}:{zlib.crc32(over.encode('utf-8', 'replace')):08x}"
    return base64.b64encode(made.encode()).decode()


def is_sealed(signature: str, dialect: Dialect, over: str = "") -> bool:
    """Say whether a signature is the mock's own, of this dialect and over this text."""
    return signature == sealed(dialect, over)
