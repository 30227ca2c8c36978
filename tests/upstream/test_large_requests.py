"""A large request is translated beside the loop."""

import asyncio
import json

from harness import ask, chat, run
from streams import answer, answering, fronting
from tidegate.upstream.opening import LARGE_BYTES

SAID = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}


def test_the_loop_goes_on_while_a_large_request_is_translated() -> None:
    async def work() -> None:
        turns = [{"role": "user", "content": f"Message {number}"} for number in range(20_000)]
        body = json.dumps({**chat(stream=False), "messages": turns}).encode()
        assert len(body) > LARGE_BYTES
        provider = {"kind": "anthropic"}
        async with fronting(answering(answer(200, SAID)), provider=provider) as (running, upstream):
            asking = asyncio.ensure_future(ask(running.port, body))
            while not running.tidegate.wiring.opening.pending:
                await asyncio.sleep(0)
            turned = 0
            while not upstream.peers:
                turned += 1
                await asyncio.sleep(0)
            reply = await asking
            assert reply.json()["choices"][0]["message"]["content"] == "Hi"
            sent = json.loads(upstream.peers[0].requests[0][1])["messages"]
            assert [part["text"] for part in sent[0]["content"]] == [turn["content"] for turn in turns]
            assert turned > 1, "on the loop it would be translated within one turn"

    run(work)
