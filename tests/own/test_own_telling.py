"""What handlers print and measure reaches their own prediction, whole, and no other."""

from harness import run
from owning import owning


def test_what_a_thread_prints_late_reaches_no_other_prediction() -> None:
    async def work() -> None:
        async with owning("Telling") as own:
            first = (await own.post({"how": "late"})).json()
            second = (await own.post({"how": "after"})).json()
            assert (first["status"], first["logs"]) == ("succeeded", "")
            assert (second["status"], second["logs"]) == ("succeeded", "mine\n")
            assert (first["metrics"].keys(), second["metrics"].keys()) == ({"predict_time"}, {"predict_time"})
            await own.at_rest()

    run(work)


def test_a_prediction_that_replaces_the_streams_does_not_silence_those_after_it() -> None:
    async def work() -> None:
        async with owning("Telling") as own:
            assert (await own.post({"how": "late"})).json()["logs"] == ""
            assert (await own.post({"how": "replace"})).json()["logs"] == ""
            assert (await own.post({"how": "after"})).json()["logs"] == "mine\n"
            await own.at_rest()

    run(work)


def test_a_line_without_end_of_a_worker_that_vanishes_is_in_the_logs() -> None:
    async def work() -> None:
        async with owning("Telling") as own:
            found = (await own.post({"how": "vanish"})).json()
            assert (found["status"], found["logs"]) == ("failed", "no end")
            await own.at_rest()

    run(work)


def test_metrics_are_the_same_for_the_handler_and_the_client() -> None:
    async def work() -> None:
        async with owning("Telling") as own:
            found = (await own.post({"how": "metrics"})).json()
            assert (found["status"], found["output"]) == ("succeeded", "1e+308")
            assert (found["metrics"]["loss"], found["metrics"]["much"]) == (0.5, 1e308)
            assert str(found["metrics"]["deep"]).count("[") == 200
            await own.at_rest()

    run(work)


def test_an_output_of_200_levels_goes_through_whole() -> None:
    async def work() -> None:
        async with owning("deep") as own:
            found = (await own.post({"levels": 200})).json()
            assert str(found["output"]).count("[") == 200
            found = (await own.post({"levels": 202})).json()
            assert (found["status"], "200 levels" in found["error"]) == ("failed", True)
            await own.at_rest()

    run(work)
