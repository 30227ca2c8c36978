"""Keys that are rotated while everything runs, and that no client ever gets to see."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from harness import ask, chat, run
from streams import DONE, answer, answering, error_of, fronting, streamed, word
from tidegate.testing.upstream import Peer
from tidegate.upstream.credentials import MAX_BYTES, FixedKey, KeyFile

FIRST, SECOND, THIRD = "sk-the-very-first", "sk-the-second", "sk-number-three"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(f"{FIRST}\n", encoding="utf-8")
    return path


def rotate(file: Path, text: str) -> None:
    """Replace a file as tools do that care: another one is moved in its place."""
    other = file.with_suffix(".new")
    other.write_text(text, encoding="latin-1")
    other.rename(file)


# --- a file ----------------------------------------------------------------------------------------------------------


def test_a_fixed_key_is_what_it_is() -> None:
    key = FixedKey(FIRST)
    assert (key(), key.known) == (FIRST, (FIRST,))


def test_a_key_is_read_without_what_is_around_it(file: Path) -> None:
    rotate(file, f"  {FIRST}\r\n\n")
    assert KeyFile(str(file))() == FIRST


def test_another_file_is_another_key_at_once(file: Path) -> None:
    key = KeyFile(str(file))
    assert key() == FIRST
    rotate(file, SECOND)
    assert (key(), key()) == (SECOND, SECOND)


def test_a_file_that_is_written_in_place_is_seen_by_its_time_alone(file: Path) -> None:
    key = KeyFile(str(file))
    assert key() == FIRST
    same_length = FIRST[::-1]
    file.write_text(f"{same_length}\n", encoding="utf-8")
    os.utime(file, ns=(1, 1))
    assert key() == same_length


def test_a_file_that_is_the_same_is_not_read_again(file: Path) -> None:
    key = KeyFile(str(file))
    key()
    status = file.stat()
    file.write_text(FIRST[::-1] + "\n", encoding="utf-8")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert key() == FIRST


def test_what_kubernetes_does_to_a_mounted_secret_is_seen(tmp_path: Path) -> None:
    for number, text in enumerate((FIRST, SECOND)):
        (tmp_path / f"data-{number}").mkdir()
        (tmp_path / f"data-{number}" / "key").write_text(text, encoding="utf-8")
    link = tmp_path / "data"
    link.symlink_to("data-0")
    key = KeyFile(str(link / "key"))
    assert key() == FIRST
    (tmp_path / "next").symlink_to("data-1")
    (tmp_path / "next").rename(link)
    assert key() == SECOND


@pytest.mark.parametrize(
    "text",
    ["", " \n", "two words", "sk-\x00-null", "sk-\xe9", "x" * (MAX_BYTES + 1), "a\nb"],
    ids=lambda text: repr(text[:12]),
)
def test_what_can_be_no_key_leaves_the_last_one_in_use_until_there_is_one(file: Path, text: str) -> None:
    key = KeyFile(str(file))
    assert key() == FIRST
    rotate(file, text)
    assert (key(), key.known) == (FIRST, (FIRST,))
    rotate(file, SECOND)
    assert key() == SECOND


def test_a_file_that_is_gone_or_cannot_be_read_leaves_the_last_key_in_use(file: Path) -> None:
    key = KeyFile(str(file))
    assert key() == FIRST
    file.unlink()
    assert key() == FIRST
    file.mkdir()
    assert key() == FIRST
    file.rmdir()
    file.write_text(SECOND, encoding="utf-8")
    assert key() == SECOND


def test_a_file_that_never_was_there_is_no_key(tmp_path: Path) -> None:
    key = KeyFile(str(tmp_path / "nothing"))
    assert (key(), key.known) == ("", ())


def test_the_last_two_keys_are_known_and_no_more(file: Path) -> None:
    key = KeyFile(str(file))
    key()
    for text, known in ((SECOND, (SECOND, FIRST)), (SECOND, (SECOND, FIRST)), (THIRD, (THIRD, SECOND))):
        rotate(file, text)
        key()
        assert key.known == known


# --- through the gateway ---------------------------------------------------------------------------------------------


def authorizations(peers: list[Peer]) -> list[bytes]:
    """Give what each request was signed with."""
    heads = [head for peer in peers for head, _ in peer.requests]
    lines = [line for head in heads for line in head.split(b"\r\n")]
    return [line.partition(b": ")[2] for line in lines if line.lower().startswith(b"authorization:")]


def test_each_request_is_signed_with_the_key_as_it_is_then(file: Path) -> None:
    async def work() -> None:
        members = {"api_key": "", "api_key_file": str(file)}
        async with fronting(answering(streamed(word("Hi"), DONE)), provider=members) as (running, upstream):
            for text in (FIRST, SECOND, "no key", THIRD):
                rotate(file, text)
                assert (await ask(running.port, chat())).status == 200
            keys = (FIRST, SECOND, SECOND, THIRD)
            assert authorizations(upstream.peers) == [f"Bearer {key}".encode() for key in keys]
            assert len(upstream.peers) == 1, "another key needs no other connection"

    run(work)


@pytest.mark.parametrize("stream", [True, False])
def test_neither_the_old_nor_the_new_key_gets_out_in_an_error_or_a_header(file: Path, stream: bool) -> None:
    async def quoting(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(400, {"error": {"message": "fine"}}))
        rotate(file, SECOND)
        await peer.request()
        message = f"{FIRST} expired, {SECOND} is not valid yet"
        error = {"message": message, "type": FIRST, "code": SECOND, "param": FIRST}
        headers = (f"openai-organization: {FIRST}", f"openai-version: {SECOND}", "openai-processing-ms: 5")
        await peer.send(answer(400, {"error": error}, *headers))

    async def work() -> None:
        members = {"api_key": "", "api_key_file": str(file)}
        async with fronting(quoting, provider=members) as (running, _):
            await ask(running.port, chat(stream=stream))
            reply = await ask(running.port, chat(stream=stream))
            told = f"{reply.headers}{reply.body.decode()}"
            assert FIRST not in told
            assert SECOND not in told
            assert error_of(reply)["message"] == "*** expired, *** is not valid yet"
            assert reply.headers["openai-processing-ms"] == "5"

    run(work)


def test_a_key_that_is_rotated_while_a_stream_runs_does_not_get_out_in_its_error_frame(file: Path) -> None:
    rotated, asked = asyncio.Event(), asyncio.Event()

    async def quoting(peer: Peer) -> None:
        await peer.request()
        if asked.is_set():
            await peer.send(streamed(word("Hi"), DONE))
            return
        asked.set()
        await rotated.wait()
        error = b'data: {"error": {"message": "%b expired"}}\n\n' % FIRST.encode()
        await peer.send(streamed(word("Hi"), error))

    async def work() -> None:
        members = {"api_key": "", "api_key_file": str(file)}
        async with fronting(quoting, provider=members) as (running, upstream):
            running_on = asyncio.ensure_future(ask(running.port, chat()))
            await asked.wait()
            rotate(file, SECOND)
            assert (await ask(running.port, chat())).status == 200
            assert authorizations(upstream.peers) == [f"Bearer {key}".encode() for key in (FIRST, SECOND)]
            rotated.set()
            reply = await running_on
            assert FIRST not in reply.body.decode()
            assert b"*** expired" in reply.body

    run(work)


@pytest.mark.parametrize(
    ("own", "sent", "quoted"),
    [
        ({"Authorization": "Basic b3VyczpzZWNyZXQ="}, b"Basic b3VyczpzZWNyZXQ=", "b3VyczpzZWNyZXQ="),
        ({"authorization": "Bearer sk-of-the-headers"}, b"Bearer sk-of-the-headers", "Bearer sk-of-the-headers"),
        ({"authorization": "Bearer sk-of-the-headers"}, b"Bearer sk-of-the-headers", "sk-of-the-headers"),
        ({"x-tenant-key": "tk-0123456789"}, b"Bearer sk-upstream-secret", "tk-0123456789"),
        ({"authorization": "Bearer sk-of-the-headers"}, b"Bearer sk-of-the-headers", "sk-upstream-secret"),
    ],
)
def test_a_header_of_the_configuration_replaces_the_key_and_is_hidden_as_it_is(
    own: dict[str, Any], sent: bytes, quoted: str
) -> None:
    async def work() -> None:
        said = answer(400, {"error": {"message": f"not with {quoted}!"}}, f"openai-version: v-{quoted}")
        async with fronting(answering(said), provider={"headers": own}) as (running, upstream):
            reply = await ask(running.port, chat())
            assert authorizations(upstream.peers) == [sent]
            assert error_of(reply)["message"] == "not with ***!"
            assert "openai-version" not in reply.headers

    run(work)


def test_of_two_keys_one_of_which_begins_with_the_other_no_end_is_left_over(file: Path) -> None:
    longer = f"{FIRST}-and-its-end"

    async def work() -> None:
        rotate(file, longer)
        said = answer(400, {"error": {"message": f"{longer} and {FIRST}"}})
        async with fronting(answering(said), provider={"api_key": "", "api_key_file": str(file)}) as (running, _):
            await ask(running.port, chat())
            rotate(file, FIRST)
            assert error_of(await ask(running.port, chat()))["message"] == "*** and ***"

    run(work)


def test_what_is_too_short_to_be_a_secret_does_not_spoil_a_provider_s_words() -> None:
    async def work() -> None:
        said = answer(400, {"error": {"message": "only one on this tier"}})
        async with fronting(answering(said), provider={"headers": {"x-tier": "on"}}) as (running, _):
            assert error_of(await ask(running.port, chat()))["message"] == "only one on this tier"

    run(work)
