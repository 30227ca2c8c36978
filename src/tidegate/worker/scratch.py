"""Temporary directories that are marked as in use, so that those of a gateway that was killed can be told and removed."""

import fcntl
import os
import re
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

_OURS: Final = re.compile(r"tidegate-(?:worker|input)-[0-9]+-[^/]+")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Scratch:
    """A new directory, `tidegate-<kind>-<pid>-…`. Errors: OSError.

    Holds: the directory, and a lock on it that ends with this process however that ends, until `remove`. A number of a
    process would say less: it may come again, and another container that shares the folder has numbers of its own.
    """

    __slots__ = ("_locked", "path")

    def __init__(self, kind: str) -> None:
        # A gateway that starts takes it for left behind until it is locked, and may have removed it.
        while not self._made(kind):
            pass

    def _made(self, kind: str) -> bool:
        self.path = Path(tempfile.mkdtemp(prefix=f"tidegate-{kind}-{os.getpid()}-"))
        try:
            self._locked = os.open(self.path, _DIRECTORY)
        except FileNotFoundError:
            return False
        except OSError:
            self.path.rmdir()
            raise
        with suppress(OSError):  # where nothing can be locked `sweep` removes nothing
            fcntl.flock(self._locked, fcntl.LOCK_SH)
        if not self.path.exists():
            os.close(self._locked)
            return False
        return True

    def remove(self) -> None:
        """Remove it with all in it. Shape: may be called again; slow. Never raises."""
        locked, self._locked = self._locked, -1
        if locked >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(locked)


def sweep() -> None:
    """Remove what gateways of this user left that are gone. Shape: slow. Never raises."""
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if _OURS.fullmatch(entry.name):
                with suppress(OSError):
                    _remove_unused(entry.path)


def _remove_unused(path: str) -> None:
    """Remove a directory unless somebody holds it. Errors: OSError, where it cannot be told."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        return
    opened = os.open(path, _DIRECTORY)
    try:
        if os.fstat(opened).st_uid == os.geteuid():
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(opened)
