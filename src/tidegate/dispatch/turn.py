"""The outermost layer: one exchange, its attempts, each with a record and a verdict of its own."""

from collections.abc import Callable
from types import TracebackType

from tidegate.dispatch.service import Service, Turn
from tidegate.exchange import Admitted, Attempt, AttemptRecord, Stream
from tidegate.verdict import AttemptFailed


def directing(clock: Callable[[], float]) -> Turn:
    """Give the turn that makes one attempt at the model's one target."""

    def turn(inner: Service[Attempt]) -> Service[Admitted]:
        return _Direct(inner, clock)

    return turn


class _Direct:
    __slots__ = ("_clock", "_inner")

    def __init__(self, inner: Service[Attempt], clock: Callable[[], float]) -> None:
        self._inner = inner
        self._clock = clock

    def open(self, ask: Admitted, /) -> "_Turn":
        target = ask.model.targets[0]
        record = AttemptRecord(provider=target.provider, model=target.model, started_at=self._clock())
        ask.arrival.outcome.attempts.append(record)
        return _Turn(self._inner, Attempt(admitted=ask, target=target, record=record))


class _Turn:
    """Holds: the attempt's context. On exit the attempt's verdict is the exchange's ending."""

    __slots__ = ("_attempt", "_context")

    def __init__(self, inner: Service[Attempt], attempt: Attempt) -> None:
        self._attempt = attempt
        self._context = inner.open(attempt)

    async def __aenter__(self) -> Stream:
        try:
            stream = await self._context.__aenter__()
        except AttemptFailed as fault:
            self._attempt.record.verdict = fault.verdict
            raise
        self._attempt.admitted.ask.body = b""  # nobody sends it again
        return stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending = self._attempt.admitted.arrival.outcome.ending
        if ending is not None:
            self._attempt.record.verdict = ending.verdict
        await self._context.__aexit__(kind, error, trace)
