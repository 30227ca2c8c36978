"""One id and its life: PUT again, cancel, webhooks (Cog's idempotency, cancellation and webhooks)."""

import time
from contextlib import ExitStack

from cog_servers import Site, Wish
from cog_talk import Json, Talk, hook, later, plain, seen

LONG = {"prompt": "x", "n": 10, "delay": 0.15}


def put_async(site: Site) -> Json:
    """PUT with `respond-async` is 202 at once."""
    talk = site.at()
    said = seen(talk.put("put-async", {"prompt": "x", "n": 0}, prefer="respond-async"), "put-async")
    talk.wait_ready()
    return said


def put_again_async(site: Site) -> Json:
    """PUT of an id in flight, with `respond-async`, is 202 with all there is."""
    with _running(site, "again-async") as talk:
        return seen(talk.put("again-async", LONG, prefer="respond-async"), "again-async")


def put_again_sync(site: Site) -> Json:
    """PUT of an id in flight, without `respond-async`."""
    with _running(site, "again-sync") as talk:
        answer = talk.put("again-sync", LONG)
        return {"status": answer.status, "body": answer.json["status"]}


def put_again_with_another_input(site: Site) -> Json:
    """PUT of an id in flight with another input."""
    with _running(site, "again-other") as talk:
        return talk.put("again-other", {"prompt": "DIFFERENT"}, prefer="respond-async").status


def put_again_with_an_invalid_input(site: Site) -> Json:
    """PUT of an id in flight with an invalid input."""
    with _running(site, "again-invalid") as talk:
        return talk.put("again-invalid", {"n": "x"}, prefer="respond-async").status


def put_after_the_end(site: Site) -> Json:
    """PUT of an id that has finished, with the same input: how many runs there were."""
    talk = site.at()
    given = {"prompt": "x", "mode": "count"}
    first = talk.put("after-end", given)
    talk.wait_ready()
    second = talk.put("after-end", given)
    return {"statuses": [first.status, second.status], "ran again": first.json["output"] != second.json["output"]}


def post_of_an_id_in_flight(site: Site) -> Json:
    """POST of an id in flight."""
    with _running(site, "post-again") as talk:
        return talk.post({"prompt": "x"}, id="post-again").status


def post_of_an_id_in_flight_with_a_slot_free(site: Site) -> Json:
    """POST of an id in flight, with a slot free."""
    talk = site.at("steps", slots=8)
    talk.post({"n": 6, "delay": 0.1}, id="twice", prefer="respond-async")
    answer = talk.post({"n": 1}, id="twice")
    talk.cancel("twice")
    return answer.status


class _running:  # noqa: N801 - it is used like a function
    """A prediction that is in flight. Holds: its slot, until it is cancelled."""

    def __init__(self, site: Site, name: str) -> None:
        self._talk = site.at()
        self._name = name

    def __enter__(self) -> Talk:
        self._talk.put(self._name, LONG, prefer="respond-async")
        with ExitStack() as stack:
            stream = self._talk.stream(self._name, LONG)
            stack.callback(stream.close)
            stream.until("output", 2)
        return self._talk

    def __exit__(self, *_: object) -> None:
        self._talk.cancel(self._name)
        self._talk.wait_ready()


def cancel_of_a_sync_prediction(site: Site) -> Json:
    """Another client cancels a synchronous prediction: both are answered."""
    talk = site.at()
    waiting = later(lambda: talk.put("cancel-sync", LONG))
    talk.wait_health("BUSY")
    time.sleep(0.4)
    answer = seen(talk.cancel("cancel-sync"))
    ended = waiting.result(20)
    return {"cancel": answer, "status": ended.status, "body": ended.json["status"]}


def cancelled_keeps_its_logs(site: Site) -> Json:
    """The answer of a cancelled synchronous prediction has its logs and output."""
    talk = site.at()
    waiting = later(lambda: talk.put("cancel-logs", LONG))
    talk.wait_health("BUSY")
    time.sleep(0.4)
    talk.cancel("cancel-logs")
    body = waiting.result(20).json
    return {"logs": bool(body["logs"]), "output": bool(body.get("output"))}


def cancel_of_a_stream(site: Site) -> Json:
    """A cancelled stream ends with `completed`, with the logs of the handler's own cleaning up."""
    talk = site.at()
    stream = talk.stream("cancel-sse", LONG)
    stream.until("output", 2)
    talk.cancel("cancel-sse")
    end = stream.rest()[-1]
    return {"event": end.name, "status": end.data["status"], "cleanup": "cleanup: cancelled\n" in end.data["logs"]}


def cancel_of_an_async_handler(site: Site) -> Json:
    """A cancelled asynchronous handler keeps its logs and output."""
    talk = site.at("steps", slots=8)
    stream = talk.stream("cancel-steps", {"n": 50, "delay": 0.1})
    stream.until("log", 2)
    time.sleep(0.05)
    talk.cancel("cancel-steps")
    end = stream.rest()[-1].data
    return {"status": end["status"], "cleanup": "cleanup" in end["logs"], "output": bool(end.get("output"))}


def cancel_again(site: Site) -> Json:
    """Cancel is idempotent while the prediction runs."""
    talk = site.at("steps", slots=8)
    talk.post({"n": 50, "delay": 0.1}, id="cancel-twice", prefer="respond-async")
    return next(seen(talk.cancel("cancel-twice")) for _ in range(2))


def cancel_after_the_end(site: Site) -> Json:
    """Cancel of what has finished is 404."""
    talk = site.at()
    talk.put("cancel-ended", {"prompt": "x", "n": 0})
    talk.wait_ready()
    return seen(talk.cancel("cancel-ended"))


