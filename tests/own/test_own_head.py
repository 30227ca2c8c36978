"""HEAD and OPTIONS of the paths of predictions: heads without bodies, on connections that go on."""

import asyncio
import http.client

from harness import run
from owning import ROOT, owning


def test_head_answers_as_get_does_without_a_body_and_the_connection_goes_on() -> None:
    async def work() -> None:
        async with owning() as own:
            await own.post({"prompt": "a"}, id="known")
            seen = await asyncio.to_thread(_heads, own.port)
            assert seen == [(200, b"", True), (200, b"", True), (404, b"", True), (405, b"", True), (200, b"{", True)]

    run(work)


def _heads(port: int) -> list[tuple[int, bytes, bool]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    seen = []
    for method, path in (
        ("HEAD", "/health-check"),
        ("HEAD", f"{ROOT}/known"),
        ("HEAD", f"{ROOT}/nobody"),
        ("HEAD", ROOT),
        ("GET", "/health-check"),
    ):
        connection.request(method, path)
        answer = connection.getresponse()
        seen.append((answer.status, answer.read()[:1], int(answer.headers["content-length"]) > 0))
    connection.close()
    return seen


def test_options_is_not_answered_and_says_what_is() -> None:
    async def work() -> None:
        async with owning() as own:
            reply = await own.post({}, method="OPTIONS")
            assert (reply.status, reply.headers["allow"]) == (405, "POST")

    run(work)
