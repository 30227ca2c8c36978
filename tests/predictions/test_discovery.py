"""What a server says of itself: its paths, and why a model cannot run."""

import pytest
from fronting import INFO, OK, Model, fronted

from harness import run
from tidegate.predictions.discovery import runnable
from tidegate.verdict import Refused
from tidegate.worker.health import Health

INPUT = {"input": {"prompt": "hi"}}


def test_every_model_has_an_index_of_its_own_paths() -> None:
    async def scenario() -> None:
        async with fronted(shutdown=True) as at:
            at.models["o/2 b"] = Model("o/2 b")
            assert (await at.get("/")).status == 404  # nobody knows of which model
            found = (await at.get("/v1/models/o/2%20b/")).json()
            root = "/v1/models/o/2%20b"
            assert found["predictions_url"] == f"{root}/predictions"
            assert found["predictions_idempotent_url"] == f"{root}/predictions/{{prediction_id}}"
            assert found["predictions_cancel_url"] == f"{root}/predictions/{{prediction_id}}/cancel"
            assert "shutdown_url" not in found  # that is a path of a single model
            for name in ("openapi_url", "healthcheck_url"):
                assert (await at.get(found[name])).status == 200
            assert (await at.get("/v1/models/other/")).status == 404
            del at.models["m"]
            alone = (await at.get("/")).json()
            assert (alone["predictions_url"], alone["shutdown_url"]) == ("/predictions", "/shutdown")

    run(scenario)


@pytest.mark.parametrize(("queue", "status"), [(0, 503), (10, 200)])
def test_between_two_processes_who_may_wait_does_and_nobody_else(queue: int, status: int) -> None:
    async def scenario() -> None:
        async with fronted() as at:
            at.model.max_queue = queue
            at.model.found = Health("STARTING", OK, error="it crashed", restart_in_s=40.0)
            reply = await at.post(INPUT)
            assert reply.status == status
            if queue == 0:
                assert 40 <= int(reply.headers["retry-after"]) <= 51
                assert "process ended" in reply.json()["error"]

    run(scenario)


@pytest.mark.parametrize(
    ("status", "rest_s", "least", "most"),
    [("STARTING", 0.0, 2, 3), ("STARTING", 4.5, 5, 7), ("DEFUNCT", 19.2, 20, 26), ("DEFUNCT", 0.0, 2, 3)],
)
def test_a_refusal_asks_to_come_back_when_the_next_process_is_started(
    status: str, rest_s: float, least: int, most: int
) -> None:
    model = Model(info=INFO, status=status)
    model.max_queue = 0
    model.found = Health(model.found.status, OK, restart_in_s=rest_s)
    with pytest.raises(Refused) as refusal:
        runnable(model, lambda: 0.999)
    ((name, value),) = refusal.value.headers
    assert (name, least <= int(value) <= most) == (b"retry-after", True)
