"""A local provider: the innermost Service whose streams come from our own processes."""

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final

from msgspec import structs
from structlog.typing import FilteringBoundLogger

from tidegate.dialect import ClientDialect, origin_of
from tidegate.dialect.conversation import Untranslatable, Written
from tidegate.dialect.events import Failed, Origin, UsageSeen
from tidegate.dialect.prediction import NAME, Envelope, PredictionProvider, completed_frame, read_envelope
from tidegate.exchange import Ask, Attempt, Ending, Flow, Outcome, ReplyHead, Said, Source, Stream, Usage
from tidegate.tasks import Tasks, off_loop
from tidegate.verdict import (
    BAD_FRAME,
    COMPLETED,
    CONNECT_RESET,
    UNTRANSLATABLE,
    UPSTREAM_FAILED,
    UPSTREAM_RESET,
    AttemptFailed,
    Refused,
)
from tidegate.wire import FrameError
from tidegate.worker.crew import Crew
from tidegate.worker.health import Health
from tidegate.worker.inputs import InputError, InputFiles
from tidegate.worker.messages import Info
from tidegate.worker.process import COMMAND
from tidegate.worker.run import Run
from tidegate.worker.service import CallCounts, Fetching
from tidegate.worker.settings import LocalSettings
from tidegate.worker.worker import Job, Work

MORE_THAN_GRACE_S: Final = 5.0
"""How much longer than the grace of a cancelled prediction its place is waited for."""
MAX_DROPPED_CHARS: Final = 1024
_EVENTS: Final = (b"content-type", b"text/event-stream")
_JSON: Final = (b"content-type", b"application/json")
_DROPPED: Final = b"x-tidegate-dropped"
_ESTIMATED: Final = (b"x-tidegate-estimated", b"true")
_UNKNOWN: Final = PredictionProvider("prompt", ())
_NO_CHAT: Final = (
    "this model answers no chats: its handler would have to take `messages: list[dict]` or `prompt: str` and give texts"
)


class Local:
    """A model in our own processes. Shape: `info` is None, and `slots` 0, until the first of them is set up.

    Shape: `guesses` are the dialects whose requests the gateway answers by itself; `on_slots` hears of the places that there are at present.
    Holds: the processes, from `start` to the end of `close`; what is opened ends before its context does.
    """

    def __init__(
        self,
        name: str,
        settings: LocalSettings,
        *,
        clients: Mapping[str, ClientDialect],
        tasks: Tasks,
        clock: Callable[[], float],
        wall: Callable[[], float],
        log: FilteringBoundLogger,
        metrics: CallCounts,
        fetch: Fetching | None,
        on_slots: Callable[[int], None],
        guesses: Mapping[str, Callable[[Ask], bytes]] | None = None,
        command: tuple[str, ...] = COMMAND,
        withheld: frozenset[str] = frozenset(),
    ) -> None:
        self.name = name
        self.settings = settings
        self.clients = clients
        self.guesses = guesses or {}
        self.tasks = tasks
        self.clock = clock
        self.wall = wall
        self.metrics = metrics
        self.fetch = fetch
        self.runs: dict[Outcome, Run] = {}
        self.opened = 0
        self.on_slots = on_slots
        self.crew = Crew(Work(name, settings, clock, wall, log, command, withheld), tasks, self._sized)

    @property
    def info(self) -> Info | None:
        """What the handler is; None until a process is set up."""
        return self.crew.info

    @property
    def slots(self) -> int:
        """How many predictions run at the same time; 0 until it is known."""
        return self.crew.slots

    @property
    def serves(self) -> bool:
        """Whether one of the processes is ready."""
        return self.crew.serves

    @property
    def room(self) -> int | None:
        """How many predictions there is a place for at present; None where no place is worth waiting for."""
        return self.crew.room

    @property
    def dialect(self) -> PredictionProvider:
        """What its streams speak, and how the handler is asked in a chat. Shape: of no parameter until it is known."""
        return self.crew.speaks or _UNKNOWN

    async def start(self) -> None:
        """Begin to start the processes; their setup is not waited for."""
        self.crew.start()

    async def wait_ready(self, timeout_s: float) -> bool:
        """Wait until a process is set up, or none can be; gives whether one is."""
        return await self.crew.wait_settled(timeout_s)

    async def close(self, timeout_s: float) -> None:
        """Let what runs end within a time, then end the processes."""
        await self.crew.close(timeout_s)

    def health(self) -> Health:
        """Give how it is. Shape: what its own check says is what that said when it was asked last.

        Shape: a place is taken until all that was held for its prediction is given back, its files included.
        """
        found = self.crew.health()
        if found.status == "READY" and self.opened >= (self.crew.room or 0):
            return structs.replace(found, status="BUSY")
        return found

    async def check(self) -> str:
        """Ask the handler's own check; gives what is wrong."""
        return await self.crew.check()

    def cancel(self, outcome: Outcome) -> bool:
        """Ask a prediction to stop; gives whether it runs here. Shape: its stream goes on until its own last words."""
        run = self.runs.get(outcome)
        if run is None:
            return False
        run.cancel()
        return True

    def _sized(self, slots: int) -> None:
        self.on_slots(slots)  # whoever that is by now

    def open(self, attempt: Attempt, /) -> "_Open":
        """Give the context of one stream. Errors: AttemptFailed before it is open."""
        return _Open(self, attempt)


