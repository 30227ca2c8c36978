"""May it run? Checked in the order of what costs least; nothing is spent before a refusal."""

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Protocol

from tidegate.admission import deadline, passage
from tidegate.admission.catalogue import Catalogue
from tidegate.admission.identity import Door, credential
from tidegate.admission.memory import MemoryGuard
from tidegate.admission.rates import Rates, Reservation
from tidegate.exchange import Admitted, Arrival, Ask, Identity, Model
from tidegate.kernel.backoff import retry_after
from tidegate.verdict import BAD_REQUEST, DEADLINE_EXCEEDED, DRAINING, MEDIA_TYPE, Refused

DRAIN_RETRY_S: Final = 1.0
_ELSEWHERE: Final = frozenset((b"cross-site", b"same-site"))
"""What a browser says of requests that pages of other origins make."""


class Reading(Protocol):
    """What the clients of a route speak."""

    def read_request(self, body: bytes, /) -> Ask:
        """Read a client's request. Errors: Refused (bad_request)."""
        ...


Finding = Callable[[Arrival, bytes], tuple[Ask, Model]]
"""Says what is asked and of which model. Errors: Refused."""


class Admission:
    """Turns an Arrival into an Admitted, or refuses it. Holds: the exchanges that it let in, until they are over.

    Shape: `finders` are for routes whose models are not found by the catalogue, and `limits_s` has the seconds of those whose
    exchanges may take another time than `request_timeout_s`.
    """

    def __init__(
        self,
        *,
        door: Door,
        catalogue: Catalogue,
        dialects: Mapping[str, Reading],
        finders: Mapping[str, Finding],
        limits_s: Mapping[str, float] | None = None,
        draining: Callable[[], bool],
        memory: MemoryGuard,
        rates: Rates | None,
        request_timeout_s: float,
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self.door = door
        self.catalogue = catalogue
        self.dialects = dialects
        self.finders = finders
        self.limits_s = limits_s or {}
        self.draining = draining
        self.memory = memory
        self.rates = rates
        self.request_timeout_s = request_timeout_s
        self.clock = clock
        self.chance = chance
        self.inside: set[_Admit] = set()

    def admit(self, arrival: Arrival) -> "_Admit":
        """Give the context in which an exchange may run. Errors: Refused, on entry."""
        return _Admit(self, arrival)

    def read(self, arrival: Arrival, body: bytes) -> tuple[Ask, Model]:
        """Give what is asked and of which model. Errors: Refused."""
        finding = self.finders.get(arrival.route)
        if finding is not None:
            return finding(arrival, body)
        ask = self.dialects[arrival.route].read_request(body)
        return ask, self.catalogue.find(ask.model)

    def held(self) -> int:
        """Give the bytes of the bodies that are kept, to be sent once more if need be."""
        return sum(admitted.held() for admitted in self.inside)


class _Admit:
    """Holds: what the exchange has reserved, until it is over."""

    __slots__ = ("_admission", "_admitted", "_arrival", "_length", "_reservation")

    def __init__(self, admission: Admission, arrival: Arrival) -> None:
        self._admission = admission
        self._arrival = arrival
        self._admitted: Admitted | None = None
        self._reservation: Reservation | None = None
        self._length = int(arrival.headers.get(b"content-length", b"0"))

    def held(self) -> int:
        """Give the bytes of the kept body."""
        return len(self._admitted.ask.body) if self._admitted is not None else 0

    async def __aenter__(self) -> Admitted:
        inside = self._admission.inside
        inside.add(self)
        try:
            identity, until = self._check_head()
            if self._admission.rates is not None:
                await self._admission.rates.look(self._arrival, identity)
            self._admitted = await self._check_body(identity, until)
        except BaseException:
            inside.discard(self)
            raise
        return self._admitted

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back what is held."""
        self._admission.inside.discard(self)
        if self._reservation is not None:
            # What cancels an opening and is not converted further in is the client's leaving, or a shutdown.
            cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
            await self._reservation.settle(self._arrival.outcome, cancelled=cancelled)

    def _check_head(self) -> tuple[Identity, float]:
        """Decide over the head; gives who asks, and until when. Errors: Refused."""
        admission, arrival = self._admission, self._arrival
        headers, outcome = arrival.headers, arrival.outcome
        if admission.draining():
            raise Refused(DRAINING, headers=(retry_after(DRAIN_RETRY_S, admission.chance()),))
        admission.memory.judge(self._length)
        if headers.get(b"sec-fetch-site") in _ELSEWHERE and admission.door.open and not credential(headers):
            raise Refused(BAD_REQUEST, "pages of other origins may not ask for this", status=403)
        identity = admission.door.identify(headers, arrival.peer)
        outcome.key_id, outcome.tenant = identity.key_id, identity.tenant
        most_s = admission.limits_s.get(arrival.route, admission.request_timeout_s)
        seconds = deadline.allowed_s(most_s, headers.get(deadline.HEADER))
        kind = headers.get(b"content-type")
        if kind is not None and not _is_json(kind) and arrival.route != passage.ROUTE:
            raise Refused(MEDIA_TYPE, "send the body as 'Content-Type: application/json'")
        return identity, outcome.received_at + seconds if seconds else 0.0

    async def _check_body(self, identity: Identity, until: float) -> Admitted:
        """Read the body and decide over it. Errors: Refused."""
        admission, arrival = self._admission, self._arrival
        memory, left_s = admission.memory, until - admission.clock() if until else 0.0
        if left_s < 0.0:
            raise Refused(DEADLINE_EXCEEDED)
        counted = memory.expect(self._length)
        try:
            body = await arrival.body.read(left_s)
        finally:
            memory.came(counted)
        ask, model = admission.read(arrival, body)
        outcome = arrival.outcome
        outcome.stream = ask.stream
        outcome.prompt_bytes = max(0, len(body) - ask.aside)
        outcome.model = model.name
        headers: tuple[tuple[bytes, bytes], ...] = ()
        if admission.rates is not None:
            # Last, so that nothing can be refused after it is spent.
            reservation = self._reservation = await admission.rates.take(arrival, identity, model, ask)
            headers = reservation.headers
        return Admitted(arrival=arrival, identity=identity, ask=ask, model=model, deadline=until, headers=headers)


def _is_json(kind: bytes) -> bool:
    media = kind.partition(b";")[0].strip().lower()
    return media == b"application/json" or media.endswith(b"+json")
