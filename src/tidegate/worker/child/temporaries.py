"""Where tempfile makes things: the directory of the prediction that asks, which goes with it."""

import multiprocessing.util
import os
import tempfile
from pathlib import Path

from tidegate.predict.scope import Scope, current_scope, use
from tidegate.worker.child.running import OwnScope


def install(directory: Path) -> None:
    """Make temporary files of predictions in their own directories, all others in that of the worker.

    Shape: `tempfile.tempdir` is heeded where the user sets it; what is made for a prediction that is over is the worker's.
    """
    tempfile.tempdir = os.environ["TMPDIR"] = str(directory)
    chosen = tempfile.gettempdir

    def place() -> str:
        there = chosen()
        if there == str(directory):
            scope = current_scope()
            if isinstance(scope, OwnScope):
                return str(scope.place())
        return there

    tempfile.gettempdir = place
    tempfile.gettempdirb = lambda: os.fsencode(place())
    _keep_shared()


def _keep_shared() -> None:
    """Keep multiprocessing's directory, which it makes once and uses as long as the process lives, out of predictions."""
    shared = multiprocessing.util.get_temp_dir

    def get_temp_dir() -> str:
        with use(Scope()):
            return shared()

    multiprocessing.util.get_temp_dir = get_temp_dir
