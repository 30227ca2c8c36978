import pytest
from garbage import collected

from harness import chat, connect, gateway, request_bytes, run, until

OURS = {
    "Relay",
    "HttpClient",
    "_Reader",
    "Outcome",
    "Arrival",
    "Attempt",
    "Meter",
    "SseFramer",
    "Future",
    "frame",
    "Head",
    "TranslatingRelay",
    "Translator",
    "ChatDecoder",
    "ChatEncoder",
}


@pytest.mark.parametrize("translates", [False, True])
@pytest.mark.parametrize(
    "model", ["mock?tokens=5", "mock?tokens=20&itl=1ms", "mock?status=500", "mock?tokens=9&fail_at=3&fail=error"]
)
def test_an_exchange_leaves_nothing_for_the_garbage_collector(model: str, translates: bool) -> None:
    async def work() -> None:
        async with gateway(translates=translates) as running, connect(running.port) as client:

            async def exchanges(count: int) -> None:
                for _ in range(count):
                    await client.send(request_bytes(chat(model)))
                    await client.reply()
                await until(lambda: not len(running.tidegate.gateway))

            await exchanges(3)
            with collected() as left:
                await exchanges(10)
            assert {name: count for name, count in left.items() if name in OURS} == {}

    run(work)
