"""Healthy streams next to clients that take one byte a second: what the latter cost the former, and what is held for them."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

import uvloop
from prometheus_client.parser import text_string_to_metric_families

from tidegate.bench.load import Order, Tally, chat_body, chat_request, play
from tidegate.bench.measure import MismeasuredError
from tidegate.bench.scenarios import Bench, Values, Watch, percentiles
from tidegate.bench.targets import HOST, Target, get

STREAMS: Final = 1000
SLOW: Final = 1000
EVENTS: Final = 160
ITL_S: Final = 0.05
SIP_S: Final = 1.0
"""How often a slow client takes its byte."""
SETTLE_S: Final = 5.0
"""How long what is on the way to slow clients has to pile up before the healthy ones begin."""
SLOW_EVENTS: Final = 3000
"""More than the buffers of the kernels on the way can hold, so that it is the gateway that holds back."""
_BUFFER_BYTES: Final = 4096


class SlowClients:
    """Clients that take one byte a second each. Holds: a socket each, and one timer, until `close`."""

    def __init__(self, port: int, request: bytes, count: int) -> None:
        self._port = port
        self._request = request
        self._count = count
        self._sockets: list[socket.socket] = []
        self._timer: asyncio.TimerHandle | None = None

    async def connect(self) -> None:
        """Connect all of them, let them ask, and wait until all is held back for them."""
        loop = asyncio.get_running_loop()
        for _ in range(self._count):
            sock = socket.socket()
            self._sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            sock.setblocking(False)
            await loop.sock_connect(sock, (HOST, self._port))
            await loop.sock_sendall(sock, self._request)
        self._sip()
        if self._sockets:
            await asyncio.sleep(SETTLE_S)

    def close(self) -> None:
        """Leave."""
        if self._timer is not None:
            self._timer.cancel()
        for sock in self._sockets:
            sock.close()

    def _sip(self) -> None:
        for sock in self._sockets:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                sock.recv(1)
        self._timer = asyncio.get_running_loop().call_later(SIP_S, self._sip)


def play_crowded(bench: Bench, variant: str) -> Values:
    """Measure paced streams, with slow clients beside them where the variant says so. Errors: MismeasuredError."""
    stand = bench.stand
    with stand.fresh("tidegate") as target:
        order = Order(
            port=target.port,
            request=chat_request(chat_body(f"itl={ITL_S * 1000:.0f}ms&events={EVENTS}"), target.port, stand.key),
            events=EVENTS, connections=STREAMS, streams=STREAMS, ramp_s=2.0, deadline_s=20 + 2 * EVENTS * ITL_S,
        )  # fmt: skip
        slow_request = chat_request(chat_body(f"events={SLOW_EVENTS}"), target.port, stand.key)
        slow = SlowClients(target.port, slow_request, SLOW if variant == "crowded" else 0)
        watch, held = Watch(target), [0.0]

        def sample(tally: Tally) -> None:
            watch(tally)
            held.append(_held_bytes(target) if len(watch.samples) % 10 == 0 else 0.0)

        tally = uvloop.run(_beside(slow, order, sample))
        if tally.failed:
            raise MismeasuredError(f"{tally.failed} healthy streams failed: {'; '.join(tally.failures)}")
        if variant == "crowded" and max(held) < SLOW * _BUFFER_BYTES:
            raise MismeasuredError(f"only {max(held):.0f} bytes were held for {SLOW} slow clients: they were not slow")
        return {
            **percentiles("gap", tally.gaps_s),
            "cpu_steady_us": watch.steady_us(STREAMS),
            "held_mib": max(held) / 1024**2,
            "rss_mb": max(seen.rss_bytes for seen in watch.samples) / 1e6,
        }


async def _beside(slow: SlowClients, order: Order, sample: Callable[[Tally], None]) -> Tally:
    try:
        await slow.connect()
        return await play(order, sample)
    finally:
        slow.close()


def _held_bytes(target: Target) -> float:
    """Give what the gateway says it holds."""
    text = get(target.ops_port, "/metrics")[1].decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "tidegate_buffered_bytes":
                return sample.value
    return 0.0
