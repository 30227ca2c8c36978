"""What is measured: the mock, nginx and Tidegate as child processes on loopback, each pinned to its core.

Nothing here outlives its `with`: every process is ended by the handle it was started with.
"""

import contextlib
import http.client
import os
import secrets
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from tidegate.admission.identity import hash_key
from tidegate.bench.measure import MismeasuredError, children_of, find_command

HOST: Final = "127.0.0.1"
TLS_NAME: Final = "localhost"
READY_POLL_S: Final = 0.005
_READY_S: Final = 20.0
_STOP_S: Final = 5.0
_PROBE_S: Final = 2.0
_OPENSSL_S: Final = 30.0
# The command serves plain HTTP only; a provider with TLS is the same mock with a context.
_TLS_MOCK: Final = """
import asyncio, ssl, sys, uvloop
from tidegate.mock.server import MockProvider
async def serve():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    await MockProvider().start("127.0.0.1", int(sys.argv[1]), ssl=context)
    await asyncio.Event().wait()
uvloop.run(serve())
"""
# The road that streams take otherwise is no option of the command: nobody but a bench wants the slower one.
_TRANSLATING: Final = """
import os, sys
from tidegate.cli.serving import load, serve
sys.exit(serve(load(sys.argv[1], os.environ, {}), os.environ, allow_open=False, translates=True))
"""
_NGINX: Final = """
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile {files};
pid {folder}/nginx-{port}.pid;
error_log {folder}/nginx.log warn;
events {{ worker_connections {connections}; }}
http {{
  access_log off;
  tcp_nodelay on;
  keepalive_timeout 75s;
  keepalive_requests 100000000;
  client_max_body_size 32m;
  client_body_buffer_size 2m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream mock {{ server 127.0.0.1:{mock}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass {scheme}://mock;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 300s;
      {tls}
    }}
  }}
}}
"""
_NGINX_TLS: Final = "proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca}; proxy_ssl_name {name};"


class Cores(Struct, frozen=True):
    """Where what runs. Shape: the two are the same core where a machine has only one."""

    target: int
    load: int

    @classmethod
    def of(cls, allowed: set[int]) -> "Cores":
        """Give the first and the last of the cores that may be used."""
        return cls(min(allowed), max(allowed))


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Run on one core; a process started inside stays there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Target(Struct, frozen=True):
    """Something that answers chat completions.

    Shape: `pids` are all the processes that work for it; `ready_s` is what passed from its start until it answered;
    `ops_port` means nothing where there are no metrics.
    """

    name: str
    port: int
    pids: tuple[int, ...]
    ready_s: float
    ops_port: int


class Tls(Struct, frozen=True):
    """Paths of a certificate authority and of a server's certificate and key."""

    ca: Path
    certificate: Path
    key: Path


