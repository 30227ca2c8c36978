"""The server's own life: setup, health, crash, end (Cog's health states and shutdown)."""

import os
import signal
import time

from cog_servers import Site, Wish, wait_exit
from cog_talk import SSE, Json, hook, later, seen


def _shape(health: Json) -> Json:
    return {"status": health["status"], "setup": health["setup"]["status"], "keys": sorted(health["setup"])}


def health_when_ready(site: Site) -> Json:
    """READY, with when setup began and ended and what it said."""
    return _shape(site.at().health())


def health_keys(site: Site) -> Json:
    """The body has `status`, `setup` and `version`."""
    return sorted(site.at().health())


def setup_keeps_its_logs(site: Site) -> Json:
    """`setup.logs` has what setup printed, at least once in five starts."""
    for _ in range(5):  # Cog may be READY before the last line of its setup is in
        with site.fresh(Wish()) as running:
            if "setup: loading weights" in running.talk.health()["setup"]["logs"]:
                return True
    return False


def health_names_python(site: Site) -> Json:
    """`version` names the version of Python."""
    return site.at().health()["version"].get("python", "").count(".") == 2


def health_when_busy(site: Site) -> Json:
    """BUSY while no slot is free, and READY again."""
    talk = site.at()
    running = later(lambda: talk.post({"prompt": "x", "n": 2, "delay": 0.2}))
    busy = talk.wait_health("BUSY", timeout_s=5)
    running.result(20)
    return [busy, talk.wait_ready()]


def health_by_the_users_check(site: Site) -> Json:
    """UNHEALTHY when the handler's own check says so, with 200; predictions are still taken."""
    with site.fresh(Wish()) as running:
        talk = running.talk
        talk.post({"prompt": "x", "mode": "sick"})
        sick = talk.wait_health("UNHEALTHY", timeout_s=5)
        answer = talk.call("GET", "/health-check")
        taken = talk.post({"prompt": "x", "mode": "well"}).status
        return [sick, answer.status, "user_healthcheck_error" in answer.json, taken, talk.wait_ready()]


def health_by_a_check_that_raises(site: Site) -> Json:
    """UNHEALTHY when the handler's own check raises, with what it raised."""
    with site.fresh(Wish()) as running:
        running.talk.post({"prompt": "x", "mode": "sick_raise"})
        sick = running.talk.wait_health("UNHEALTHY", timeout_s=5)
        return [sick, "no GPU" in running.talk.health().get("user_healthcheck_error", "")]


def starting(site: Site) -> Json:
    """Health while setup runs."""
    with site.fresh(Wish(model="slow"), settled=False) as running:
        return _shape(running.talk.health())


def prediction_while_starting(site: Site) -> Json:
    """A prediction while setup runs is 503."""
    with site.fresh(Wish(model="slow"), settled=False) as running:
        return seen(running.talk.post({"text": "x"}))


def stream_while_starting(site: Site) -> Json:
    """A stream while setup runs."""
    with site.fresh(Wish(model="slow"), settled=False) as running:
        return running.talk.post({"text": "x"}, accept=SSE).status


def cancel_while_starting(site: Site) -> Json:
    """Cancel while setup runs is 404."""
    with site.fresh(Wish(model="slow"), settled=False) as running:
        return seen(running.talk.cancel("absent"))


def openapi_while_starting(site: Site) -> Json:
    """`/openapi.json` while setup runs is 503."""
    with site.fresh(Wish(model="slow"), settled=False) as running:
        return running.talk.call("GET", "/openapi.json").status


def setup_that_fails(site: Site) -> Json:
    """SETUP_FAILED when setup raises, with what it raised."""
    with site.fresh(Wish(model="broken")) as running:
        health = running.talk.health()
        return _shape(health) | {"said": "RuntimeError: could not load weights" in health["setup"]["logs"]}


