"""The HTTP front of predictions: who asks for what is found out, checked in the order of what it costs, and answered."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping
from typing import Final, Protocol

import structlog
from msgspec import Struct, structs

from tidegate.dialect.prediction import write_envelope
from tidegate.edge.cold import Identifying, Recording
from tidegate.edge.connection import Conducting
from tidegate.edge.settings import ServerSettings
from tidegate.exchange import Arrival, Client, Ending, Identity
from tidegate.kernel.backoff import retry_after
from tidegate.kernel.faults import where
from tidegate.predictions import discovery
from tidegate.predictions.answers import answer, answer_members, plain_error
from tidegate.predictions.discovery import Served
from tidegate.predictions.following import answer_caller, answer_creator, answer_follower
from tidegate.predictions.inputs import Given, Inputs, read_input
from tidegate.predictions.paths import METHODS, Place, route_of
from tidegate.predictions.prediction import Key, Order, Policy, Prediction, Terms
from tidegate.predictions.registry import Registry
from tidegate.predictions.requests import (
    Body,
    Wish,
    check_host,
    check_kind,
    check_near,
    check_path_id,
    check_site,
    last_event,
    read_body,
    trouble_with,
    webhook_events,
    wish_of,
)
from tidegate.predictions.settings import PredictionSettings
from tidegate.tasks import Tasks, off_loop
from tidegate.verdict import (
    BAD_REQUEST,
    BUG,
    CANCELLED,
    COMPLETED,
    DRAINING,
    METHOD,
    NOT_FOUND,
    TOO_LARGE,
    UNKNOWN_MODEL,
    Fault,
    Refused,
)
from tidegate.worker.messages import Info

ROUTE: Final = "predictions"
DRAIN_RETRY_S: Final = 1.0
MAX_UNNEEDED_BYTES: Final = 1024 * 1024
"""A body that the request does not need is refused above."""
_NOT_STREAMED: Final = "This model does not stream: mark its handler with @streaming for server-sent events."
_TRACE: Final = (b"traceparent", b"tracestate")

Hooking = Callable[
    [str, frozenset[str], Mapping[str, str], Callable[[], bytes], Mapping[str, str]], Callable[[str], None]
]
"""Gives what hears of a prediction for a URL: which events, with which headers, what its body is, and which ids the log has."""


class Gating(Identifying, Protocol):
    """Says who asks."""

    @property
    def open(self) -> bool:
        """Whether nobody needs a key."""
        ...


class Guarding(Protocol):
    """Says whether there is memory for a body."""

    def judge(self, length: int, /) -> None:
        """Refuse a body that there is no room for. Errors: Refused (overloaded)."""
        ...

    def expect(self, length: int, /) -> int:
        """Count a body that is about to be read; gives what it was counted as."""
        ...

    def came(self, counted: int, /) -> None:
        """Take note that no more of it is coming."""
        ...


class Around(Struct, frozen=True, kw_only=True):
    """What the front works with.

    Shape: `models` are those of our own, by the names that clients call them; `server` gives the settings of the present.
    """

    settings: PredictionSettings
    server: Callable[[], ServerSettings]
    models: Callable[[], Mapping[str, Served]]
    gate: Gating
    memory: Guarding
    draining: Callable[[], bool]
    gateway: Conducting
    recording: Recording
    registry: Registry
    hook: Hooking | None
    tasks: Tasks
    clock: Callable[[], float]
    wall: Callable[[], float]
    chance: Callable[[], float]
    shut_down: Callable[[], None]


class _Visit(Struct):
    """One request. Shape: `counted` says that its record was begun, `conducted` that its exchange is recorded elsewhere."""

    arrival: Arrival
    client: Client
    place: Place
    counted: bool = False
    conducted: bool = False


class _Wanted(Struct, frozen=True):
    """What is to be made. Shape: `shown` is the input without its secrets, and `envelope` what the worker is asked; JSON both."""

    key: Key
    shown: bytes
    digest: bytes
    context: Mapping[str, str]
    envelope: bytes
    dropped: int


class _Asked(Struct, frozen=True):
    """What somebody asks for. Shape: `exchange` is that of a new prediction, and `after` the event that one knows who follows."""

    prediction: Prediction
    wish: Wish
    after: int | None = None
    exchange: Coroutine[object, object, None] | None = None


class _Text(Struct):
    """Fits exchange.Upload: a body that is here. Holds: it, until it is read."""

    body: bytes

    async def read(self, within_s: float = 0.0) -> bytes:  # noqa: ARG002 (there is nothing to wait for)
        """Give it."""
        body, self.body = self.body, b""
        return body


class Predictions:
    """Answers what clients ask of predictions. Fits edge.connection.Conducting.

    Holds: a task for each prediction that was made, until its exchange is over: that of the request where its client waits
    for the end. The compiled schema of each model.
    """

    def __init__(self, around: Around) -> None:
        self._around = around
        self._terms = Terms(
            settings=around.settings,
            server=around.server,
            clock=around.clock,
            wall=around.wall,
            report=self._report_follower,
        )
        self._inputs: dict[str, Inputs] = {}
        self._glances = discovery.Glances(around.clock)
        self._log = structlog.get_logger()

    async def conduct(self, arrival: Arrival, client: Client) -> None:
        """Answer one request, whatever happens. Holds: exactly one ending and one record, its own or its prediction's."""
        visit = _Visit(arrival, client, route_of(arrival.target.partition("?")[0].encode("latin-1")) or Place("index"))
        try:
            await self._answer(visit)
        except Fault as fault:
            self._refuse(visit, fault)
        except asyncio.CancelledError:
            self._refuse(visit, Fault(CANCELLED))
            raise
        except Exception as error:  # noqa: BLE001 (the boundary: one broken request must not end the others)
            self._report(arrival, error)
            self._refuse(visit, Fault(BUG, "the gateway failed; its log has the request id"))
        finally:
            if visit.counted:
                self._around.recording.record(arrival, arrival.outcome)

    def refuse(self, arrival: Arrival, fault: Fault) -> None:
        """Record a request that the edge refused."""
        self._around.gateway.refuse(arrival, fault)

    # --- finding out -----------------------------------------------------------------------------------------------

    async def _answer(self, visit: _Visit) -> None:
        place, method = visit.place, visit.arrival.method
        creates = place.thing == "predictions" or (place.thing == "prediction" and method == "PUT")
        if not creates and place.thing != "health":  # asked every second by probes, and no work
            self._count(visit)
        if self._around.gate.open:
            check_host(visit.arrival.peer, visit.arrival.headers)
        served = self._served(place)
        allowed = METHODS[place.thing]
        if ("GET" if method == "HEAD" else method) not in allowed:
            raise Refused(METHOD, headers=((b"allow", ", ".join(allowed).encode()),))
        if method != "GET":
            check_site(visit.arrival.headers)
        if place.thing == "shutdown":
            check_near(visit.arrival.peer, visit.arrival.headers)
        if creates:
            await self._make(visit, served)
            return
        match place.thing:
            case "prediction":
                await self._show(visit, served)
            case "cancel":
                await self._cancel(visit, served)
            case "health":
                await self._tell_health(visit, served)
            case _:
                await self._tell(visit, served)

    def _served(self, place: Place) -> Served:
        """Give the model that is asked for. Errors: Refused (not_found, unknown_model)."""
        models = self._around.models()
        if place.model is not None:
            if place.model not in models:
                raise Refused(UNKNOWN_MODEL, "no model of our own has this name", param="model")
            return models[place.model]
        if len(models) != 1 and len({served.name for served in models.values()}) != 1:
            raise Refused(NOT_FOUND, "this path is there for a single model; use /v1/models/{model}/predictions")
        if place.thing == "shutdown" and not self._around.settings.shutdown:
            raise Refused(NOT_FOUND, "this path is not open (predictions.shutdown)")
        return next(iter(models.values()))

    def _identify(self, visit: _Visit) -> Identity:
        arrival = visit.arrival
        identity = self._around.gate.identify(arrival.headers, arrival.peer)
        arrival.outcome.key_id, arrival.outcome.tenant = identity.key_id, identity.tenant
        return identity

    async def _take_nothing(self, visit: _Visit) -> None:
        """Read the body of a request that needs none, so that the connection can go on. Errors: Fault."""
        if _length(visit.arrival) > MAX_UNNEEDED_BYTES:
            raise Refused(TOO_LARGE, "this request needs no body")
        async with visit.client.present():
            await visit.arrival.body.read()

    # --- small answers ---------------------------------------------------------------------------------------------

    async def _tell(self, visit: _Visit, served: Served) -> None:
        """Answer with a document, or begin to shut down."""
        around, client, thing = self._around, visit.client, visit.place.thing
        if thing != "index":
            self._identify(visit)
        await self._take_nothing(visit)
        if thing == "index":
            answer_members(client, 200, discovery.index(visit.place.model, shutdown=around.settings.shutdown))
        elif thing == "schema":
            answer(client, 200, discovery.schema(served, around.chance))
        else:
            answer(client, 200, b"{}")
            around.shut_down()
        self._end(visit, Ending(COMPLETED), 200)

    async def _tell_health(self, visit: _Visit, served: Served) -> None:
        """Answer how a model is. Shape: probes bring no key, and need no more than the words of its state."""
        try:
            self._identify(visit)
            whole = True
        except Refused:
            whole = False
        await self._take_nothing(visit)
        async with visit.client.present():
            found = await (discovery.health(served) if whole else self._glances.health(served))
        answer_members(visit.client, 200, found)
        self._end(visit, Ending(COMPLETED), 200)

    async def _show(self, visit: _Visit, served: Served) -> None:
        """Answer with a prediction that is there, as it is or from its beginning."""
        tenant, headers = self._identify(visit).tenant, visit.arrival.headers
        await self._take_nothing(visit)
        found = self._around.registry.find((tenant, served.name, visit.place.id))
        if found is None:
            message = "no prediction has this id, or it is kept no longer"
            raise Refused(NOT_FOUND, message, body=plain_error(message))
        if wish_of(headers).mode != "events":
            answer(visit.client, 200, found.snapshot(full=True))
            self._end(visit, Ending(COMPLETED), 200)
            return
        _check_streams(served.info)
        after, chance = last_event(headers), self._around.chance
        self._end(visit, await answer_follower(found, visit.client, Wish("events"), after, chance), 200)

    async def _cancel(self, visit: _Visit, served: Served) -> None:
        tenant = self._identify(visit).tenant
        await self._take_nothing(visit)
        found = self._around.registry.find((tenant, served.name, visit.place.id))
        if found is None or found.over:
            raise Refused(NOT_FOUND, "no prediction that runs has this id", body=(b"application/json", b"{}"))
        found.cancel()
        answer(visit.client, 200, b"{}")
        self._end(visit, Ending(COMPLETED), 200)

    # --- making one ------------------------------------------------------------------------------------------------

    async def _make(self, visit: _Visit, served: Served) -> None:
        """Answer who asks for a prediction, new or there already. Errors: Fault.

        Shape: what was read of the request is let go of by the time somebody waits; a large input was held several times.
        """
        around, client = self._around, visit.client
        asked = await self._asked(visit, served)
        prediction, wish = asked.prediction, asked.wish
        if asked.exchange is None:
            self._count(visit)
            if wish.mode == "events":
                _check_streams(served.info)
            ending = await answer_follower(prediction, client, wish, asked.after, around.chance)
            self._end(visit, ending, 202 if wish.mode == "async" else 200)
            return
        visit.conducted = True
        try:
            if wish.mode == "sync":
                await answer_caller(prediction, client, asked.exchange, served.max_queue)
            else:
                around.tasks.start(asked.exchange)
                await answer_creator(prediction, client, wish, served.max_queue, around.chance)
        finally:
            prediction.history.release()
            if prediction.fault is not None and prediction.status == "failed" and wish.mode == "sync":
                around.registry.forget(prediction)  # it never ran: who asks again gets another

    async def _asked(self, visit: _Visit, served: Served) -> _Asked:
        """Read a request for a prediction, and make it or find the one that is there. Shape: checked in Cog's order. Errors: Fault."""
        around, arrival, ident = self._around, visit.arrival, visit.place.id
        puts = visit.place.thing == "prediction"
        if not puts:
            self._refuse_draining()
        around.memory.judge(_length(arrival))
        tenant = self._identify(visit).tenant
        if puts:
            check_path_id(ident)
            found = around.registry.find((tenant, served.name, ident))
            if found is None or found.void:
                self._refuse_draining()
        check_kind(arrival.headers)
        wish, after = wish_of(arrival.headers), last_event(arrival.headers)
        body = await self._read(visit)
        if puts and body.id is not None and body.id != ident:
            raise trouble_with("id", "the id of the body is not the one of the path")
        size = memoryview(body.input).nbytes
        given = await off_loop(size, lambda: read_input(body.input))
        key = tenant, served.name, ident if puts else body.id or _new_id(around.wall())
        found = await self._again(visit, key, given, puts=puts)
        if found is not None:
            return _Asked(found, wish, after)
        info = discovery.runnable(served, around.chance) if served.info is None else served.info
        if wish.mode == "events":
            _check_streams(info)
        wanted = await off_loop(size, lambda: self._wanted(served, info, key, body, given))
        if wanted.dropped:
            self._log.debug("input_members_dropped", request=arrival.request_id, count=wanted.dropped)
        discovery.runnable(served, around.chance)
        found = await self._again(visit, key, given, puts=puts)  # another may have come while a thread was busy
        return _Asked(found, wish, after) if found is not None else self._new(visit, served, wanted, body, wish)

    async def _again(self, visit: _Visit, key: Key, given: Given, *, puts: bool) -> Prediction | None:
        """Give the prediction that is asked for again; None for a new one. Errors: Fault where an id is in use, or the client left.

        Shape: one that answers nobody makes room for another when it is over; that is soon, since it was told to stop.
        Nothing happens between the last look and the return, so that of those who ask at the same time one gets None.
        """
        registry = self._around.registry
        while (found := registry.find(key)) is not None:
            if puts and found.order.fingerprint != given.digest:
                raise Refused(BAD_REQUEST, "a prediction with this id has another input", param="id", status=409)
            if puts and not found.void:
                return found
            if found.over:
                registry.forget(found)
                return None
            if not puts:
                raise Refused(BAD_REQUEST, "a prediction with this id runs", param="id", status=409)
            async with visit.client.present():
                await found.wait_over()
        return None

    def _wanted(self, served: Served, info: Info, key: Key, body: Body, given: Given) -> _Wanted:
        """Check an input, and write what the worker is asked. Errors: Refused (bad_request)."""
        checked = self._inputs_of(served, info).check(given)
        context = body.context or {}
        envelope = write_envelope(served.name, key[2], checked.json, context, checked.aside)
        return _Wanted(key, checked.shown, given.digest, context, envelope, checked.dropped)

    def _new(self, visit: _Visit, served: Served, wanted: _Wanted, body: Body, wish: Wish) -> _Asked:
        """Make a prediction. Shape: found from now on, so that its exchange must be started at once."""
        around, arrival = self._around, visit.arrival
        tenant, model, ident = wanted.key
        order = Order(
            id=ident,
            tenant=tenant,
            model=model,
            input=wanted.shown,
            policy=_policy_of(wish),
            fingerprint=wanted.digest,
            context=wanted.context,
        )
        inner = _inner(arrival, wanted.envelope)
        timeout_s = _timeout_s(body.timeout, around.settings.timeout_s)

        def make() -> Prediction:
            made = Prediction(order, self._terms, arrival.outcome, served.cancel)
            if wish.mode == "events":
                made.history.hold()
            if body.webhook is not None and around.hook is not None:
                passed = {
                    name.decode(): arrival.headers[name].decode("latin-1") for name in _TRACE if name in arrival.headers
                }
                events = frozenset(webhook_events(body))
                ids = {"prediction": ident, "request": arrival.request_id}
                made.tell = around.hook(body.webhook, events, passed, lambda: made.snapshot(full=False), ids)
            return made

        prediction = around.registry.create(order.key, make)
        return _Asked(prediction, wish, exchange=self._run(inner, prediction, timeout_s))

    async def _run(self, arrival: Arrival, prediction: Prediction, timeout_s: float) -> None:
        """Let a prediction's exchange be conducted, for so long at most. Shape: 0.0 is no limit."""
        timer = None
        if timeout_s:
            message = f"timed out after {timeout_s:g} s"
            timer = asyncio.get_running_loop().call_later(timeout_s, prediction.expire, message)
        try:
            await self._around.gateway.conduct(arrival, prediction)
        finally:
            if timer is not None:
                timer.cancel()

    async def _read(self, visit: _Visit) -> Body:
        """Read the body. Holds: its bytes in the memory's count, until they are in. Errors: Fault."""
        memory, arrival, private = self._around.memory, visit.arrival, self._around.settings.webhooks.allow_private
        counted = memory.expect(_length(arrival))
        try:
            async with visit.client.present():
                text = await arrival.body.read()
        finally:
            memory.came(counted)
        return await off_loop(len(text), lambda: read_body(text, arrival.headers, private=private))

    def _inputs_of(self, served: Served, info: Info) -> Inputs:
        """Give what checks a model's inputs, compiled once for each of its schemas."""
        inputs = self._inputs.get(served.name)
        if inputs is None or inputs.info is not info:
            inputs = Inputs(info)
            names = {each.name for each in self._around.models().values()}
            # Made anew: a thread may be reading the one before.
            self._inputs = {
                **{name: known for name, known in self._inputs.items() if name in names},
                served.name: inputs,
            }
        return inputs

    def _refuse_draining(self) -> None:
        if self._around.draining():
            wait = retry_after(DRAIN_RETRY_S, self._around.chance())
            raise Refused(DRAINING, headers=(wait,))

    # --- the record ------------------------------------------------------------------------------------------------

    def _count(self, visit: _Visit) -> None:
        """Begin the record of a request that is no prediction's."""
        if not visit.counted:
            visit.counted = True
            self._around.recording.started(visit.arrival)

    def _end(self, visit: _Visit, ending: Ending, status: int) -> None:
        visit.arrival.outcome.end(ending, self._around.clock(), status)

    def _refuse(self, visit: _Visit, fault: Fault) -> None:
        if not visit.conducted:
            self._count(visit)
            self._end(visit, Ending(fault.verdict, fault.message), fault.status)
        visit.client.refuse(fault)

    def _report(self, arrival: Arrival, error: Exception) -> None:
        """Log where a bug is, not what it says: an exception's text may quote an input."""
        self._log.error("bug", request=arrival.request_id, error=type(error).__name__, at=where(error))

    def _report_follower(self, prediction: str, error: Exception) -> None:
        """Log where a follower's connection failed us: it was cut off, and the others follow on."""
        self._log.error("bug", prediction=prediction, error=type(error).__name__, at=where(error))


