"""Two servers of one contract, in processes of their own: Cog's and Tidegate, started with the same models.

A model is written for Tidegate; for Cog its one import line is changed, which is all that moving over takes.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cog_schemas import schema_of
from cog_talk import GENEROUS_S, Talk

HERE = Path(__file__).parent
MODELS = HERE / "models"
COG = HERE.parents[1] / ".venv" / "cog"
"""Where `scripts/cog-install` puts Cog."""
COG_SCRATCH = Path("/tmp/coglet/predictions")  # noqa: S108 - Cog's own choice, whatever TMPDIR says
"""Where Cog makes three folders for each prediction, which it never removes."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Wish:
    """How a server is to be started. Shape: `queue` is what Cog has none of; `missing` names a handler that is not there."""

    model: str = "words"
    slots: int = 1
    queue: int = 0
    history: int = 1024
    setup_timeout_s: int = 0
    token: str = ""
    missing: bool = False


class Running:
    """A server that was started. Holds: its process group, and what it makes in `scratch`, until it is ended."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path, scratch: Path) -> None:
        self.process = process
        self.talk = Talk(port)
        self.port = port
        self.folder = folder
        self._scratch = scratch
        self._before = self._entries()

    def _entries(self) -> set[Path]:
        return set(self._scratch.iterdir()) if self._scratch.is_dir() else set()

    @property
    def left_bytes(self) -> int:
        """Give what the server's temporary files take on the disk."""
        made = self._entries() - self._before
        return sum(_du(path) for path in made) + (
            0 if self._scratch.is_relative_to(self.folder) else _du(self.folder / "tmp")
        )

    @property
    def left(self) -> int:
        """Give how many temporary files and folders the server has made and not removed."""
        made = self._entries() - self._before
        return sum(1 + sum(1 for _ in path.rglob("*")) for path in made)

    @property
    def log(self) -> str:
        """Give what the server wrote."""
        return (self.folder / "log").read_text(errors="replace")

    def logs(self, text: str, within_s: float = 2.0) -> bool:
        """Say whether the server writes a text, in a while: logs may be written by and by."""
        until = time.monotonic() + within_s
        while text not in self.log:
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True

    def worker(self) -> int:
        """Give the process a handler runs in. Shape: 0 when there is none."""
        found = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
        rows = [line.split() for line in found.stdout.splitlines()]
        alive = {int(pid): int(parent) for pid, parent, state in rows if not state.startswith("Z")}
        return max((pid for pid, parent in alive.items() if parent == self.process.pid), default=0)

    def end(self) -> None:
        """End the server and all it started."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(3)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(GENEROUS_S)
        for path in self._entries() - self._before:
            shutil.rmtree(path, ignore_errors=True)
        for path in (self._scratch, self._scratch.parent):
            with contextlib.suppress(OSError):
                path.rmdir()


class Kind(Protocol):
    """A server that can be started."""

    @property
    def name(self) -> str: ...
    def version(self) -> str: ...
    def start(self, wish: Wish, folder: Path) -> Running: ...


def _du(path: Path) -> int:
    """Give the bytes that a folder takes on the disk."""
    files = (path, *path.rglob("*")) if path.exists() else ()
    return sum(file.lstat().st_blocks * 512 for file in files)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _spawn(command: list[str], folder: Path, port: int, env: Mapping[str, str], scratch: Path | None = None) -> Running:
    """Start a process in a group of its own. Shape: PATH and the home folder are all it inherits."""
    (folder / "tmp").mkdir()
    kept = {
        name: value for name, value in os.environ.items() if name in {"PATH", "HOME"} or name.startswith("COVERAGE")
    }
    settled = {**kept, "TMPDIR": str(folder / "tmp"), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", **env}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=settled, stdout=log, stderr=log, start_new_session=True)
    return Running(process, port, folder, scratch or folder / "tmp")


class Coglet:
    """Cog's own server, from the packages on PyPI."""

    name = "cog"

    def __init__(self, home: Path = COG) -> None:
        self._bin = home / "bin"

    def version(self) -> str:
        """Give the versions of Cog's SDK and server."""
        ask = "from importlib.metadata import version as v; print('cog', v('cog'), 'coglet', v('coglet'))"
        return subprocess.run(
            [self._bin / "python", "-c", ask], capture_output=True, text=True, check=True
        ).stdout.strip()

    def start(self, wish: Wish, folder: Path) -> Running:
        """Start it with a model, whose import line is changed."""
        source = (MODELS / f"{wish.model}.py").read_text()
        if not wish.missing:
            (folder / "model.py").write_text(source.replace("from tidegate.predict import", "from cog import"))
        (folder / ".cog").mkdir()
        (folder / ".cog" / "openapi_schema.json").write_text(json.dumps(schema_of(wish.model)))
        port = _free_port()
        env = {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "PORT": str(port),
            "LOG_FORMAT": "console",
            "COG_PREDICT_TYPE_STUB": "model.py:Model",
            "COG_MAX_CONCURRENCY": str(wish.slots),
            "COG_STREAM_HISTORY_CAPACITY": str(wish.history),
        }
        if wish.setup_timeout_s:
            env["COG_SETUP_TIMEOUT"] = str(wish.setup_timeout_s)
        if wish.token:
            env["WEBHOOK_AUTH_TOKEN"] = wish.token
        command = [str(self._bin / "python"), "-m", "cog.server.http", "--host", LOOPBACK]
        return _spawn(command, folder, port, env, COG_SCRATCH)


