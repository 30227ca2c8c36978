"""What manuals tell people to type: the model in them is written down and served by their own command."""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import Served, serving

MODEL = re.compile(r"^```python\n(?P<text># model\.py\n.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^tidegate (?P<arguments>serve --predict .*)$", re.MULTILINE)
PORT = re.compile(r"127\.0\.0\.1:5000\b")


@contextmanager
def own_model(manual: str, folder: Path) -> Iterator[tuple[Served, int]]:
    """Serve a manual's first model by its first command, on free ports; gives the process and its port."""
    model, command = MODEL.search(manual), COMMAND.search(manual)
    assert model is not None
    assert command is not None
    (folder / "model.py").write_text(model["text"], encoding="utf-8")
    arguments = shlex.split(command["arguments"], comments=True)
    assert arguments[arguments.index("--port") + 1] == "5000"
    with serving(*arguments, "--port", "0", "--ops-listen", "", cwd=folder) as served:
        port, _ = served.ports()
        served.line('"event":"worker_ready"')
        yield served, port
