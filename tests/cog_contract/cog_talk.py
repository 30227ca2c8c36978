"""Plain HTTP with the standard library: requests, event streams, a receiver of webhooks, and what of an answer is compared."""

import contextlib
import http.client
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

T = TypeVar("T")
GENEROUS_S = 30.0
"""How long something that must happen may take."""

Json = Any
SSE = "text/event-stream"
_TIMES = ("created_at", "started_at", "completed_at")
_LAYERS = re.compile(
    r"^(?:(?:Async prediction failed|Prediction failed|Generator iteration error|Input validation error): )+"
)


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def type(self) -> str:
        """Give the media type without parameters."""
        return self.headers.get("content-type", "").partition(";")[0]

    @property
    def json(self) -> Json:
        """Give the body as JSON. Shape: its text where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return self.body.decode(errors="replace")


@dataclass(frozen=True)
class Event:
    """One event of a stream. Shape: `data` is parsed; `id` is empty where the frame has none."""

    name: str
    data: Json
    id: str = ""


class Stream:
    """An event stream that is being read. Holds: a connection."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.comments: list[str] = []

    def __iter__(self) -> Iterator[Event]:
        fields: dict[str, str] = {}
        while line := self._response.readline():
            text = line.rstrip(b"\r\n").decode()
            if text.startswith(":"):
                self.comments.append(text)
            elif text:
                name, _, value = text.partition(":")
                fields[name] = value.removeprefix(" ")
            elif fields:
                yield Event(fields.get("event", ""), json.loads(fields.get("data", "null")), fields.get("id", ""))
                fields = {}

    def until(self, name: str, count: int = 1) -> list[Event]:
        """Read until so many events of a name, or the end."""
        read: list[Event] = []
        for event in self:
            read.append(event)
            count -= event.name == name
            if count == 0:
                break
        return read

    def rest(self) -> list[Event]:
        """Read to the end."""
        with contextlib.closing(self):
            return list(self)

    def close(self) -> None:
        """Leave."""
        if self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._response.close()
        self._connection.close()


