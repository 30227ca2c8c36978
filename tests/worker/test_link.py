"""The gateway's end of the socket to a worker: what is said arrives whole and in order, or not at all."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import uvloop
from workshop import run

from tidegate.worker.link import Link
from tidegate.worker.messages import MAX_MESSAGE_BYTES, Cancel, Ended, FromWorker, Item, Predict, ToWorker

LOOPS = [asyncio.run, uvloop.run]
_decode = msgspec.msgpack.Decoder(ToWorker).decode


class _Ear:
    def __init__(self) -> None:
        self.messages: list[FromWorker] = []
        self.whys: list[str] = []

    def heard(self, messages: list[FromWorker], /) -> None:
        self.messages += messages

    def garbled(self, why: str, /) -> None:
        self.whys.append(why)


def test_messages_are_heard_whole_however_they_are_cut() -> None:
    said = [Item(1, b"1"), Ended(1, "succeeded")]
    packed = [msgspec.msgpack.encode(message) for message in said]
    data = b"".join(len(body).to_bytes(4, "big") + body for body in packed)
    for size in (1, 3, len(data)):
        ear = _Ear()
        link = Link(ear, lambda: None)
        for start in range(0, len(data), size):
            link.data_received(data[start : start + size])
        assert ear.messages == said


def test_a_message_above_the_limit_ends_the_hearing() -> None:
    ear = _Ear()
    link = Link(ear, lambda: None)
    link.data_received((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))
    link.data_received(b"more")
    link.pause()
    link.resume()
    assert ear.whys == [f"the worker sent a message of {MAX_MESSAGE_BYTES + 1} bytes"]
    assert not ear.messages


# --- out -------------------------------------------------------------------------------------------------------------


class _Linked:
    """A link, and the other end of its socket."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.lost = 0
        self.link = Link(_Ear(), self._on_lost)

    def _on_lost(self) -> None:
        self.lost += 1

    async def heard(self, count: int) -> list[ToWorker]:
        """Read so many messages, slowly."""
        loop, data, messages = asyncio.get_running_loop(), bytearray(), list[ToWorker]()
        while len(messages) < count:
            while len(data) >= 4 and len(data) >= (end := 4 + int.from_bytes(data[:4], "big")):
                messages.append(_decode(bytes(data[4:end])))
                del data[:end]
            if len(messages) < count:
                data += await loop.sock_recv(self.peer, 10_000)
        assert not data
        return messages


@asynccontextmanager
async def linked() -> AsyncIterator[_Linked]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    made = _Linked(theirs)
    with theirs:
        await asyncio.get_running_loop().create_unix_connection(lambda: made.link, sock=ours)
        yield made
        made.link.close()
        await asyncio.sleep(0.01)
    assert made.lost == 1


def _asked(number: int, size: int) -> Predict:
    return Predict(number, "p", b"x" * size, {}, {})


@pytest.mark.parametrize("on", LOOPS)
def test_what_is_said_is_there_before_the_loop_turns(on: Callable[[Any], None]) -> None:
    async def work() -> None:
        async with linked() as made:
            made.link.send(Cancel(7))
            assert _decode(made.peer.recv(100)[4:]) == Cancel(7)

    run(work, on=on)


@pytest.mark.parametrize("on", LOOPS)
def test_what_the_socket_does_not_take_at_once_follows_in_order(on: Callable[[Any], None]) -> None:
    async def work() -> None:
        async with linked() as made:
            sizes = [10, 1_000_000, 5, 300_000, 0, 70_000] * 3
            for number, size in enumerate(sizes):
                made.link.send(_asked(number, size))
            said = await made.heard(len(sizes))
            assert [(one.number, len(one.input)) for one in said if isinstance(one, Predict)] == list(enumerate(sizes))
            made.link.send(Cancel(1))
            assert await made.heard(1) == [Cancel(1)]

    run(work, on=on)


@pytest.mark.parametrize("on", LOOPS)
def test_what_is_said_to_nobody_raises_nothing_and_the_link_is_lost_once(on: Callable[[Any], None]) -> None:
    async def work() -> None:
        async with linked() as made:
            made.peer.close()
            for number in range(3):
                made.link.send(_asked(number, 100_000))
                await asyncio.sleep(0.01)
            assert made.lost == 1

    run(work, on=on)


@pytest.mark.parametrize("on", LOOPS)
def test_nothing_is_written_to_whatever_has_the_number_of_a_closed_socket(on: Callable[[Any], None]) -> None:
    async def work() -> None:
        async with linked() as made:
            made.link.close()
            made.link.send(Cancel(1))
            await asyncio.sleep(0.01)
            pipes = [os.pipe() for _ in range(8)]
            try:
                made.link.send(Cancel(2))
                for reading, _ in pipes:
                    os.set_blocking(reading, False)
                    with pytest.raises(BlockingIOError):
                        os.read(reading, 1)
            finally:
                for pipe in pipes:
                    for number in pipe:
                        os.close(number)

    run(work, on=on)
