"""What each exchange came to: one entry each, written once, handed to every store.

Entries are built from the Arrival and the Outcome alone. A store never sees a prompt, a completion or a key, and one that
fails harms neither the others nor the exchange.
"""

from collections import deque
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Protocol, Self

from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from tidegate.exchange import BYTES_PER_TOKEN, Arrival, AttemptRecord, Ending, Outcome, Usage
from tidegate.observe.metrics import ExchangeSample, Metrics
from tidegate.verdict import BUG, CANCELLED, CLIENT_GONE, CLIENT_SLOW, COMPLETED, TABLE

MAX_FINISH_REASON: Final = 64
"""Characters of a finish reason that are kept: it is the provider's own word."""
RECENT: Final = 1000
_WITHOUT_WORDS: Final = frozenset(verdict.code for verdict in (COMPLETED, CLIENT_GONE, CLIENT_SLOW, CANCELLED, BUG))
"""Endings of an open stream that leave no error frame behind."""


class Try(Struct, frozen=True, kw_only=True):
    """One attempt of an exchange that made several.

    Shape: `code` is how it ended; `hedge` says that it was made beside another; `input_tokens` is what a provider may
    charge for one that was sent and came to nothing, judged by the prompt's size, and 0 for the one that served.
    """

    provider: str
    model: str
    code: str
    sent: bool
    hedge: bool
    duration_s: float
    queued_s: float
    input_tokens: int


class Entry(Struct, frozen=True, kw_only=True):
    """The usage record of one exchange.

    Shape: `started_at` is seconds of the Unix epoch, what ends in `_s` a duration; None is what did not happen, and the
    times of tokens belong to streams alone. `model` is the public name, `upstream_model` the provider's; both, `provider`
    and `path` are empty where an exchange did not come so far. `tries` has the attempts where there were several. `gaps` counts by GAP_BOUNDS_S. `usage.estimated` is true
    where the provider did not say.
    """

    request_id: str
    connection_id: int
    key_id: str
    tenant: str
    route: str
    model: str
    provider: str
    upstream_model: str
    stream: bool
    status: int
    code: str
    finish_reason: str
    path: str
    usage: Usage
    attempts: int
    tries: tuple[Try, ...]
    started_at: float
    duration_s: float
    first_frame_s: float | None
    first_token_s: float | None
    generation_s: float | None
    overhead_s: float | None
    gap_mean_s: float | None
    gap_max_s: float | None
    gap_sum_s: float
    gaps: tuple[int, ...]
    blocked_s: float
    bytes_out: int

    @classmethod
    def of(cls, arrival: Arrival, outcome: Outcome, started_at: float) -> Self:
        """Build the entry of an exchange that is over; without an ending it is a bug's."""
        verdict = BUG if outcome.ending is None else outcome.ending.verdict
        flowing = outcome.flowing
        last = outcome.served or (outcome.attempts[-1] if outcome.attempts else None)
        opened = last if last is not None and last.content_at else None
        streamed = opened if outcome.stream else None
        count = sum(flowing.gaps) if streamed else 0
        return cls(
            request_id=arrival.request_id,
            connection_id=arrival.connection_id,
            key_id=outcome.key_id,
            tenant=outcome.tenant,
            route=arrival.route,
            model=outcome.model,
            provider=last.provider if last else "",
            upstream_model=last.model if last else "",
            stream=outcome.stream,
            status=outcome.status or verdict.status,
            code=verdict.code,
            finish_reason=outcome.finish_reason[:MAX_FINISH_REASON],
            path=outcome.path if opened else "",
            usage=_tokens(outcome, opened=opened is not None),
            attempts=len(outcome.attempts),
            tries=_tries(outcome) if len(outcome.attempts) > 1 else (),
            started_at=started_at,
            duration_s=max(0.0, outcome.ended_at - outcome.received_at),
            first_frame_s=_between(outcome.received_at, streamed.framed_at) if streamed else None,
            first_token_s=_between(outcome.received_at, streamed.content_at) if streamed else None,
            generation_s=_between(streamed.content_at, flowing.last_token_at) if streamed else None,
            overhead_s=_overhead(outcome, opened),
            gap_mean_s=flowing.gap_sum_s / count if count else None,
            gap_max_s=flowing.gap_max_s if count else None,
            gap_sum_s=flowing.gap_sum_s if count else 0.0,
            gaps=tuple(flowing.gaps) if count else (),
            blocked_s=flowing.blocked_s,
            bytes_out=flowing.bytes_out,
        )


def _tries(outcome: Outcome) -> tuple[Try, ...]:
    return tuple(
        Try(
            provider=record.provider,
            model=record.model,
            code=BUG.code if record.verdict is None else record.verdict.code,
            sent=bool(record.sent_at),
            hedge=record.hedge,
            duration_s=_between(record.started_at, record.ended_at) or 0.0,
            queued_s=record.queued_s,
            input_tokens=outcome.prompt_bytes // BYTES_PER_TOKEN
            if record.sent_at and record is not outcome.served
            else 0,
        )
        for record in outcome.attempts
    )


def _between(start: float, end: float) -> float | None:
    """Give the time from one instant to another. Shape: None when the other did not happen."""
    return max(0.0, end - start) if end else None


def _overhead(outcome: Outcome, opened: AttemptRecord | None) -> float | None:
    """Give the gateway's own time. Shape: None unless both of its parts happened.

    Waiting for a connection is not the gateway's own time, and is left out.
    """
    first, written_at = outcome.attempts[0] if outcome.attempts else None, outcome.flowing.first_write_at
    if first is None or opened is None or not (first.sent_at and written_at):
        return None
    connecting = _between(first.started_at, first.connected_at) or 0.0
    return max(0.0, first.sent_at - outcome.received_at - connecting) + max(0.0, written_at - opened.content_at)


