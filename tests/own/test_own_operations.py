"""What operators see of models of our own."""

from harness import ask, run
from owning import owning


def test_predictions_are_counted_while_they_run_and_while_they_are_kept() -> None:
    async def work() -> None:
        async with owning() as own:
            await own.post({"prompt": "a b"}, id="one")
            page = (await ask(own.running.ops_port, None, path="/metrics", method="GET")).body.decode()
            assert 'tidegate_predictions{state="running"} 0.0' in page
            assert 'tidegate_predictions{state="kept"} 1.0' in page
            kept = next(line for line in page.splitlines() if line.startswith("tidegate_predictions_kept_bytes "))
            assert 0 < float(kept.split()[1]) < 10_000
            assert own.tidegate.buffered_bytes() == 0

    run(work)


def test_a_probe_of_the_health_leaves_no_record() -> None:
    async def work() -> None:
        async with owning() as own:
            assert (await own.get("/health-check")).status == 200
            assert own.running.entries() == ()
            assert (await own.post({}, "/health-check")).status == 405
            assert [entry.code for entry in own.running.entries()] == ["method"]

    run(work)
