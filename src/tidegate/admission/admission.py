"""May it run? Checked in the order of what costs least; nothing is spent before a refusal."""

from collections.abc import Callable, Mapping
from types import TracebackType

from tidegate.admission.catalogue import Catalogue
from tidegate.admission.identity import Gate
from tidegate.dialect import Dialect
from tidegate.exchange import Admitted, Arrival
from tidegate.verdict import DRAINING, MEDIA_TYPE, Refused


class Admission:
    """Turns an Arrival into an Admitted, or refuses it."""

    def __init__(
        self, gate: Gate, catalogue: Catalogue, dialects: Mapping[str, Dialect], draining: Callable[[], bool]
    ) -> None:
        self._gate = gate
        self._catalogue = catalogue
        self._dialects = dialects
        self._draining = draining

    def admit(self, arrival: Arrival) -> "_Admit":
        """Give the context in which an exchange may run. Errors: Refused, on entry."""
        return _Admit(self, arrival)

    async def check(self, arrival: Arrival) -> Admitted:
        """Decide over the head, then read and decide over the body. Errors: Refused."""
        if self._draining():
            raise Refused(DRAINING, headers=((b"retry-after", b"1"),))
        identity = self._gate.identify(arrival.headers)
        outcome = arrival.outcome
        outcome.key_id, outcome.tenant = identity.key_id, identity.tenant
        kind = arrival.headers.get(b"content-type")
        if kind is not None and not _is_json(kind):
            raise Refused(MEDIA_TYPE, "send the body as 'Content-Type: application/json'")
        body = await arrival.body.read()
        ask = self._dialects[arrival.route].read_request(body)
        outcome.stream = ask.stream
        outcome.prompt_bytes = len(body)
        model = self._catalogue.find(ask.model)
        outcome.model = model.name
        return Admitted(arrival=arrival, identity=identity, ask=ask, model=model)


class _Admit:
    __slots__ = ("_admission", "_arrival")

    def __init__(self, admission: Admission, arrival: Arrival) -> None:
        self._admission = admission
        self._arrival = arrival

    async def __aenter__(self) -> Admitted:
        return await self._admission.check(self._arrival)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give nothing back: identity and catalogue hold nothing."""


def _is_json(kind: bytes) -> bool:
    media = kind.partition(b";")[0].strip().lower()
    return media == b"application/json" or media.endswith(b"+json")
