"""One prediction: the client of its own exchange, and what those who asked for it follow.

    starting ──start──▶ processing ──┬─▶ succeeded
        │                            ├─▶ failed
        └────────────────────────────┴─▶ canceled

What comes after a terminal state changes nothing.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw, Struct, field

from tidegate.dialect.prediction import frames
from tidegate.edge.presence import Presence, fault_of
from tidegate.edge.settings import ServerSettings
from tidegate.exchange import AttemptRecord, Ending, Flow, Outcome, ReplyHead
from tidegate.predict.metrics import Mode, apply
from tidegate.predictions.product import Product
from tidegate.predictions.settings import PredictionSettings
from tidegate.replay.history import History, Reader, Subscription
from tidegate.verdict import BUG, CLIENT_GONE, COMPLETED, DEADLINE_EXCEEDED, Fault
from tidegate.wire import FrameError

Policy = Literal["sync", "stream", "async"]
"""Whose leaving cancels it: that of the last who waits for its end, of the last who follows or waits, nobody's."""
Status = Literal["starting", "processing", "succeeded", "failed", "canceled"]
Key = tuple[str, str, str]
"""Tenant, model, id."""

MAX_LOG_BYTES: Final = 4 * 1024 * 1024
OWN_BYTES: Final = 1400
"""What a prediction takes beside its input and its events: the objects, its id, its place in the registry."""
_OWN: Final = frozenset((b"content-type", b"content-length", b"transfer-encoding", b"cache-control", b"connection"))
"""Headers of the inner stream that say nothing of the answers."""


class Order(Struct, frozen=True, kw_only=True):
    """What was asked for, and by whom. Shape: `input` is a JSON object without secrets; `fingerprint` is the same for the same input."""

    id: str
    tenant: str
    model: str
    input: bytes
    policy: Policy
    fingerprint: bytes = b""
    context: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """What it is found by."""
        return self.tenant, self.model, self.id


class Terms(Struct, frozen=True, kw_only=True):
    """What predictions share. Shape: `clock` is the loop's monotonic one, `wall` Unix time; both in seconds.

    Shape: `server` gives the settings of the present, by which a follower is told that it is silent, or is cut off for taking
    nothing; the prediction goes on. `report` hears of a follower that raised: of which prediction, and what.
    """

    settings: PredictionSettings
    server: Callable[[], ServerSettings]
    clock: Callable[[], float]
    wall: Callable[[], float]
    report: Callable[[str, Exception], None]


class _Chunk(Struct):
    chunk: Raw
    index: int = 0


# The members of what is written again stand in the order of their names.
class _Log(Struct):
    data: str
    source: str


class _Metric(Struct):
    mode: Mode
    name: str
    value: Any


class _Said(Struct):
    error: str


_encode: Final = msgspec.json.Encoder(order="sorted").encode
# The dialect's readers would leave more to do: a metric's value is needed as Python has it, and a chunk as JSON that was
# looked through, since it becomes part of ours.
_read_chunk: Final = msgspec.json.Decoder(_Chunk).decode
_read_log: Final = msgspec.json.Decoder(_Log).decode
_read_metric: Final = msgspec.json.Decoder(_Metric).decode
_read_error: Final = msgspec.json.Decoder(_Said).decode
_read_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode


class _Attempts(list[AttemptRecord]):
    """The attempts of an outcome, that tell when the first is made: from then on, who asks waits in line or runs."""

    __slots__ = ("tried",)

    def __init__(self, tried: Callable[[], object]) -> None:
        super().__init__()
        self.tried: Callable[[], object] | None = tried

    def append(self, record: AttemptRecord, /) -> None:
        super().append(record)
        tried, self.tried = self.tried, None
        if tried is not None:
            tried()


def _nobody_heard() -> bool:
    return False


def _nobody_told(_: str) -> None:
    """Tell nobody."""


