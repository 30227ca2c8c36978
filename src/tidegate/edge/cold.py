"""Everything that is not hot: Starlette apps behind uvicorn's HTTP protocol, one for clients and one for operators."""

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tidegate.dialect import Refusing
from tidegate.edge.connection import DISCARD_BYTES, DISCARD_S
from tidegate.edge.intake import request_id
from tidegate.edge.reply import error_body
from tidegate.exchange import Arrival, Ending, Identity, Outcome
from tidegate.verdict import BUG, COMPLETED, METHOD, NOT_FOUND, Again, Fault, Refused

_ANTHROPIC = "anthropic-version"
"""The header that Anthropic's clients send with every request, and no others."""
_HEALTH = frozenset({"/health", "/health/live", "/health/ready"})
COLD_ROUTES = ("models", "other")
"""What the requests that are answered here are counted as."""


class Identifying(Protocol):
    """Says who asks."""

    def identify(self, headers: Mapping[bytes, bytes], address: str, /) -> Identity:
        """Give who asks. Errors: Refused (unauthenticated, too_many_failures)."""
        ...


class Recording(Protocol):
    """Writes down what each exchange came to."""

    def started(self, arrival: Arrival) -> None:
        """Count an exchange that begins."""
        ...

    def record(self, arrival: Arrival, outcome: Outcome) -> None:
        """Write its one entry."""
        ...


class Health(Protocol):
    """How the process is."""

    async def ready(self) -> bool:
        """Say whether new work makes sense here."""
        ...

    def summary(self) -> dict[str, object]:
        """Give what operators want to know at a glance."""
        ...


class _Guest(HttpToolsProtocol):
    """A connection that was handed over: its client is who we say, and its end is told."""

    def __init__(self, config: uvicorn.Config, state: ServerState, address: str, on_lost: Callable[[], None]) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        self._address = address
        self._on_lost = on_lost

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection."""
        super().connection_made(transport)
        self.client = (self._address, 0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever counts connections."""
        super().connection_lost(exc)
        self._on_lost()


class UvicornHost:
    """Makes uvicorn protocols for connections that we accepted. Only what a contract test pins is used of uvicorn."""

    def __init__(self, app: ASGIApp) -> None:
        self._config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", ws="none", server_header=False, proxy_headers=False
        )
        self._config.load()
        self._state = ServerState()

    def __call__(self, address: str, on_lost: Callable[[], None]) -> asyncio.Protocol:
        """Give a new protocol for a client's address, made as uvicorn itself makes one for an upgrade."""
        return _Guest(self._config, self._state, address, on_lost)

    @property
    def connections(self) -> int:
        """Connections that uvicorn's protocols hold."""
        return len(self._state.connections)

    def shut_down(self) -> None:
        """Close idle connections; the others close after their answer."""
        for connection in tuple(self._state.connections):
            connection.shutdown()

    async def wait_closed(self, timeout_s: float) -> None:
        """Wait until the answers in work are out."""
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=timeout_s)


class _Recorded:
    """ASGI middleware: a request here is an exchange too, with one ending and one entry. Health is not."""

    def __init__(self, app: ASGIApp, ledger: Recording, clock: Callable[[], float]) -> None:
        self._app = app
        self._ledger = ledger
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _HEALTH:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        outcome = Outcome(self._clock())
        arrival = Arrival(
            request_id=request_id(headers),
            connection_id=0,
            route="models" if scope["path"].startswith("/v1/models") else "other",
            headers=headers,
            peer=(scope.get("client") or ("", 0))[0],
            body=_NoBody(),
            outcome=outcome,
        )
        scope["state"] = {"arrival": arrival}
        self._ledger.started(arrival)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", arrival.request_id.encode())]
                outcome.end(Ending(COMPLETED), self._clock(), message["status"])
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            self._ledger.record(arrival, outcome)


class _ReadingOn:
    """ASGI middleware: after the answer the rest of the request is read for a while, as on the hot routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not any(name in {b"content-length", b"transfer-encoding"} for name, _ in scope["headers"]):
            await self._app(scope, receive, send)
            return
        answered = False

        async def sending(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                answered = True
                message = {**message, "more_body": True}  # the end of the body would close the connection
            await send(message)

        await self._app(scope, receive, sending)
        if answered:
            await _discard(receive)
            await send({"type": "http.response.body", "body": b""})


async def _discard(receive: Receive) -> None:
    """Read to the end of a request; beyond the limits wait for the time to be up, or for the client to leave."""
    seen = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_S):
            while (message := await receive()).get("more_body", False):
                seen += len(message["body"])
                if seen > DISCARD_BYTES:
                    await asyncio.sleep(DISCARD_S)


class _OnlyPost:
    """ASGI app of a hot path for every other method: Starlette gives an app that is no function all of them."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        raise Refused(METHOD, headers=((b"allow", b"POST"),))


class _NoBody:
    async def read(self, within_s: float = 0.0) -> bytes:  # noqa: ARG002 (there is nothing to wait for)
        """Give nothing: cold routes read their bodies by Starlette."""
        return b""


