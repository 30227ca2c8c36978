from harness import ask, chat, gateway, run


def test_a_stream_passes_through_the_whole_gateway() -> None:
    async def work() -> None:
        async with gateway() as running:
            reply = await ask(running.port, chat("mock?tokens=5"))
            assert reply.status == 200
            assert reply.complete
            assert reply.events()[-1] == "[DONE]"
            entry = await running.entry()
            assert (entry.code, entry.usage.output_tokens) == ("completed", 5)

    run(work)