def _inner(arrival: Arrival, envelope: bytes) -> Arrival:
    """Give the request of a prediction's exchange: of the client's own, with what the worker is asked as its body."""
    headers = {**arrival.headers, b"content-length": b"%d" % len(envelope), b"content-type": b"application/json"}
    headers.pop(b"transfer-encoding", None)
    return structs.replace(arrival, route=ROUTE, body=_Text(envelope), headers=headers)


def _policy_of(wish: Wish) -> Policy:
    if wish.detached:
        return "async"
    return "stream" if wish.mode == "events" else "sync"


def _check_streams(info: Info | None) -> None:
    if info is not None and not info.streams:
        raise Refused(BAD_REQUEST, _NOT_STREAMED, status=406, body=plain_error(_NOT_STREAMED))


def _length(arrival: Arrival) -> int:
    return int(arrival.headers.get(b"content-length", b"0"))


def _timeout_s(asked_s: float | None, most_s: float) -> float:
    """Give how long a prediction may take: what the client says, within what the settings allow."""
    if asked_s is None or not most_s:
        return asked_s or most_s
    return min(asked_s, most_s)


def _new_id(now: float) -> str:
    """Give a new id that sorts by time."""
    return f"pred_{int(now * 1_000_000):014x}{secrets.token_hex(6)}"