class Prediction:
    """One prediction, from its creation until nobody asks for it any more. Fits exchange.Client.

    Shape: `cancelling` asks whoever runs the exchange of this outcome to stop it, and says whether it is there; `tell`
    hears of `start`, `output`, `logs` and `completed`, and never raises; `at_end` is called at its end, once all know of it. `fault` is why it
    was refused, and `refused_early` says that it never was: neither did it run nor wait in line. `headers` are those of its
    answers.
    Holds: its history; its output and its newest logs while it runs, and as the last event of the history then.
    """

    __slots__ = (
        "_abandoned", "_attempts", "_began", "_cancelling", "_decided", "_decision", "_end", "_ending", "_flow", "_outcome", "_policy",
        "_product", "_said", "_task", "_terms", "_waited", "_watching", "asked_to_cancel", "at_end", "completed_at", "created_at", "expired", "fault", "headers",
        "history", "on_over", "order", "over", "refused_early", "started_at", "status", "tell",
    )  # fmt: skip

    def __init__(
        self,
        order: Order,
        terms: Terms,
        outcome: Outcome,
        cancelling: Callable[[Outcome], bool],
    ) -> None:
        self.order = order
        self._terms = terms
        self._cancelling: Callable[[], bool] = lambda: cancelling(outcome)
        self.tell: Callable[[str], None] = _nobody_told
        self.on_over: Callable[[Prediction], None] | None = None
        self.at_end: Callable[[], None] | None = None
        self.created_at = terms.wall()
        self.started_at = self.completed_at = 0.0
        self.status: Status = "starting"
        self.over = False
        self.asked_to_cancel = False
        self._abandoned = False
        self._policy = order.policy
        self._began = 0.0
        self.expired = ""
        self.refused_early = False
        self.fault: Fault | None = None
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        kept, loop = terms.settings.history, asyncio.get_running_loop()
        self.history = History(kept.max_events, kept.max_bytes, keeps=kept.mode == "keep", loop=loop)
        self._product: Product | None = Product(MAX_LOG_BYTES)
        self._said = ""
        self._decided = False
        # Made for who waits.
        self._decision: asyncio.Event | None = None
        self._end: asyncio.Event | None = None
        self._waited = False
        self._watching = 0
        self._task: asyncio.Task[object] | None = None
        self._ending: Ending | None = None
        self._flow: Flow | None = None
        self._attempts: _Attempts | None = _Attempts(lambda: loop.call_soon(self._in_line))
        outcome.attempts = self._attempts
        self._outcome: Outcome | None = outcome

    # --- for who asks ----------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Its id."""
        return self.order.id

    @property
    def key(self) -> Key:
        """What it is found by."""
        return self.order.key

    async def wait_decided(self) -> None:
        """Return once it runs, waits in line for a slot, is refused or over."""
        if not self._decided:
            if self._decision is None:
                self._decision = asyncio.Event()
            await self._decision.wait()

    async def wait_over(self) -> None:
        """Return once it is over. Holds: a follower, whose leaving is as that of a subscriber."""
        if self.over:
            return
        if self._end is None:
            self._end = asyncio.Event()
        self.arrive()
        try:
            await self._end.wait()
        finally:
            self.depart()

    def arrive(self) -> None:
        """Count who waits for its end, from now on until it departs."""
        self._watching += 1

    def depart(self) -> None:
        """Take notice that one of those who waited does so no more."""
        self._watching -= 1
        self._left()

    def attach(self, sink: Reader, after: int | None = None) -> Subscription | None:
        """Let a sink, whose head is started, follow it from behind the event `after`; None when too many do already.

        Shape: without `after` from the beginning, or from now on where no history is kept; the end is told in any case.
        """
        history, terms = self.history, self._terms
        if len(history) >= terms.settings.max_subscribers:
            return None
        if after is None and self.over and not history.keeps:
            after = history.newest - 1
        server = terms.server()
        return history.subscribe(
            sink,
            after=after,
            heartbeat_s=server.heartbeat_s,
            slow_s=server.slow_client_timeout_s,
            on_over=self._follower_over,
            on_fault=self._follower_broke,
        )

    def cancel(self) -> None:
        """Ask it to stop: whoever runs it, or itself while nobody does. Asked again, or too late, nothing happens."""
        # Somebody wants it canceled that was only being stopped for want of anybody: who asks for it again is told so, and
        # gets no new one. Of what is over that can no longer be said.
        self._abandoned = self._abandoned and self.over
        self._stop()

    def _stop(self) -> None:
        if self.over or self.asked_to_cancel:
            return
        self.asked_to_cancel = True
        if self._cancelling():
            return
        if self._flow is not None:
            self._flow.gone()  # it runs where nobody can be asked
        else:
            self.end(self._stopped())

    def _stopped(self) -> Ending:
        """Give how an exchange ends that was stopped."""
        return Ending(DEADLINE_EXCEEDED, self.expired) if self.expired else Ending(CLIENT_GONE)

    def expire(self, message: str) -> None:
        """Stop it as `cancel` does, because its time is up: what would be canceled has failed, then, with this message."""
        if not self.over and not self.asked_to_cancel:
            self.expired = message
            self._stop()

    def detach(self) -> None:
        """Let it go on whoever leaves, as one that was made so: somebody was promised that."""
        self._policy = "async"

    @property
    def void(self) -> bool:
        """Whether it answers nobody who asks again: it did not run, or was stopped as those who asked had left."""
        return self.status != "succeeded" and (self._abandoned or self.fault is not None)

    def held(self) -> int:
        """Give the bytes that are held for it."""
        said = 0 if self._product is None else self._product.held()
        return OWN_BYTES + len(self.order.input) + self.history.weight() + said

    def snapshot(self, *, full: bool) -> bytes:
        """Give it as JSON. Shape: keys are sorted; `full` adds what was asked for and when.

        Shape: once it is over there is an output and the time it took; before, what there is of an output that is a list.
        """
        product = self._product
        if product is None and not full:
            return self.history.latest()
        shown: dict[str, object] = {**_read_members(self.history.latest())} if product is None else self._shown(product)
        if product is not None and product.array:
            shown["output"] = product.output()
        if full:
            shown["model"] = self.order.model
            shown["input"] = Raw(self.order.input or b"{}")
            shown["created_at"] = _written(self.created_at)
            shown["started_at"] = _written(self.started_at)
            shown["completed_at"] = _written(self.completed_at)
        return _encode(shown)

    def _shown(self, product: Product) -> dict[str, object]:
        return {"id": self.id, "status": self.status, "logs": product.logs.text(), "metrics": product.metrics}

    def _follower_over(self, follower: Subscription) -> None:
        if follower.departed and self._policy == "stream":
            self._left()

    def _follower_broke(self, error: Exception) -> None:
        self._terms.report(self.id, error)

    def _left(self) -> None:
        """Cancel it where it was for those who wait for it, or follow it, and the last of them left."""
        if self._policy == "async" or self._watching or (self._policy == "stream" and len(self.history)):
            return
        if not self.over and not self.asked_to_cancel:
            self._abandoned = True
            self._stop()

    def _in_line(self) -> None:
        """Know that it waits in line: it was not refused in the step in which it was tried."""
        self._waited = True
        self._decide()

    def _decide(self) -> None:
        self._decided = True
        if self._decision is not None:
            self._decision.set()
            self._decision = None

    # --- Client: presence ------------------------------------------------------------------------------------------

    def present(self) -> Presence:
        """Give the scope in which a cancellation ends the opening."""
        return Presence(self)

    def enter(self, task: asyncio.Task[object] | None) -> None:
        """Begin to be present in a task. Errors: Fault when it was cancelled already."""
        if self._ending is not None:
            raise fault_of(self._ending)
        self._task = task

    def leave(self) -> Ending | None:
        """Stop being present; give why the task was cancelled, if it was by us."""
        self._task = None
        return self._ending

    def end(self, ending: Ending, /) -> None:
        """End an exchange that is still opening; an open one is ended by its relay."""
        if self._ending is None and self._flow is None and not self.over:
            self._ending = ending
            if self._task is not None:
                self._task.cancel()

    # --- Client: Sink ----------------------------------------------------------------------------------------------

    def bind(self, flow: Flow, /) -> None:
        """Let a flow hear of a cancellation."""
        self._flow = flow
        if self._ending is not None:
            flow.gone()

    def start(self, head: ReplyHead, /) -> None:
        """Take notice that it runs."""
        if self.status != "starting":
            return
        self.status = "processing"
        self.started_at, self._began = self._terms.wall(), self._terms.clock()
        self.headers = tuple(header for header in head.headers if header[0] not in _OWN)
        self.history.append(b"start", _encode({"id": self.id, "status": self.status}))
        self._decide()
        self.tell("start")

    def write(self, data: bytes, /) -> None:
        """Take what the run says, cut anywhere."""
        product = self._product
        if product is None:
            return
        try:
            for frame in product.whole(data).split(b"\n\n"):
                if self.over:
                    return
                event, _, said = frame.partition(b"\ndata: ")
                self._take(product, event.removeprefix(b"event: "), said)
        except (msgspec.MsgspecError, FrameError):
            self._settle("failed", "the worker said what is no event of a prediction")
            if self._flow is not None:
                self._flow.gone()
        except Exception:
            self._settle("failed", BUG.meaning)  # whoever asked is told; who wrote tells the log
            raise

    def finish(self, ending: Ending, /) -> None:
        """Take the end of the run; where it said itself what came of it, that counts."""
        self._flow = None
        if self.asked_to_cancel:
            self._settle("canceled")
        elif ending.verdict is COMPLETED:
            self._settle("failed", "the prediction ended without saying what came of it")
        else:
            self._settle("failed", self._said or ending.message or ending.verdict.meaning)

    def abort(self) -> None:
        """Take notice that the run was broken off."""
        self._flow = None
        if self.asked_to_cancel:
            self._settle("canceled")
        else:
            self._settle("failed", self._said or "the prediction was broken off")

    def refuse(self, fault: Fault, /) -> None:
        """Take notice that it does not run."""
        self._flow = None
        if self.over:
            return
        if self.asked_to_cancel:
            self._settle("canceled")  # it was ended, and by no refusal
        else:
            self.fault = fault
            self.refused_early = not self._waited and self.status == "starting"
            self._settle("failed", fault.message)

    def unsent(self) -> int:
        """Give nothing: what is written is taken at once."""
        return 0

    def coded(self) -> Callable[[bytes], None] | None:
        """Give nothing: payload is not sent in chunks here."""
        return None

    # --- what the run says -----------------------------------------------------------------------------------------

    def _take(self, product: Product, event: bytes, said: bytes) -> None:
        match event:
            case frames.OUTPUT | frames.VALUE:
                self._take_output(product, said, array=event == frames.OUTPUT)
            case frames.LOG:
                log = _read_log(said)
                product.logs.add(log.data)
                self.history.append(event, _encode(log))
                self.tell("logs")
            case frames.METRIC:
                metric = _read_metric(said)
                apply(product.metrics, metric.name, metric.value, metric.mode)
                self.history.append(event, _encode(metric))
            case frames.COMPLETED:
                self._take_end(product, frames.completed_of(said))
            case b"error":
                self._said = _read_error(said).error
            case _:
                pass  # a comment

    def _take_output(self, product: Product, said: bytes, *, array: bool) -> None:
        output = bytes(_read_chunk(said).chunk)
        product.array = array
        product.outputs.append(output)
        product.output_bytes += len(output)
        self.history.append(frames.OUTPUT, said)
        self.tell("output")

    def _take_end(self, product: Product, end: frames.Completed) -> None:
        product.array = product.array or end.array
        flow, outcome = self._flow, self._outcome
        self._settle(end.status, end.error)
        if end.status == "canceled" and flow is not None and outcome is not None:
            outcome.end(self._stopped(), self._terms.clock(), 200)
            flow.gone()  # which would be the record's word, had there been none

    def _settle(self, status: Status, error: str = "") -> None:
        """Enter a terminal state; the first one stays."""
        product = self._product
        if product is None:
            return
        if status == "canceled" and self.expired:
            status, error = "failed", self.expired
        terms, tell, on_over, at_end = self._terms, self.tell, self.on_over, self.at_end
        self.over = True
        self.status = status
        self.completed_at = terms.wall()
        final = self._shown(product)
        took_s = terms.clock() - self._began if self.started_at else 0.0
        final["metrics"] = {**product.metrics, "predict_time": took_s}
        final["output"] = product.output()
        if status == "failed":
            final["error"] = error
        self.history.append(frames.COMPLETED, _encode(final))
        self.history.close()
        self._let_go()
        if on_over is not None:
            on_over(self)
        if not self.refused_early:
            tell("completed")
        if at_end is not None:
            at_end()

    def _let_go(self) -> None:
        """Let go of what it was made with, and wake who waits: what came of it may be asked for long after."""
        if self._attempts is not None:
            self._attempts.tried = None
        self._attempts = self._product = self._outcome = None
        self._cancelling, self.tell, self.on_over, self.at_end = _nobody_heard, _nobody_told, None, None
        self._decide()
        if self._end is not None:
            self._end.set()
            self._end = None


def _written(instant: float) -> str | None:
    return (
        datetime.fromtimestamp(instant, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        if instant
        else None
    )
