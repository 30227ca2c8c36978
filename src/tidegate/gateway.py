"""One exchange from arrival to record, on one page; and the set of those that are live."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog

from tidegate.exchange import Admitted, Arrival, Client, Ending, Outcome, Stream
from tidegate.kernel.faults import where
from tidegate.verdict import BUG, CANCELLED, Fault


class Admitting(Protocol):
    """Decides whether an exchange may run."""

    def admit(self, arrival: Arrival) -> AbstractAsyncContextManager[Admitted]:
        """Give the context in which it runs. Errors: Refused."""
        ...


class Dispatching(Protocol):
    """Gets a stream."""

    def open(self, ask: Admitted, /) -> AbstractAsyncContextManager[Stream]:
        """Give the context of one stream. Errors: Fault."""
        ...


class Relaying(Protocol):
    """Moves one open stream to its client."""

    async def run(self) -> None:
        """Last until the stream has ended."""
        ...

    def end(self, ending: Ending) -> None:
        """End it from outside."""
        ...

    def held(self) -> int:
        """Give the bytes that came and were not passed on yet."""
        ...

    def backlog(self) -> tuple[int, float]:
        """Give the bytes that the client has not taken, and for how many seconds it has taken none."""
        ...


class Recording(Protocol):
    """Writes down what each exchange came to."""

    def started(self, arrival: Arrival) -> None:
        """Count an exchange that begins."""
        ...

    def record(self, arrival: Arrival, outcome: Outcome) -> None:
        """Write the one entry of an exchange that is over."""
        ...


class Gateway:
    """Conducts exchanges. Holds: each live exchange, from its arrival to its record."""

    def __init__(
        self,
        admission: Admitting,
        dispatch: Dispatching,
        relaying: Callable[[Client, Stream, Outcome], Relaying],
        ledger: Recording,
        clock: Callable[[], float],
    ) -> None:
        self._admission = admission
        self._dispatch = dispatch
        self._relaying = relaying
        self._ledger = ledger
        self._clock = clock
        self._live: dict[Outcome, Client | Relaying] = {}
        self._relays: dict[Outcome, Relaying] = {}
        self._log = structlog.get_logger()

    def __len__(self) -> int:
        return len(self._live)

    def use(
        self,
        admission: Admitting,
        dispatch: Dispatching,
        relaying: Callable[[Client, Stream, Outcome], Relaying],
    ) -> None:
        """Let exchanges that begin from now on be admitted, dispatched and relayed by others."""
        self._admission = admission
        self._dispatch = dispatch
        self._relaying = relaying

    async def conduct(self, arrival: Arrival, client: Client) -> None:
        """Carry one exchange through. Holds: exactly one ending and one entry, cancellation and bugs included."""
        outcome = arrival.outcome
        # One exchange, one configuration.
        admission, dispatch, relaying = self._admission, self._dispatch, self._relaying
        self._live[outcome] = client
        self._ledger.started(arrival)
        try:
            async with (
                client.present(),
                admission.admit(arrival) as admitted,
                dispatch.open(admitted) as stream,
            ):
                relay = self._live[outcome] = self._relays[outcome] = relaying(client, stream, outcome)
                await relay.run()
        except Fault as fault:
            self._refuse(outcome, client, fault)
        except asyncio.CancelledError:
            self._refuse(outcome, client, Fault(CANCELLED))
            raise
        except Exception as error:  # noqa: BLE001 (the boundary: one broken exchange must not end the others)
            self._report(arrival, error)
            self._refuse(outcome, client, Fault(BUG, "the gateway failed; its log has the request id"))
        finally:
            del self._live[outcome]
            self._relays.pop(outcome, None)
            self._ledger.record(arrival, outcome)

    def refuse(self, arrival: Arrival, fault: Fault) -> None:
        """Record an exchange that the edge refused before it could be conducted."""
        self._ledger.started(arrival)
        arrival.outcome.end(Ending(fault.verdict, fault.message), self._clock(), fault.status)
        self._ledger.record(arrival, arrival.outcome)

    def relays(self) -> Iterable[Relaying]:
        """Give the streams that are open now."""
        return tuple(self._relays.values())

    def live(self) -> tuple[Outcome, ...]:
        """Give the exchanges that are not over."""
        return tuple(self._live)

    def end_all(self, ending: Ending) -> None:
        """End whatever is live, each with an answer or an error frame."""
        for live in tuple(self._live.values()):
            live.end(ending)

    def _refuse(self, outcome: Outcome, client: Client, fault: Fault) -> None:
        if outcome.end(Ending(fault.verdict, fault.message), self._clock(), fault.status):
            client.refuse(fault)

    def _report(self, arrival: Arrival, error: Exception) -> None:
        """Log where a bug is, not what it says: an exception's text may quote a prompt."""
        self._log.error("bug", request=arrival.request_id, error=type(error).__name__, at=where(error))
