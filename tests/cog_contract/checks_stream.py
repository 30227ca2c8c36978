"""Event streams: what they say, who comes late, who leaves (Cog's SSE)."""

import socket
from contextlib import ExitStack

from cog_servers import Site, Wish
from cog_talk import SSE, Json, Stream, heard, hook, names, plain

LONG = {"prompt": "x", "n": 8, "delay": 0.15}


def stream_of_a_success(site: Site) -> Json:
    """A stream has start, output, log, metric and completed, with Cog's payloads in the order they happened."""
    return heard(site.at().stream("s-ok", {"prompt": "hi"}).rest(), "s-ok")


def stream_of_a_failure(site: Site) -> Json:
    """The stream of a failed prediction ends with `completed`, which has its logs and output."""
    return heard(site.at().stream("s-fail", {"prompt": "hi", "mode": "raise"}).rest(), "s-fail")


def stream_headers(site: Site) -> Json:
    """A stream is an event stream that is not cached."""
    stream = site.at().stream("", {"prompt": "hi"})
    stream.rest()
    return {name: stream.headers.get(name) for name in ("content-type", "cache-control", "transfer-encoding")}


def stream_has_ids(site: Site) -> Json:
    """Events have ids."""
    return all(event.id for event in site.at().stream("", {"prompt": "hi"}).rest())


def stream_resumes_by_id(site: Site) -> Json:
    """`Last-Event-ID` resumes a stream after an event."""
    talk = site.at()
    talk.put("resumed", {**LONG, "delay": 0.02}, prefer="respond-async")
    talk.wait_ready()
    headers = {"accept": SSE, "last-event-id": "5"}
    answer = talk.call("GET", "/predictions/resumed", headers=headers)
    return answer.body.startswith(b"id: 6\n")


def stream_of_text_with_lines(site: Site) -> Json:
    """Newlines and separators in a chunk arrive as they were."""
    events = site.at().stream("", {"prompt": "a\nb é \u2028", "n": 1}).rest()
    return [event.data["chunk"] for event in events if event.name == "output"]


def stream_of_a_single_value(site: Site) -> Json:
    """A single value is one output event."""
    return heard(site.at("single").stream("s-one", {}).rest(), "s-one")


def stream_of_nothing(site: Site) -> Json:
    """A generator that yields nothing has no output event."""
    return names(site.at().stream("", {"prompt": "x", "n": 0}).rest())


def stream_of_many(site: Site) -> Json:
    """A thousand chunks come in order, none twice."""
    events = site.at().stream("", {"prompt": "x", "n": 1000}).rest()
    indexes = [event.data["index"] for event in events if event.name == "output"]
    return {"in order": indexes == list(range(1000)), "output": len(events[-1].data["output"])}


def stream_says_it_lives(site: Site) -> Json:
    """After 15 s of silence a comment says that the stream lives."""
    stream = site.at().stream("", {"prompt": "x", "n": 1, "delay": 16})
    events = stream.rest()
    return {"comments": stream.comments, "end": events[-1].name}


def stream_of_an_async_generator(site: Site) -> Json:
    """An asynchronous generator streams each chunk as it is yielded."""
    events = site.at("steps", slots=8).stream("", {}).rest()
    return names(events)


def two_streams_at_once(site: Site) -> Json:
    """Two asynchronous generators stream at once."""
    talk = site.at("steps", slots=8)
    with ExitStack() as stack:
        streams = [talk.stream("", {"n": 6, "delay": 0.3}) for _ in range(2)]
        for stream in streams:
            stack.callback(stream.close)
        return [names(stream.until("output"))[-1] == "output" and _unfinished(stream) for stream in streams]


def _unfinished(stream: Stream) -> bool:
    """Give whether a step was still to come when the first chunk had come."""
    return "log" in names(stream.rest())


def threads_for_synchronous_handlers(site: Site) -> Json:
    """A synchronous handler may run twice at a time."""
    with site.fresh(Wish(model="parallel", slots=2)) as running:
        return running.talk.health()["status"]


def failure_of_an_async_generator(site: Site) -> Json:
    """A failed asynchronous generator keeps what it gave."""
    events = site.at("steps", slots=8).stream("", {"mode": "raise"}).rest()
    return {"output": events[-1].data.get("output"), "status": events[-1].data["status"]}


def late_subscriber(site: Site) -> Json:
    """Who comes late gets everything from the start, then what happens."""
    talk = site.at()
    talk.put("late", {"prompt": "hi", "n": 4, "delay": 0.2}, prefer="respond-async")
    with ExitStack() as stack:
        first = talk.stream("late", {"prompt": "hi", "n": 4, "delay": 0.2})
        stack.callback(first.close)
        first.until("output", 2)
        return heard(talk.stream("late", {"prompt": "hi", "n": 4, "delay": 0.2}).rest(), "late")


