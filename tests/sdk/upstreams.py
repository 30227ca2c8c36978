"""One gateway in a thread, in front of one mock that is every provider: for SDKs that block, and for those that do not.

A model is named `kind/script`: the kind of its provider, and what the provider is to do.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI

from threads import START_S, Threaded, threaded
from tidegate.ledger.ledger import Entry
from tidegate.mock import sigv4
from tidegate.mock.server import MockProvider

KINDS: Final = ("openai", "anthropic", "gemini", "bedrock", "ollama_native")
PATHS: Final = dict.fromkeys(KINDS, "") | {
    "openai": "/v1",
    "anthropic": "/v1",
    "gemini": "/v1beta",
    "bedrock_anthropic": "",
}
"""Where the mock is a provider of a kind."""
AWS: Final = {
    "region": "us-east-1",
    "access_key_id": sigv4.ACCESS_KEY,
    "secret_access_key": sigv4.SECRET_KEY,
}
SCRIPTS: Final = {
    "text": "tokens=12",
    "long": "tokens=300&cut=100",
    "length": "tokens=6&finish=length",
    "filtered": "tokens=6&finish=content_filter",
    "refuses": "tokens=6&refusal=yes",
    "calls": "tools=1&tokens=12",
    "calls_many": "tools=3&tokens=18",
    "calls_bare": "tools=1&noargs=yes",
    "thinks": "reasoning=4&tokens=6",
    "thinks_calls": "reasoning=4&tools=1&tokens=12",
    "slow": "itl=20ms&tokens=2000",
    "slow_calls": "itl=20ms&tools=1&tokens=2000",
    "silent": "ttft=60s",
    "breaks": "tokens=20&fail=error&fail_at=5",
    "breaks_first": "fail=error",
    "ends": "tokens=20&fail=eof&fail_at=5",
    "cut": "tokens=20&fail=truncate&fail_at=5",
    "rejects": "reject=yes",
    "impatient": "stall=head",
    "limited": "status=429&retry_after=7",
    # A target that was told to wait is not asked again.
    "limited_whole": "status=429&retry_after=7&tokens=1",
    **{f"status_{status}": f"status={status}" for status in (400, 401, 403, 404, 422, 500, 503, 529)},
}
"""What a provider does, in the mock's own words."""
TARGETS: Final[dict[str, Any]] = {"impatient": {"timeouts": {"headers": 0.2, "response": 0.2}}}
"""What is set for the target of a script."""


class Upstreams(Threaded):
    """A gateway in a thread, and the mock behind it. Shape: `mock` may be touched in the thread alone."""

    mock: MockProvider
    mock_port: int

    async def serve(self, base_url: str, sections: dict[str, Any]) -> None:
        del base_url
        self.mock = MockProvider()
        self.mock_port = await self.mock.start()
        try:
            await super().serve("http://127.0.0.1:1", {**sections, **_behind(self.mock_port)})
        finally:
            await self.mock.close()

    @property
    def url(self) -> str:
        """Where the gateway is, without a path."""
        return f"http://127.0.0.1:{self.running.port}"

    def record(self, request_id: str | None) -> Entry:
        """Wait for the record of an exchange."""
        found: list[Entry] = []

        def recorded() -> bool:
            found[:] = [entry for entry in self.ask(self.running.entries) if entry.request_id == request_id]
            return bool(found)

        wait_until(recorded)
        return found[-1]

    def last(self) -> Entry:
        """Wait until nothing is live; gives the record of the last exchange."""
        wait_until(lambda: self.ask(lambda: not len(self.running.tidegate.gateway)))
        entry: Entry = self.ask(lambda: self.running.entries()[-1])
        return entry

    def sent(self) -> dict[str, Any]:
        """Give the body of the last request that reached the mock."""
        return dict(json.loads(self.ask(lambda: self.mock.stats.requests[-1][2])))

    def cancelled(self) -> int:
        """Give how many answers the mock could not finish, as its client had left."""
        return int(self.ask(lambda: self.mock.stats.cancelled))

    def open(self) -> int:
        """Give how many answers the mock is about to give."""
        return int(self.ask(lambda: self.mock.stats.open))


def _behind(port: int) -> dict[str, Any]:
    """Give the settings of a gateway in front of the mock at a port: each kind with each script."""
    providers = [
        {
            "name": kind,
            "kind": kind,
            "base_url": f"http://127.0.0.1:{port}{path}",
            **({"api_key": "", "aws": AWS} if kind.startswith("bedrock") else {}),
        }
        for kind, path in PATHS.items()
    ]
    models = [
        {"name": f"{kind}/{name}", "targets": [{"provider": kind, "model": f"mock?{script}", **TARGETS.get(name, {})}]}
        for kind in PATHS
        for name, script in SCRIPTS.items()
    ]
    return {"providers": providers, "models": models}


@contextmanager
def upstreams(**sections: Any) -> Iterator[Upstreams]:
    """Serve a gateway in front of a mock of all kinds of providers. Holds: a thread, until the exit."""
    held = Upstreams()
    with threaded(held=held, **sections):
        yield held


def wait_until(condition: Callable[[], bool], timeout_s: float = START_S) -> None:
    """Wait for a condition. Errors: TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.005)


_OPTIONS: Final[dict[str, Any]] = {"api_key": "tg-a-key-of-the-sdk", "max_retries": 0, "timeout": 20.0}


def _openai(url: str, options: dict[str, Any]) -> OpenAI:
    # Without TLS: certificates take longer to load than most of the tests.
    return OpenAI(base_url=url, http_client=DefaultHttpxClient(verify=False), **{**_OPTIONS, **options})


@contextmanager
def openai_client(served: Upstreams, **options: Any) -> Iterator[OpenAI]:
    """Give the blocking client of the gateway."""
    with _openai(f"{served.url}/v1", options) as client:
        yield client


def openai_async(served: Upstreams, **options: Any) -> AsyncOpenAI:
    """Give the asynchronous client of the gateway: a context."""
    http = DefaultAsyncHttpxClient(verify=False)
    return AsyncOpenAI(base_url=f"{served.url}/v1", http_client=http, **{**_OPTIONS, **options})


@contextmanager
def openai_direct(served: Upstreams) -> Iterator[OpenAI]:
    """Give the blocking client of the mock itself, as OpenAI: what it says is what is to be expected."""
    with _openai(f"http://127.0.0.1:{served.mock_port}/v1", {}) as client:
        yield client