def _tokens(outcome: Outcome, *, opened: bool) -> Usage:
    """Give the tokens the provider named, else what can be judged from what passed."""
    if outcome.usage is not None:
        return outcome.usage
    if not opened:
        return Usage()
    flowing = outcome.flowing
    return Usage.judged(outcome.prompt_bytes, flowing.frames, flowing.content_bytes)


class Store(Protocol):
    """Where entries go."""

    def add(self, entry: Entry, /) -> None:
        """Take one entry. Does not wait for anything."""
        ...


class MemoryStore:
    """The most recent entries, for whoever wants to look. Holds: at most `size`."""

    def __init__(self, size: int = RECENT) -> None:
        self._entries: deque[Entry] = deque(maxlen=size)

    def add(self, entry: Entry, /) -> None:
        """Keep an entry; the oldest makes room."""
        self._entries.append(entry)

    def recent(self) -> tuple[Entry, ...]:
        """Give the entries, the latest last."""
        return tuple(self._entries)


class LogStore:
    """One line an entry. Tenants' names are not in it."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._info = log.bind().info

    def add(self, entry: Entry, /) -> None:
        """Write the line."""
        usage = entry.usage
        self._info(
            "exchange",
            request=entry.request_id,
            connection=entry.connection_id,
            key=entry.key_id,
            route=entry.route,
            model=entry.model,
            provider=entry.provider,
            stream=entry.stream,
            status=entry.status,
            code=entry.code,
            finish_reason=entry.finish_reason,
            path=entry.path,
            attempts=entry.attempts,
            tries=" ".join(f"{attempt.provider}={attempt.code}" for attempt in entry.tries),
            first_token_s=_micro(entry.first_token_s),
            gap_mean_s=_micro(entry.gap_mean_s),
            gap_max_s=_micro(entry.gap_max_s),
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            estimated=usage.estimated,
            bytes=entry.bytes_out,
            duration_s=_micro(entry.duration_s),
        )


def _micro(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


class Names(Struct, frozen=True):
    """The configured names, which alone may become label values; any other is counted under the empty one."""

    routes: AbstractSet[str]
    models: AbstractSet[str]
    providers: AbstractSet[str]


class MetricsStore:
    """Counts entries. Holds: no series but those of configured names, whatever clients ask for."""

    def __init__(self, metrics: Metrics, names: Names) -> None:
        self._metrics = metrics
        self.names = names

    def add(self, entry: Entry, /) -> None:
        """Count an entry."""
        names, usage = self.names, entry.usage
        self._metrics.exchange_ended(
            ExchangeSample(
                route=entry.route if entry.route in names.routes else "",
                model=entry.model if entry.model in names.models else "",
                provider=entry.provider if entry.provider in names.providers else "",
                status=entry.status,
                code=entry.code,
                path=entry.path,
                refused=TABLE[entry.code].stage == "refusal",
                error_frame=entry.stream and bool(entry.path) and entry.code not in _WITHOUT_WORDS,
                stream=entry.stream,
                first_token_s=entry.first_token_s,
                first_frame_s=entry.first_frame_s,
                generation_s=entry.generation_s,
                stream_s=entry.duration_s if entry.first_token_s is not None else None,
                overhead_s=entry.overhead_s,
                blocked_s=entry.blocked_s,
                bytes_out=entry.bytes_out,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cached_tokens=usage.cached_tokens,
                reasoning_tokens=usage.reasoning_tokens,
                cache_write_tokens=usage.cache_write_tokens,
                gaps=entry.gaps,
                gap_sum_s=entry.gap_sum_s,
            )
        )


class Ledger:
    """Writes one entry for each exchange that was started.

    Shape: an entry is made when its exchange is recorded; `later` calls what it is given when the stores are to have it, at once
    unless told otherwise. `on_start` hears of each exchange that begins.
    Holds: the exchanges that were started and not recorded, and the entries that `later` has not called for.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        log: FilteringBoundLogger,
        on_start: Callable[[], None] = lambda: None,
        later: Callable[[Callable[[], None]], object] = lambda write: write(),
    ) -> None:
        self._stores = tuple(stores)
        self._clock = clock
        self._wall = wall
        self._log = log
        self._on_start = on_start
        self._open: dict[int, Outcome] = {}
        self._later = later
        self._unwritten: list[Entry] = []

    def __len__(self) -> int:
        return len(self._open)

    def started(self, arrival: Arrival) -> None:
        """Take note of an exchange that begins."""
        self._open[id(arrival.outcome)] = arrival.outcome
        self._on_start()

    def record(self, arrival: Arrival, outcome: Outcome) -> None:
        """Make the entry of an exchange that is over. Never raises; a second call for one exchange makes nothing."""
        if self._open.pop(id(outcome), None) is None:
            self._log.error("exchange recorded without a start", request=arrival.request_id)
            return
        now = self._clock()
        if outcome.end(Ending(BUG), now):
            self._log.error("exchange without an ending", request=arrival.request_id)
        self._unwritten.append(Entry.of(arrival, outcome, self._wall() - (now - outcome.received_at)))
        if len(self._unwritten) == 1:
            self._later(self.write)

    def write(self) -> None:
        """Give the stores what they do not have yet. Never raises."""
        entries, self._unwritten = self._unwritten, []
        for entry in entries:
            for store in self._stores:
                try:
                    store.add(entry)
                except Exception as error:  # noqa: BLE001 (a store's failure is its own, whatever it is)
                    self._log.error(
                        "store failed", store=type(store).__name__, request=entry.request_id, exc_info=error
                    )