def cancel_of_nothing(site: Site) -> Json:
    """Cancel of an unknown id is 404."""
    return seen(site.at().cancel("absent"))


def cancel_that_is_swallowed(site: Site) -> Json:
    """A handler that swallows the exception is canceled all the same."""
    talk = site.at()
    stream = talk.stream("swallowed", {"prompt": "x", "mode": "swallow", "delay": 0.01})
    talk.wait_health("BUSY")
    time.sleep(0.2)
    talk.cancel("swallowed")
    end = stream.rest()[-1].data
    return {"status": end["status"], "output": end.get("output")}


def cancel_of_a_blocking_call(site: Site) -> Json:
    """A call that does not come back is cancelled within the grace."""
    with site.fresh(Wish()) as running:
        stream = running.talk.stream("blocked", {"prompt": "x", "mode": "block", "delay": 8})
        running.talk.wait_health("BUSY")
        time.sleep(0.3)
        began = time.monotonic()
        running.talk.cancel("blocked")
        end = stream.rest()[-1].data
        return {"status": end["status"], "before the call came back": time.monotonic() - began < 5}


def webhooks_of_a_prediction(site: Site) -> Json:
    """Webhooks tell the start, what there is, and the end, as `completed` has it."""
    with hook() as receiver:
        site.at().post(
            {"prompt": "hi", "n": 1, "delay": 0.7}, prefer="respond-async", id="hooked", webhook=receiver.url()
        )
        hits = receiver.wait("succeeded")
        return {"first": plain(hits[0].body, "hooked"), "last": _last(hits[-1:], "hooked")}


def _last(hits: list[Json], name: str) -> Json:
    return plain(hits[-1].body, name)


def webhooks_in_order(site: Site) -> Json:
    """No webhook comes after the one that tells the end."""
    with hook() as receiver:
        given = {"prompt": "hi", "n": 100, "delay": 0.002}
        site.at().post(given, prefer="respond-async", webhook=receiver.url())
        receiver.wait("succeeded")
        time.sleep(0.5)
        return receiver.hits[-1].body["status"]


def webhooks_are_throttled(site: Site) -> Json:
    """A hundred chunks within a fifth of a second make few webhooks."""
    with hook() as receiver:
        given = {"prompt": "hi", "n": 100, "delay": 0.002}
        site.at().post(given, prefer="respond-async", webhook=receiver.url())
        receiver.wait("succeeded")
        return len(receiver.hits) < 20


def webhooks_that_are_chosen(site: Site) -> Json:
    """Only the events that were asked for are told."""
    with hook() as receiver:
        more: dict[str, Json] = {"webhook": receiver.url(), "webhook_events_filter": ["start", "completed"]}
        site.at().post({"prompt": "hi", "n": 2, "delay": 0.1}, prefer="respond-async", **more)
        return [hit.body["status"] for hit in receiver.wait("succeeded")]


def webhook_that_is_refused(site: Site) -> Json:
    """The end is told again until it is taken."""
    with hook() as receiver:
        more: dict[str, Json] = {"webhook": receiver.url("/fail/503/2"), "webhook_events_filter": ["completed"]}
        site.at().post({"prompt": "hi", "n": 0}, prefer="respond-async", **more)
        ends = time.monotonic() + 20
        while len(receiver.hits) < 3 and time.monotonic() < ends:
            time.sleep(0.05)
        return len(receiver.hits)


def webhook_that_is_not_found(site: Site) -> Json:
    """A 404 is not asked again."""
    with hook() as receiver:
        more: dict[str, Json] = {"webhook": receiver.url("/fail/404/9"), "webhook_events_filter": ["completed"]}
        site.at().post({"prompt": "hi", "n": 0}, prefer="respond-async", **more)
        receiver.wait("succeeded")
        time.sleep(1)
        return len(receiver.hits)


def webhook_of_a_failure(site: Site) -> Json:
    """A failure is told with its logs and output."""
    with hook() as receiver:
        more: dict[str, Json] = {"webhook": receiver.url(), "webhook_events_filter": ["completed"]}
        site.at().post({"prompt": "hi", "mode": "raise"}, prefer="respond-async", id="hook-fail", **more)
        return plain(receiver.wait("failed")[-1].body, "hook-fail")


def webhook_of_a_sync_prediction(site: Site) -> Json:
    """A synchronous prediction tells its end too."""
    with hook() as receiver:
        site.at().post({"prompt": "hi", "n": 0}, webhook=receiver.url(), webhook_events_filter=["completed"])
        return receiver.wait_end()


def webhook_headers(site: Site) -> Json:
    """`traceparent` and `tracestate` of the request are on its webhooks."""
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}
    with hook() as receiver:
        body = {"input": {"prompt": "hi", "n": 0}, "webhook": receiver.url(), "webhook_events_filter": ["completed"]}
        site.at().call("POST", "/predictions", body, headers=trace)
        headers = receiver.wait("succeeded")[-1].headers
        return {name: headers.get(name) == value for name, value in trace.items()} | {"type": headers["content-type"]}


def webhook_with_a_bearer(site: Site) -> Json:
    """A bearer that was set is sent."""
    with site.fresh(Wish(token="made-up-token")) as running, hook() as receiver:
        running.talk.post({"prompt": "hi", "n": 0}, webhook=receiver.url(), webhook_events_filter=["completed"])
        return receiver.wait("succeeded")[-1].headers.get("authorization")


def webhook_that_is_no_url(site: Site) -> Json:
    """A webhook that is no URL."""
    return site.at().post({"prompt": "hi", "n": 0}, webhook="not a url").status