def free_port() -> int:
    """Give a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(
    command: Sequence[str], core: int, log: Path, patience_s: float = _STOP_S
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process on a core. Holds: it, until the exit: terminated, and killed where that does not help in time."""
    with log.open("ab") as output, pinned(core):
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(patience_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(_STOP_S)


def wait_ready(child: subprocess.Popen[bytes], name: str, port: int, path: str, log: Path) -> None:
    """Wait until a path is answered with 200, or a connection is taken where there is no path.

    Errors: MismeasuredError when the process ends or takes too long; the text quotes its log.
    """
    until = time.perf_counter() + _READY_S
    while time.perf_counter() < until:
        if _answers(port, path):
            return
        if child.poll() is not None:
            break
        time.sleep(READY_POLL_S)
    said = log.read_text(errors="replace")[-400:].strip()
    raise MismeasuredError(f"{name} did not get ready: {said or 'it said nothing'}")


def _answers(port: int, path: str) -> bool:
    try:
        if not path:
            socket.create_connection((HOST, port), _PROBE_S).close()
            return True
        return get(port, path)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def get(port: int, path: str, tls: Tls | None = None) -> tuple[int, bytes]:
    """Give status and body. Errors: OSError, HTTPException."""
    return exchange(port, "GET", path, tls=tls)


def exchange(
    port: int, method: str, path: str, *, body: bytes | None = None, key: str = "", tls: Tls | None = None
) -> tuple[int, bytes]:
    """Give status and whole body of one exchange. Errors: OSError, HTTPException."""
    if tls is None:
        connection = http.client.HTTPConnection(HOST, port, timeout=_PROBE_S)
    else:
        context = ssl.create_default_context(cafile=str(tls.ca))
        connection = http.client.HTTPSConnection(HOST, port, timeout=_PROBE_S, context=context)
    with contextlib.closing(connection):
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"} if key else {}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()


class Stand:
    """The processes of a bench. Holds: those that were started, until `close`."""

    def __init__(self, folder: Path, cores: Cores, files: int) -> None:
        self.folder = folder
        self.cores = cores
        self.files = files
        self.key = f"tg-{secrets.token_hex(16)}"
        self._stack = ExitStack()
        self._tls: Tls | None = None
        self._targets: dict[str, Target] = {}

    def close(self) -> None:
        """End every process."""
        self._targets.clear()
        self._stack.close()

    def target(self, name: str) -> Target:
        """Give a target that runs as long as the stand does. Shape: direct, nginx and tidegate, also with -tls; translating; each once."""
        if name not in self._targets:
            self._targets[name] = self._stack.enter_context(self.fresh(name))
        return self._targets[name]

    def tls(self) -> Tls:
        """Give the authority and certificate that the mock uses, made when first asked for. Errors: MismeasuredError."""
        if self._tls is None:
            self._tls = make_tls(self.folder)
        return self._tls

    @contextmanager
    def fresh(self, name: str) -> Iterator[Target]:
        """Give a target of its own. Holds: its process, until the exit. Errors: MismeasuredError."""
        core = self.cores.load if name.startswith("direct") else self.cores.target
        port, ops_port = free_port(), free_port()
        command, path = self._command(name, port, ops_port)
        log = self.folder / f"{name}.log"
        began = time.perf_counter()
        with process(command, core, log) as child:
            wait_ready(child, name, port, path, log)
            ready_s = time.perf_counter() - began
            yield Target(name, port, (child.pid, *children_of(child.pid)), ready_s, ops_port)

    def _command(self, name: str, port: int, ops_port: int) -> tuple[list[str], str]:
        """Give how a target is started, and the path that says whether it is ready."""
        match name.partition("-")[0], name.endswith("-tls"):
            case "direct", False:
                return [sys.executable, "-m", "tidegate", "mock", "--port", str(port)], "/v1/models"
            case "direct", True:
                tls = self.tls()
                return [sys.executable, "-c", _TLS_MOCK, str(port), str(tls.certificate), str(tls.key)], ""
            case "nginx", sealed:
                return [
                    find_command("nginx"),
                    "-p",
                    str(self.folder),
                    "-c",
                    self._nginx(port, sealed=sealed),
                ], "/v1/models"
            case "translating", _:
                config = self._tidegate(port, ops_port, sealed=False)
                return [sys.executable, "-c", _TRANSLATING, config], "/health/ready"
            case _, sealed:
                config = self._tidegate(port, ops_port, sealed=sealed)
                return [sys.executable, "-m", "tidegate", "serve", "-c", config], "/health/ready"

    def _nginx(self, port: int, *, sealed: bool) -> str:
        text = _NGINX.format(
            user="user root;" if os.geteuid() == 0 else "",  # else its worker can't enter the folder
            files=self.files,
            connections=2 * self.files,  # it drops waiting clients when a sixteenth is left
            folder=self.folder,
            mock=self.target("direct-tls" if sealed else "direct").port,
            port=port,
            scheme="https" if sealed else "http",
            tls=_NGINX_TLS.format(ca=self.tls().ca, name=TLS_NAME) if sealed else "",
        )
        path = self.folder / f"nginx-{port}.conf"
        path.write_text(text)
        return str(path)

    def _tidegate(self, port: int, ops_port: int, *, sealed: bool) -> str:
        scheme, mock = ("https", self.target("direct-tls")) if sealed else ("http", self.target("direct"))
        provider = {
            "name": "main",
            "kind": "openai",
            "base_url": f"{scheme}://{HOST}:{mock.port}/v1",
            "api_key": "the-providers-key",
            **({"ca_file": str(self.tls().ca)} if sealed else {}),
        }
        config = {
            "server": {"host": HOST, "port": port, "drain_delay": "0s", "drain_timeout": "1s"},
            "ops": {"listen": f"{HOST}:{ops_port}"},
            "auth": {"mode": "keys", "keys": [{"id": "bench", "tenant": "bench", "sha256": hash_key(self.key)}]},
            "providers": [provider],
            "models": [{"name": "mock", "targets": [{"provider": "main", "model": "mock"}]}],
        }
        path = self.folder / f"tidegate-{port}.yaml"
        path.write_bytes(msgspec.yaml.encode(config))
        return str(path)


def make_tls(folder: Path) -> Tls:
    """Make an authority and a certificate for loopback. Errors: MismeasuredError when openssl can't."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca, ca_key, request = folder / "ca.pem", folder / "ca.key", folder / "server.csr"
    tls = Tls(ca=ca, certificate=folder / "server.pem", key=folder / "server.key")
    extensions = folder / "server.ext"
    extensions.write_text(
        f"subjectAltName=DNS:{TLS_NAME},IP:{HOST}\nbasicConstraints=critical,CA:FALSE\n"
        "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    _openssl(
        "req", "-x509", *curve, "-days", "2", "-subj", "/CN=tidegate bench", "-keyout", str(ca_key), "-out", str(ca),
        "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    _openssl("req", *curve, "-subj", f"/CN={TLS_NAME}", "-keyout", str(tls.key), "-out", str(request))
    _openssl(
        "x509", "-req", "-in", str(request), "-CA", str(ca), "-CAkey", str(ca_key), "-CAcreateserial", "-days", "2",
        "-extfile", str(extensions), "-out", str(tls.certificate),
    )  # fmt: skip
    return tls


def _openssl(*arguments: str) -> None:
    path = find_command("openssl")
    if not path:
        raise MismeasuredError("openssl is not installed")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=_OPENSSL_S, check=False)
    if done.returncode:
        raise MismeasuredError(f"openssl {arguments[0]} failed: {done.stderr.strip()[-200:]}")