class _Listings:
    """The models, for whoever may ask: as Anthropic lists them for its clients, as OpenAI does for all others."""

    def __init__(
        self, gate: Identifying, models: Callable[[], Awaitable[Sequence[str]]], find: Callable[[str], object]
    ) -> None:
        self._gate = gate
        self._models = models
        self._find = find

    async def all(self, request: Request) -> Response:
        """Answer with every model."""
        self._identify(request)
        names = await self._models()
        if _ANTHROPIC not in request.headers:
            return JSONResponse({"object": "list", "data": [_described(name) for name in names]})
        ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
        return JSONResponse({"data": [_described_to_anthropic(name) for name in names], "has_more": False, **ends})

    async def one(self, request: Request) -> Response:
        """Answer with one model. Errors: Refused for one that is not here."""
        self._identify(request)
        name = request.path_params["model"]
        self._find(name)
        return JSONResponse((_described_to_anthropic if _ANTHROPIC in request.headers else _described)(name))

    def _identify(self, request: Request) -> None:
        arrival: Arrival = request.state.arrival
        identity = self._gate.identify(_headers(request), arrival.peer)
        arrival.outcome.key_id, arrival.outcome.tenant = identity.key_id, identity.tenant


def client_app(
    *,
    gate: Identifying,
    models: Callable[[], Awaitable[Sequence[str]]],
    find: Callable[[str], object],
    dialect: Refusing,
    anthropic: Refusing,
    absent: Callable[[str], str],
    hot_paths: Sequence[str],
    health: Health,
    ledger: Recording,
    clock: Callable[[], float],
) -> ASGIApp:
    """Give the app for the main port's cold routes.

    Shape: `find` raises Refused for a model that is not here; `anthropic` says so to clients that speak it, `dialect` to others;
    `absent` gives what is said of a path that is not here.
    """

    async def failed(request: Request, error: Exception) -> Response:
        fault = _fault(error, absent(request.url.path))
        arrival: Arrival | None = getattr(request.state, "arrival", None)
        if fault.verdict is BUG:
            _report(error, arrival)
        if arrival is not None:
            arrival.outcome.end(Ending(fault.verdict, fault.message), clock(), fault.status)
        headers = {name.decode(): value.decode() for name, value in fault.headers}
        if fault.verdict.again is Again.NEVER:
            headers["x-should-retry"] = "false"
        speaks = anthropic if _ANTHROPIC in request.headers else dialect
        body = b"" if request.method == "HEAD" else error_body(fault, speaks)
        return Response(body, fault.status, headers, media_type="application/json")

    listings = _Listings(gate, models, find)
    app = Starlette(
        routes=[
            Route("/v1/models", listings.all),
            Route("/v1/models/{model:path}", listings.one),
            *(Route(path, _OnlyPost()) for path in hot_paths),
            *_health_routes(health),
        ],
        middleware=[
            Middleware(_ReadingOn),
            Middleware(_Recorded, ledger=ledger, clock=clock),
            # Given to Starlette itself, a handler of all exceptions would answer outside of the record.
            Middleware(ExceptionMiddleware, handlers={Exception: failed}),
        ],
        exception_handlers={Fault: failed, HTTPException: failed},
    )
    app.router.redirect_slashes = False  # an API has one address for a thing
    return app


def _described(name: str) -> dict[str, object]:
    """Give a model as OpenAI lists it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "tidegate"}


def _described_to_anthropic(name: str) -> dict[str, object]:
    """Give a model as Anthropic lists it. Shape: the date is the epoch's, as nobody knows it."""
    return {"id": name, "type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


def ops_app(health: Health, scrape: Callable[[str], tuple[bytes, str]]) -> ASGIApp:
    """Give the app of the ops listener."""

    async def metrics(request: Request) -> Response:
        body, kind = scrape(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": kind})

    return Starlette(routes=[Route("/metrics", metrics), *_health_routes(health)])


def _health_routes(health: Health) -> list[Route]:
    async def live(request: Request) -> Response:  # noqa: ARG001
        return JSONResponse({"status": "live"})

    async def ready(request: Request) -> Response:  # noqa: ARG001
        return JSONResponse({"status": "ready"}) if await health.ready() else JSONResponse({"status": "not ready"}, 503)

    async def summary(request: Request) -> Response:  # noqa: ARG001
        return JSONResponse(health.summary())

    return [Route("/health", summary), Route("/health/live", live), Route("/health/ready", ready)]


def _headers(request: Request) -> Mapping[bytes, bytes]:
    return dict(request.headers.raw)


def _report(error: Exception, arrival: Arrival | None) -> None:
    """Log where a bug is, not what it says."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    request = arrival.request_id if arrival is not None else ""
    structlog.get_logger().error("bug", request=request, error=type(error).__name__, at=f"{place.name}:{place.lineno}")


def _fault(error: Exception, absent: str) -> Fault:
    if isinstance(error, Fault):
        return error
    if isinstance(error, HTTPException) and error.status_code == 404:
        return Refused(NOT_FOUND, absent)
    if isinstance(error, HTTPException) and error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return Refused(METHOD, headers=((b"allow", allow.encode()),) if allow else ())
    return Fault(BUG, "the gateway failed; its log has the request id")