def subscriber_after_the_end(site: Site) -> Json:
    """Who comes after the end: the model runs again."""
    talk = site.at()
    given = {"prompt": "x", "mode": "count"}
    first = talk.put("ended", given).json["output"]
    talk.wait_ready()
    events = talk.stream("ended", given).rest()
    return {"ran again": events[-1].data["output"] != first, "events": names(events)}


def subscriber_after_the_ring(site: Site) -> Json:
    """Who comes when the history has lost its beginning."""
    with site.fresh(Wish(history=4)) as running:
        talk = running.talk
        talk.put("ring", LONG, prefer="respond-async")
        with ExitStack() as stack:
            first = talk.stream("ring", LONG)
            stack.callback(first.close)
            talk.stream("ring", LONG).until("output", 4)
        talk.wait_health("BUSY")
        said = names(talk.stream("ring", LONG).rest())
        return {"first": said[:1], "skipped said": bool(set(said) & {"skipped", "error"}), "end": said[-1]}


def subscriber_without_history(site: Site) -> Json:
    """Without a history, who comes late gets what happens from then on, without a start."""
    with site.fresh(Wish(history=0)) as running:
        talk = running.talk
        talk.put("unkept", LONG, prefer="respond-async")
        talk.wait_health("BUSY")
        said = names(talk.stream("unkept", LONG).rest())
        return {"start": "start" in said, "end": said[-1]}


def subscribers_are_bounded(site: Site) -> Json:
    """One subscriber more than 1,024 is refused with 429."""
    talk = site.at()
    talk.put("crowd", {"prompt": "x", "n": 20, "delay": 0.5}, prefer="respond-async")
    body = b'{"input":{"prompt":"x","n":20,"delay":0.5}}'
    head = (
        f"PUT /predictions/crowd HTTP/1.1\r\nhost: localhost\r\naccept: {SSE}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    seats = []
    try:
        for _ in range(1025):
            seats.append(socket.create_connection(("127.0.0.1", talk.port), 20))
            seats[-1].sendall(head.encode() + body)
        return [int(seat.recv(4096).split()[1]) for seat in (seats[0], seats[-2], seats[-1])]
    finally:
        for seat in seats:
            seat.close()
        talk.cancel("crowd")


def sync_creator_leaves(site: Site) -> Json:
    """A synchronous creator that leaves cancels the prediction."""
    with hook() as receiver:
        talk = site.at()
        left = talk_leaving(talk.port, "leave-sync", receiver.url())
        talk.wait_health("BUSY")
        left.close()
        return receiver.wait_end()


def talk_leaving(port: int, name: str, url: str) -> socket.socket:
    """Begin a synchronous prediction, whose answer is not waited for."""
    body = f'{{"input":{{"prompt":"x","n":12,"delay":0.2}},"webhook":"{url}","webhook_events_filter":["completed"]}}'
    head = f"PUT /predictions/{name} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    connection = socket.create_connection(("127.0.0.1", port), 20)
    connection.sendall(f"{head}\r\n\r\n{body}".encode())
    return connection


def sync_creator_leaves_a_watcher(site: Site) -> Json:
    """A synchronous creator that leaves cancels also under a watcher, who is told."""
    with hook() as receiver:
        talk = site.at()
        left = talk_leaving(talk.port, "leave-watched", receiver.url())
        talk.wait_health("BUSY")
        watcher = talk.stream("leave-watched", {"prompt": "x", "n": 12, "delay": 0.2})
        watcher.until("output")
        left.close()
        return plain(watcher.rest()[-1].data)["status"]


def last_subscriber_leaves(site: Site) -> Json:
    """The last subscriber of a prediction made with SSE cancels it by leaving."""
    with hook() as receiver:
        stream = site.at().stream("leave-last", LONG, webhook=receiver.url(), webhook_events_filter=["completed"])
        stream.until("output")
        stream.close()
        return receiver.wait_end()


def creator_leaves_another(site: Site) -> Json:
    """A creator with SSE that leaves while another subscriber stays does not end it."""
    talk = site.at()
    creator = talk.stream("leave-other", LONG)
    creator.until("output")
    other = talk.stream("leave-other", LONG)
    other.until("output")
    creator.close()
    return plain(other.rest()[-1].data)["status"]


def watcher_of_async_leaves(site: Site) -> Json:
    """A watcher that leaves a prediction made with `respond-async` does not end it."""
    with hook() as receiver:
        talk = site.at()
        more: dict[str, Json] = {"webhook": receiver.url(), "webhook_events_filter": ["completed"]}
        talk.put("leave-async", {**LONG, "delay": 0.1}, prefer="respond-async", **more)
        watcher = talk.stream("leave-async", {**LONG, "delay": 0.1})
        watcher.until("output")
        watcher.close()
        return receiver.wait_end()
