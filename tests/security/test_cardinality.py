"""Whatever clients make up, the number of series stays what the configuration says."""

from harness import ask, chat, connect, gateway, request_bytes, run
from tidegate.verdict import TABLE

ATTACKS = 300
CANARY = "made-up"
MODELS = [
    {"name": "mock", "aliases": ["toy"], "targets": [{"provider": "main", "model": "mock"}]},
    {"name": "other", "targets": [{"provider": "main", "model": "mock"}]},
]


async def page(ops_port: int) -> list[str]:
    reply = await ask(ops_port, b"", method="GET", path="/metrics")
    return [line for line in reply.body.decode().splitlines() if not line.startswith("#")]


def series(lines: list[str]) -> set[str]:
    return {line.rpartition(" ")[0] for line in lines}


def test_names_that_clients_make_up_add_no_series() -> None:
    async def one(port: int, number: int) -> None:
        made_up = f"{CANARY}-{number}"
        await ask(port, chat(made_up), headers={"x-request-id": made_up})
        await ask(port, chat(f"mock?seed={made_up}"), path=f"/v1/{made_up}")
        await ask(port, b"", method="GET", path=f"/v1/models/{made_up}")
        await ask(port, chat(f"mock?tokens=1&{made_up}=1"))
        await ask(port, chat(f"toy?tokens={number % 3 + 1}", stream=number % 2 == 0))
        async with connect(port) as client:
            await client.send(request_bytes(chat(), method=f"MADEUP{number % 26 * 'X'}"))
            await client.reply()

    async def work() -> None:
        async with gateway(models=MODELS) as running:
            for number in range(4):
                await one(running.port, number)
            before = series(await page(running.ops_port))
            for number in range(4, ATTACKS // 6):
                await one(running.port, number)
            after = await page(running.ops_port)
            assert series(after) == before
            assert not any(CANARY in line or "MADEUP" in line for line in after)

    run(work)


def test_every_label_of_a_finished_request_is_a_configured_name_or_a_word_of_the_verdict_table() -> None:
    async def work() -> None:
        async with gateway(models=MODELS) as running:
            for model in ("mock?tokens=1", "toy?tokens=1", "other?tokens=1", "mock?status=418", "nobody"):
                await ask(running.port, chat(model))
            await ask(running.port, b"nonsense")
            await ask(running.port, chat(), path="/v1/other")
            found = [line for line in await page(running.ops_port) if line.startswith("tidegate_requests_total")]
            for line in found:
                labels = dict(pair.split("=", 1) for pair in line.partition("{")[2].partition("}")[0].split(","))
                words = {name: value.strip('"') for name, value in labels.items()}
                assert words["model"] in {"mock", "other", ""}
                assert words["provider"] in {"main", ""}
                assert words["route"] in {"chat", "models", "other", ""}
                assert words["code"] in TABLE
                assert words["status"].isdigit()
            assert len(found) >= 5

    run(work)
