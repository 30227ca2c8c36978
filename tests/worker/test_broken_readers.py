"""A reader that fails at what it is given: it alone ends."""

from workshop import Reader, outcome_of, predicting, read, run, shop

from tidegate.verdict import BUG, COMPLETED


class Broken(Reader):
    def write(self, data: bytes, /) -> None:
        raise RecursionError("too deep, and may quote a prompt")


class Mute(Broken):
    def finish(self, ending: object, /) -> None:
        super().finish(ending)  # type: ignore[arg-type]
        raise RuntimeError("fails at its end, too")


def test_a_reader_that_raises_gets_its_end_and_harms_no_other_of_the_same_worker() -> None:
    async def work() -> None:
        async with shop({"slots": 2}) as made:
            other = predicting(do="wait")
            async with made.local.open(other) as waiting:
                for broken in (Broken(), Mute()):
                    async with made.local.open(predicting(items=["a"], do="list")) as stream:
                        stream.source.attach(broken)
                        await broken.over.wait()
                        assert [ending.verdict for ending in broken.endings] == [BUG]
                    assert made.local.crew.running == 1
                assert made.local.cancel(outcome_of(other))
                reader = await read(waiting)
                assert [ending.verdict for ending in reader.endings] == [COMPLETED]
            told = made.events("bug")
            assert len(told) == 2
            assert all("Run.flush" in each["at"] and "quote" not in str(each) for each in told)
            assert len(made.events("worker_ready")) == 1

    run(work)