class _Open:
    """Holds: a place in a worker from before anything is sent, and the files of the input, until the exit."""

    __slots__ = ("_attempt", "_files", "_local", "_run")

    def __init__(self, local: Local, attempt: Attempt) -> None:
        self._local = local
        self._attempt = attempt
        self._files = InputFiles(local.fetch)
        self._run: Run | None = None

    async def __aenter__(self) -> Stream:
        local = self._local
        local.opened += 1
        local.metrics.provider_call_started(local.name)
        try:
            ask = self._attempt.admitted.ask
            guess = local.guesses.get(ask.dialect)
            if guess is not None:
                stream = self._guessed(guess(ask))
            else:
                stream = await (self._predict() if ask.dialect == NAME else self._chat())
        except BaseException:
            try:
                await self._leave()
            finally:
                local.opened -= 1
                local.metrics.provider_call_ended(local.name)
            raise
        local.metrics.stream_opened(local.name)
        return stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        local, run, admitted = self._local, self._run, self._attempt.admitted
        outcome = admitted.arrival.outcome
        if admitted.ask.dialect == NAME and outcome.usage is None:
            # Without a run the handler was not asked.
            outcome.usage = Usage(estimated=True) if run is None else run.usage()
        try:
            await self._leave()
        finally:
            local.opened -= 1
            local.metrics.stream_closed(local.name)
            local.metrics.provider_call_ended(local.name)

    async def _leave(self) -> None:
        """Give everything back. Shape: goes on in a task of its own where this one is cancelled meanwhile."""
        run, local = self._run, self._local
        outcome = self._attempt.admitted.arrival.outcome
        if run is not None and not run.released.done():
            run.abort()
        if self._files.held or (run is not None and not run.released.done()):
            await asyncio.shield(local.tasks.spawn(self._give_back(run, outcome)))
        elif local.runs.get(outcome) is run:
            local.runs.pop(outcome, None)

    async def _give_back(self, run: Run | None, outcome: Outcome) -> None:
        try:
            if run is not None and not run.released.done():
                patience_s = self._local.settings.cancel_grace_s + MORE_THAN_GRACE_S
                await asyncio.wait((run.released,), timeout=patience_s)
        finally:
            if self._local.runs.get(outcome) is run:
                self._local.runs.pop(outcome, None)
            await self._files.remove()

    async def _begin(self, id: str, given: bytes, context: dict[str, str], files: dict[str, list[str]]) -> Run:  # noqa: A002 (the member's name)
        """Start a prediction on a worker. Errors: AttemptFailed. Holds: its place is ours, or given back."""
        local, attempt = self._local, self._attempt
        record, arrival = attempt.record, attempt.admitted.arrival
        text = arrival.outcome.prompt_bytes
        job = Job(id or arrival.request_id, arrival.request_id, given, context, files, text)
        worker = await local.crew.take()
        run = self._run = local.runs[arrival.outcome] = worker.begin(job, record)
        record.connected_at = record.sent_at = local.clock()
        return run

    # --- a prediction ----------------------------------------------------------------------------------------------

    async def _predict(self) -> Stream:
        """Give the stream of a prediction: open as soon as its worker is told. Errors: AttemptFailed."""
        local, record = self._local, self._attempt.record
        info = local.crew.known()
        body = self._attempt.admitted.ask.body
        envelope = await off_loop(len(body), lambda: _envelope(body))
        if info.files:
            # Files may take long to come, within a limit of their own and not that of connecting.
            record.connected_at = record.sent_at = record.headed_at = local.clock()
        try:
            given, files = await self._files.take(bytes(envelope.input), info.files)
        except InputError as error:
            record.connected_at = record.sent_at = record.headed_at = record.content_at = local.clock()
            return self._stream(Said(completed_frame("failed", error=error.message)))
        run = await self._begin(envelope.id, given, envelope.context, files)
        record.headed_at = record.sent_at
        return self._stream(run)

    # --- a chat ----------------------------------------------------------------------------------------------------

    async def _chat(self) -> Stream:
        """Give the stream, or the whole answer, of a chat: open with the first output. Errors: AttemptFailed."""
        local, ask = self._local, self._attempt.admitted.ask
        client, info = local.clients.get(ask.dialect), local.crew.known()
        if client is None:
            raise AttemptFailed(UNTRANSLATABLE, "this model has nothing that answers this route")
        if not info.takes:
            raise AttemptFailed(UNTRANSLATABLE, _NO_CHAT)
        written = await self._written(client, local.dialect)
        envelope = _envelope(written.body)
        run = await self._begin(envelope.id, bytes(envelope.input), envelope.context, {})
        if not ask.stream:
            return await self._whole(run, client, written)
        await asyncio.shield(run.opened)
        self._attempt.record.headed_at = local.clock()
        if not self._attempt.record.content_at:
            _check(run)
            self._attempt.record.content_at = local.clock()
        return self._stream(run, written)

    async def _written(self, client: ClientDialect, provider: PredictionProvider) -> Written:
        ask, model = self._attempt.admitted.ask, self._attempt.target.model
        try:
            return await off_loop(len(ask.body), lambda: provider.write_chat(client, ask.body, model))
        except Untranslatable as error:
            raise AttemptFailed(UNTRANSLATABLE, error.message, param=error.param) from None
        except Refused as refused:
            raise AttemptFailed(refused.verdict, refused.message, param=refused.param) from None

    async def _whole(self, run: Run, client: ClientDialect, written: Written) -> Stream:
        """Give an answer that is no stream. Errors: AttemptFailed."""
        attempt, local = self._attempt, self._local
        collected = _Collected()
        run.attach(collected)
        await asyncio.shield(collected.over)
        attempt.record.headed_at = local.clock()
        _check(run)
        body = b"".join(collected.pieces)
        origin = origin_of(attempt, local.dialect, int(local.wall()))
        try:
            answer, judged = await off_loop(len(body), lambda: _answered(body, client, attempt, origin))
        except FrameError as error:
            raise AttemptFailed(BAD_FRAME, error.message) from None
        attempt.record.content_at = attempt.record.content_at or local.clock()
        stream = self._stream(Said(answer), written, events=False)
        stream.judged = judged
        return stream

    # --- streams ---------------------------------------------------------------------------------------------------

    def _guessed(self, body: bytes) -> Stream:
        """Give the stream of an answer that the handler was not asked for."""
        record = self._attempt.record
        record.sent_at = record.content_at = self._local.clock()
        stream = self._stream(Said(body), events=False)
        return structs.replace(stream, head=ReplyHead(200, (_JSON, _ESTIMATED)), changed=True)

    def _stream(self, source: Source, written: Written | None = None, *, events: bool = True) -> Stream:
        head: tuple[tuple[bytes, bytes], ...] = (_EVENTS if events else _JSON,)
        if written is not None and written.dropped:
            dropped = ", ".join(written.dropped)[:MAX_DROPPED_CHARS]
            names = "".join(char if char.isprintable() else "?" for char in dropped)
            head = (*head, (_DROPPED, names.encode("ascii", "replace")))
        return Stream(
            attempt=self._attempt,
            source=source,
            head=ReplyHead(200, head),
            events=events,
            whole=not events,
            strips_usage=events and written is not None and not self._attempt.admitted.ask.wants_usage,
            changed=written is not None,
            redact=str,  # the handler knows no secret of the gateway's
            translates=written is not None,
        )


