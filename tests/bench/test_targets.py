import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tidegate.bench.measure import MismeasuredError, find_command
from tidegate.bench.targets import HOST, Cores, free_port, make_tls, pinned, process, wait_ready

CORE = min(os.sched_getaffinity(0))
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


def wait_for(log: Path, text: str) -> None:
    until = time.monotonic() + 20
    while text not in log.read_text():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_target_and_load_get_cores_of_their_own_where_there_are_two() -> None:
    assert Cores.of({3, 5, 7}) == Cores(3, 7)
    assert Cores.of({4}) == Cores(4, 4)


def test_a_process_runs_on_its_core_and_we_go_back_to_ours(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    with process([sys.executable, "-c", "input()"], CORE, tmp_path / "log") as child:
        assert os.sched_getaffinity(child.pid) == {CORE}
        assert os.sched_getaffinity(0) == before
    assert child.returncode is not None


def test_pinning_ends_when_something_fails() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(KeyError), pinned(CORE):
        raise KeyError
    assert os.sched_getaffinity(0) == before


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with process([sys.executable, "-c", DEAF], CORE, log, 0.1) as child:
        wait_for(log, "deaf")
    assert child.returncode == -9


def test_a_process_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "raise SystemExit('no such tide')"]
    with (
        process(command, CORE, log) as child,
        pytest.raises(MismeasuredError, match=r"nginx did not get ready: no such tide"),
    ):
        wait_ready(child, "nginx", free_port(), "", log)


def test_ready_is_when_a_connection_is_taken(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    listen = f"import socket; s = socket.create_server(('{HOST}', {port})); s.accept(); s.accept()"
    with process([sys.executable, "-c", listen], CORE, log) as child:
        wait_ready(child, "it", port, "", log)
        socket.create_connection((HOST, port), 5).close()


@pytest.mark.skipif(not find_command("openssl"), reason="openssl is not installed")
def test_the_certificate_is_good_for_loopback_and_signed_by_the_authority(tmp_path: Path) -> None:
    tls = make_tls(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(tls.certificate, tls.key)
    client = ssl.create_default_context(cafile=str(tls.ca))
    for name in (HOST, "localhost"):
        left, right = ssl.MemoryBIO(), ssl.MemoryBIO()
        ours = client.wrap_bio(left, right, server_hostname=name)
        theirs = server.wrap_bio(right, left, server_side=True)
        for side in (ours, theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        assert ours.getpeercert()
    done = subprocess.run(["openssl", "verify", "-CAfile", str(tls.ca), str(tls.certificate)], check=False)
    assert done.returncode == 0
