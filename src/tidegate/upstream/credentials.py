"""Where a provider's credential comes from. It is asked for at each attempt, so that one that was rotated is never stale."""

import os
import re
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 16 * 1024
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")


class FixedKey:
    """A key that the configuration holds."""

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self) -> str:
        """Give the key."""
        return self._key

    @property
    def known(self) -> tuple[str, ...]:
        """Every value it had that an answer might still quote."""
        return (self._key,)


class KeyFile:
    """A key in a file that somebody else rewrites. Holds: the last two keys; a file that cannot be read changes nothing."""

    __slots__ = ("_keys", "_path", "_seen")

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._seen: tuple[int, int, int] | None = None
        self._keys: tuple[str, ...] = ()

    def __call__(self) -> str:
        """Give the key as it is now. Shape: one look at the file's time stamp, and a read only when it is another."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 (twice as fast, and this is asked at each attempt)
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen != self._seen:
                self._read()
                self._seen = seen
        except OSError:
            pass  # it is being replaced, or gone: the last key may still be good, and the provider says so if not
        return self._keys[0] if self._keys else ""

    @property
    def known(self) -> tuple[str, ...]:
        """Every value it had that an answer might still quote."""
        return self._keys

    def _read(self) -> None:
        with self._path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("latin-1").strip()
        if len(data) <= MAX_BYTES and _VISIBLE.fullmatch(text) and text not in self._keys[:1]:
            self._keys = (text, *self._keys[:1])