class _Collected:
    """The Sink of a prediction that is answered at once. Holds: its frames; the run bounds what it says."""

    __slots__ = ("over", "pieces")

    def __init__(self) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pieces: list[bytes] = []

    def bind(self, flow: Flow, /) -> None:
        """There is nothing to hold back."""

    def start(self, head: ReplyHead, /) -> None:
        """There is no head."""

    def write(self, data: bytes, /) -> None:
        """Take frames."""
        self.pieces.append(data)

    def finish(self, ending: Ending, /) -> None:  # noqa: ARG002 (the run has it)
        """Take the end."""
        if not self.over.done():
            self.over.set_result(None)

    def abort(self) -> None:
        """Nobody breaks it off but who waits for it."""


def _check(run: Run) -> None:
    """Look at a run that is over, or has begun. Errors: AttemptFailed for one that came to nothing."""
    ending = run.ending
    if ending is None:
        return
    if ending.verdict is not COMPLETED:
        raise AttemptFailed(CONNECT_RESET if ending.verdict is UPSTREAM_RESET else ending.verdict, ending.message)
    if not run.succeeded:
        raise AttemptFailed(UPSTREAM_FAILED, run.failure or "the prediction was canceled")


def _answered(body: bytes, client: ClientDialect, attempt: Attempt, origin: Origin) -> tuple[bytes, bool]:
    """Give the answer that frames come to, and whether its usage had to be judged. Errors: FrameError; AttemptFailed."""
    ask = attempt.admitted.ask
    events = PredictionProvider.read_answer(body, ask)
    if isinstance(last := events[-1], Failed):
        raise AttemptFailed(UPSTREAM_FAILED, last.error.message)
    judged = any(isinstance(event, UsageSeen) and event.usage.estimated for event in events)
    return client.write_answer(events, ask, origin), judged


def _envelope(body: bytes) -> Envelope:
    """Read a request. Errors: AttemptFailed."""
    try:
        return read_envelope(body)
    except Refused as refused:
        raise AttemptFailed(refused.verdict, refused.message, param=refused.param) from None