def setup_that_fails_keeps_its_logs(site: Site) -> Json:
    """What a failing setup printed is in `setup.logs`."""
    with site.fresh(Wish(model="broken")) as running:
        return "looking for the weights" in running.talk.health()["setup"]["logs"]


def prediction_after_a_failed_setup(site: Site) -> Json:
    """A prediction after a failed setup is 503."""
    with site.fresh(Wish(model="broken")) as running:
        answer = running.talk.post({})
        return {"status": answer.status, "keys": sorted(answer.json), "failed": answer.json["status"]}


def failed_setup_is_said_to_have_failed(site: Site) -> Json:
    """The error after a failed setup says that it failed."""
    with site.fresh(Wish(model="broken")) as running:
        return "fail" in running.talk.post({}).json["error"].lower()


def setup_without_a_handler(site: Site) -> Json:
    """A handler that is not there."""
    try:
        with site.fresh(Wish(missing=True)) as running:
            return str(running.talk.health()["status"])
    except RuntimeError:
        return "does not start"


def setup_that_takes_too_long(site: Site) -> Json:
    """SETUP_FAILED when setup takes too long."""
    with site.fresh(Wish(model="slow", setup_timeout_s=1)) as running:
        return _shape(running.talk.health())


def crash(site: Site) -> Json:
    """A worker that dies fails its prediction, with 200."""
    with site.fresh(Wish()) as running:
        answer = running.talk.post({"prompt": "x", "mode": "exit"})
        return [answer.status, answer.json["status"]]


def crash_keeps_the_logs(site: Site) -> Json:
    """What was printed before a worker died is in the prediction's logs."""
    with site.fresh(Wish()) as running:
        return running.talk.post({"prompt": "x", "mode": "exit", "delay": 0.2}).json["logs"]


def health_after_a_crash(site: Site) -> Json:
    """Health a while after a worker died."""
    with site.fresh(Wish()) as running:
        running.talk.post({"prompt": "x", "mode": "exit"})
        return running.talk.wait_health("READY", timeout_s=8)


def prediction_after_a_crash(site: Site) -> Json:
    """A prediction a while after a worker died."""
    with site.fresh(Wish()) as running:
        running.talk.post({"prompt": "x", "mode": "exit"})
        running.talk.wait_health("READY", timeout_s=8)
        return running.talk.post({"prompt": "x", "n": 1}).status


def shutdown(site: Site) -> Json:
    """`POST /shutdown` is 200; what runs is answered, and the server ends with 0."""
    with site.fresh(Wish()) as running:
        waiting = later(lambda: running.talk.post({"prompt": "x", "n": 4, "delay": 0.2}))
        running.talk.wait_health("BUSY")
        answer = seen(running.talk.call("POST", "/shutdown"))
        ended = waiting.result(20).json["status"]
        return {"answer": answer, "running": ended, "ended": wait_exit(running), "code": running.process.returncode}


def sigterm_during_a_stream(site: Site) -> Json:
    """A stream goes on to its end after SIGTERM."""
    with site.fresh(Wish()) as running:
        stream = running.talk.stream("term", {"prompt": "x", "n": 5, "delay": 0.2})
        stream.until("output")
        os.kill(running.process.pid, signal.SIGTERM)
        return {"end": stream.rest()[-1].data["status"], "ended": wait_exit(running)}


def sigterm_during_an_async_prediction(site: Site) -> Json:
    """A prediction made with `respond-async` is finished after SIGTERM, and its end is told."""
    with site.fresh(Wish()) as running, hook() as receiver:
        given = {"prompt": "x", "n": 5, "delay": 0.3}
        running.talk.post(given, prefer="respond-async", webhook=receiver.url(), webhook_events_filter=["completed"])
        running.talk.wait_health("BUSY")
        time.sleep(0.3)
        os.kill(running.process.pid, signal.SIGTERM)
        wait_exit(running)
        return receiver.wait_end(timeout_s=1)