class Talk:
    """A client of one server."""

    def __init__(self, port: int) -> None:
        self.port = port

    def call(
        self,
        method: str,
        path: str,
        payload: Json = None,
        *,
        raw: bytes | None = None,
        timeout_s: float = GENEROUS_S,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask once. Shape: `payload` is sent as JSON; `raw` as it is, without a content type of its own."""
        connection, response = self._ask(method, path, payload, raw, headers or {}, timeout_s)
        with contextlib.closing(connection):
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read())

    def _ask(
        self,
        method: str,
        path: str,
        payload: Json,
        raw: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float,
        buffer_bytes: int = 0,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        if buffer_bytes:
            connection.sock = socket.socket()
            connection.sock.settimeout(timeout_s)
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            connection.sock.connect(("127.0.0.1", self.port))
        body = json.dumps(payload).encode() if payload is not None else raw
        kind = {"content-type": "application/json"} if payload is not None else {}
        connection.request(method, path, body, {**kind, **headers})
        return connection, connection.getresponse()

    def post(
        self, given: Json = None, *, prefer: str = "", accept: str = "", timeout_s: float = GENEROUS_S, **more: Json
    ) -> Answer:
        """Create with POST. Shape: `given` is the input; `more` are the request's other members."""
        headers = _asked(prefer, accept)
        return self.call("POST", "/predictions", _request(given, more), headers=headers, timeout_s=timeout_s)

    def put(
        self, name: str, given: Json = None, *, prefer: str = "", timeout_s: float = GENEROUS_S, **more: Json
    ) -> Answer:
        """Create or attach with PUT."""
        headers = _asked(prefer, "")
        return self.call("PUT", f"/predictions/{name}", _request(given, more), headers=headers, timeout_s=timeout_s)

    def cancel(self, name: str) -> Answer:
        """Cancel."""
        return self.call("POST", f"/predictions/{name}/cancel")

    def stream(
        self,
        name: str = "",
        given: Json = None,
        *,
        accept: str = SSE,
        prefer: str = "",
        buffer_bytes: int = 0,
        **more: Json,
    ) -> Stream:
        """Create or attach with SSE. Shape: POST where there is no name; `buffer_bytes` is what the system reads ahead."""
        method, path = ("PUT", f"/predictions/{name}") if name else ("POST", "/predictions")
        headers = _asked(prefer, accept)
        return Stream(*self._ask(method, path, _request(given, more), None, headers, GENEROUS_S, buffer_bytes))

    def health(self) -> Json:
        """Give the health."""
        return self.call("GET", "/health-check").json

    def wait_health(self, *statuses: str, timeout_s: float = GENEROUS_S) -> str:
        """Wait for one of some states of health, and give the last one seen."""
        ends = time.monotonic() + timeout_s
        while (status := str(self.health()["status"])) not in statuses and time.monotonic() < ends:
            time.sleep(0.01)
        return status

    def wait_ready(self) -> str:
        """Wait until a slot is free."""
        return self.wait_health("READY", timeout_s=10)

    def wait_settled(self) -> str:
        """Wait until setup has ended, well or badly."""
        return self.wait_health("READY", "BUSY", "UNHEALTHY", "SETUP_FAILED", "DEFUNCT")

    def wait_up(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the server answers. Errors: RuntimeError when it ended instead, or does not."""
        ends = time.monotonic() + GENEROUS_S
        while time.monotonic() < ends and process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.call("GET", "/health-check")
                return
            time.sleep(0.02)
        raise RuntimeError(f"the server does not answer (exit code {process.poll()})")


def _request(given: Json, more: Mapping[str, Json]) -> Json:
    return {**({} if given is None else {"input": given}), **more}


def _asked(prefer: str, accept: str) -> dict[str, str]:
    return {name: value for name, value in (("prefer", prefer), ("accept", accept)) if value}


def later(run: Callable[[], T]) -> "Future[T]":
    """Run something in a thread of its own."""
    future: Future[T] = Future()

    def thread() -> None:
        try:
            future.set_result(run())
        except BaseException as error:  # noqa: BLE001 - the one who waits for the result gets it
            future.set_exception(error)

    threading.Thread(target=thread, daemon=True).start()
    return future


@dataclass(frozen=True)
class Hit:
    """One webhook as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: Json


@dataclass
class Hook:
    """A receiver of webhooks. Shape: `/fail/STATUS/N` answers N times with that status; a GET gives a text."""

    port: int
    hits: list[Hit] = field(default_factory=list)

    def url(self, path: str = "/hook") -> str:
        """Give the address to name."""
        return f"http://127.0.0.1:{self.port}{path}"

    def wait(self, status: str, timeout_s: float = GENEROUS_S) -> list[Hit]:
        """Wait until a webhook says a status, and give all that arrived."""
        ends = time.monotonic() + timeout_s
        while time.monotonic() < ends and not any(hit.body.get("status") == status for hit in list(self.hits)):
            time.sleep(0.02)
        return list(self.hits)

    def wait_end(self, timeout_s: float = GENEROUS_S) -> str:
        """Wait for a webhook that says the end, and give what it says. Shape: empty when none came."""
        ends = time.monotonic() + timeout_s
        while time.monotonic() < ends:
            for hit in list(self.hits):
                if (status := str(hit.body.get("status"))) in {"succeeded", "failed", "canceled"}:
                    return status
            time.sleep(0.02)
        return ""


@contextmanager
def hook() -> Iterator[Hook]:
    """Lend a receiver of webhooks."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            named = {name.lower(): value for name, value in self.headers.items()}
            failing = re.fullmatch(r"/fail/(\d+)/(\d+)", self.path)
            tries = sum(hit.path == self.path for hit in received.hits)
            received.hits.append(Hit(self.path, named, json.loads(body)))
            self._answer(int(failing[1]) if failing and tries < int(failing[2]) else 200, b"")

        def do_GET(self) -> None:
            found = self.path.startswith("/in")
            self._answer(200 if found else 404, b"hello over http" if found else b"")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Stay silent: what arrived is kept."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received = Hook(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()


def plain(body: Json, keep: str = "") -> Json:
    """Give a body without what differs from run to run: times, ids that were made up, and the layers an error came through."""
    if not isinstance(body, dict):
        return body
    said = dict(body)
    if isinstance(said.get("id"), str) and said["id"] != keep:
        said["id"] = "<id>"
    if isinstance(said.get("metrics"), dict) and isinstance(said["metrics"].get("predict_time"), int | float):
        said["metrics"] = {**said["metrics"], "predict_time": "<seconds>"}
    said |= {name: "<time>" for name in _TIMES if isinstance(said.get(name), str)}
    if isinstance(said.get("error"), str):
        said["error"] = _LAYERS.sub("", said["error"])
    return said


def seen(answer: Answer, keep: str = "") -> Json:
    """Give what of an answer is compared."""
    return {"status": answer.status, "type": answer.type, "body": plain(answer.json, keep)}


def kind_of(answer: Answer) -> Json:
    """Give what of a refusal is compared where its words may differ."""
    body = answer.json
    return {"status": answer.status, "type": answer.type, "keys": sorted(body) if isinstance(body, dict) else "text"}


def heard(events: list[Event], keep: str = "") -> list[Json]:
    """Give what of a stream is compared."""
    return [[event.name, plain(event.data, keep)] for event in events]


def names(events: list[Event]) -> list[str]:
    """Give the names of events in their order."""
    return [event.name for event in events]
