"""curl and Node's fetch, once each."""

import asyncio
import json
import shutil

import pytest

from harness import CHAT, Running, chat, gateway, run

NODE = """
const [url, body] = process.argv.slice(1);
const reply = await fetch(url, {method: 'POST', headers: {'content-type': 'application/json'}, body});
const type = reply.headers.get('content-type');
let text = '', pieces = 0;
for await (const piece of reply.body) { pieces += 1; text += Buffer.from(piece).toString(); }
console.log(JSON.stringify({status: reply.status, type, text, pieces}));
"""
LARGE = """
const [url] = process.argv.slice(1);
const reply = await fetch(url, {method: 'POST', headers: {'content-type': 'application/json'}, body: 'x'.repeat(3000000)});
console.log(JSON.stringify({status: reply.status, text: await reply.text()}));
"""


async def execute(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def url(running: Running) -> str:
    return f"http://127.0.0.1:{running.port}{CHAT}"


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@needs("curl")
def test_curl_streams() -> None:
    async def work() -> None:
        async with gateway() as running:
            body = json.dumps(chat("mock?tokens=5&itl=1ms"))
            said = await execute(
                "curl", "-sSN", "--noproxy", "*", "-i", url(running), "-H", "content-type: application/json", "-d", body
            )
            head, _, stream = said.replace("\r\n", "\n").partition("\n\n")
            assert head.startswith("HTTP/1.1 200 OK")
            assert "content-type: text/event-stream" in head
            assert "cache-control: no-cache" in head
            assert "x-accel-buffering: no" in head
            assert stream.count("data: ") == 1 + 5 + 1 + 1
            assert stream.endswith("data: [DONE]\n\n")

    run(work)


@needs("curl")
def test_curl_is_answered_over_http_1_0_too() -> None:
    async def work() -> None:
        async with gateway() as running:
            body = json.dumps(chat("mock?tokens=5"))
            said = await execute(
                "curl", "-sSN0", "--noproxy", "*", url(running), "-H", "content-type: application/json", "-d", body
            )
            assert said.endswith("data: [DONE]\n\n")

    run(work)


@needs("node")
@pytest.mark.slow
def test_the_fetch_of_node_streams_and_sees_an_early_refusal() -> None:
    async def work() -> None:
        async with gateway(server={"max_body_bytes": 10_000}) as running:
            body = json.dumps(chat("mock?tokens=5&itl=20ms"))
            said = json.loads(await execute("node", "--input-type=module", "-e", NODE, url(running), body))
            assert (said["status"], said["type"]) == (200, "text/event-stream; charset=utf-8")
            assert said["text"].endswith("data: [DONE]\n\n")
            assert said["pieces"] > 1
            large = json.loads(await execute("node", "--input-type=module", "-e", LARGE, url(running)))
            assert large["status"] == 413
            assert json.loads(large["text"])["error"]["code"] == "too_large"

    run(work)