class Tidegate:
    """Tidegate, with a configuration that says what Cog says in its environment."""

    name = "tidegate"

    def version(self) -> str:
        """Give Tidegate's version."""
        ask = "from importlib.metadata import version as v; print('tidegate', v('tidegate'))"
        return subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()

    def start(self, wish: Wish, folder: Path) -> Running:
        """Start it with a model, which is served under its own name."""
        if not wish.missing:
            shutil.copy(MODELS / f"{wish.model}.py", folder / "model.py")
        port = _free_port()
        # JSON is YAML, so that the standard library can write it.
        (folder / "tidegate.yaml").write_text(json.dumps(self._config(wish, port)))
        command = [sys.executable, "-m", "tidegate", "serve", "-c", "tidegate.yaml"]
        return _spawn(command, folder, port, {})

    @staticmethod
    def _config(wish: Wish, port: int) -> dict[str, object]:
        local: dict[str, object] = {"handler": "model.py:Model", "cancel_grace": "500ms"}
        if wish.setup_timeout_s:
            local["setup_timeout"] = f"{wish.setup_timeout_s}s"
        history: dict[str, object] = {"max_events": wish.history} if wish.history else {"mode": "none"}
        # The receivers of webhooks and the files of the suite are on loopback, which is refused unless allowed.
        webhooks: dict[str, object] = {"allow_private": True}
        if wish.token:
            webhooks["token"] = wish.token
        return {
            "server": {"host": LOOPBACK, "port": port, "drain_delay": "0s", "drain_timeout": "20s"},
            "ops": {"listen": ""},
            "auth": {"mode": "open"},
            "providers": [{"name": "local", "kind": "local", "local": local, "slots": {"max_queue": wish.queue}}],
            "models": [{"name": wish.model, "targets": [{"provider": "local"}]}],
            "predictions": {
                "shutdown": True,
                "history": history,
                "webhooks": webhooks,
                "files": {"allow_private": True},
            },
        }


class Site:
    """Where the checks of one kind of server run. Holds: the servers that checks share, until it is closed."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._stack = ExitStack()
        self._shared: dict[Wish, Running] = {}

    def shared(self, wish: Wish) -> Running:
        """Give a server that other checks use too, with a slot free."""
        if wish not in self._shared:
            self._shared[wish] = self._stack.enter_context(self.fresh(wish))
        running = self._shared[wish]
        running.talk.wait_ready()
        return running

    def at(self, model: str = "words", *, slots: int = 1, queue: int = 0) -> Talk:
        """Give how to talk to a shared server."""
        return self.shared(Wish(model=model, slots=slots, queue=queue)).talk

    @contextmanager
    def fresh(self, wish: Wish, *, settled: bool = True) -> Iterator[Running]:
        """Lend a server of one's own. Shape: `settled` waits until its setup has ended."""
        folder = Path(tempfile.mkdtemp(prefix=f"contract-{self.kind.name}-"))
        try:
            running = self.kind.start(wish, folder)
            try:
                running.talk.wait_up(running.process)
                if settled:
                    running.talk.wait_settled()
                yield running
            finally:
                running.end()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """End the shared servers."""
        self._stack.close()
        self._shared.clear()


def wait_exit(running: Running, timeout_s: float = GENEROUS_S) -> bool:
    """Give whether a server ended by itself."""
    ends = time.monotonic() + timeout_s
    while running.process.poll() is None and time.monotonic() < ends:
        time.sleep(0.02)
    return running.process.poll() is not None
