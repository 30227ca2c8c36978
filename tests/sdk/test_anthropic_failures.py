"""What the official anthropic package raises when things go wrong, whoever the provider is; and what is left when a client leaves."""

import time
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from messaging import PASSED, PROMPT, PROVIDERS, TRANSLATED, WAYS, awaiting, blocking, directly, say, text_of
from upstreams import Upstreams, upstreams, wait_until

from harness import run
from threads import Threaded, threaded
from tidegate.admission.identity import hash_key

KEY = "tg-a-key-of-its-own"
SOON_S = 2.0
every_provider = pytest.mark.parametrize("kind", PROVIDERS)
every_way = pytest.mark.parametrize("way", WAYS)
both_ways = pytest.mark.parametrize("way", ["whole", "streamed"])


@pytest.fixture(scope="module")
def served() -> Iterator[Upstreams]:
    with upstreams() as held:
        yield held


def error_in(raised: anthropic.APIStatusError) -> dict[str, Any]:
    """Give the error that a client was told of, in the package's own envelope."""
    body = raised.body
    assert isinstance(body, dict)
    assert body["type"] == "error"
    assert isinstance(body["error"], dict)
    return body["error"]


# --- before the stream ---------------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize(
    ("script", "raised", "status", "kind_of_error"),
    [
        ("status_400", anthropic.BadRequestError, 400, "invalid_request_error"),
        ("status_401", anthropic.InternalServerError, 502, "api_error"),
        ("status_403", anthropic.InternalServerError, 502, "api_error"),
        ("status_404", anthropic.NotFoundError, 404, "not_found_error"),
        ("status_422", anthropic.UnprocessableEntityError, 422, "invalid_request_error"),
        ("status_500", anthropic.InternalServerError, 500, "api_error"),
        ("status_529", anthropic.OverloadedError, 529, "overloaded_error"),
    ],
)
def test_a_status_is_the_exception_that_it_is_at_anthropic(
    served: Upstreams, script: str, raised: type[anthropic.APIStatusError], status: int, kind_of_error: str, way: str
) -> None:
    for kind in PROVIDERS:
        with pytest.raises(raised) as caught:
            say(served, way, f"{kind}/{script}")
        assert caught.value.status_code == status
        assert error_in(caught.value)["type"] == kind_of_error
        assert caught.value.type == kind_of_error
        if script not in {"status_401", "status_403"}:
            assert error_in(caught.value)["message"] == f"The mock was asked to answer {script[-3:]}."


@every_provider
def test_a_provider_that_limits_its_rate_says_when_to_come_again(served: Upstreams, kind: str) -> None:
    for way in WAYS:  # after the first, the gateway says so by itself, and not the same to all
        with pytest.raises(anthropic.RateLimitError) as caught:
            say(served, way, f"{kind}/limited")
        assert caught.value.type == "rate_limit_error"
        assert 0 < int(caught.value.response.headers["retry-after"]) <= 10


@pytest.mark.parametrize("kind", TRANSLATED)
def test_an_overloaded_provider_has_anthropics_own_status(served: Upstreams, kind: str) -> None:
    with pytest.raises(anthropic.OverloadedError) as caught:
        say(served, "streamed", f"{kind}/status_503")
    assert error_in(caught.value)["type"] == "overloaded_error"


@both_ways
@every_provider
def test_an_error_before_the_first_word_is_a_status(served: Upstreams, kind: str, way: str) -> None:
    with pytest.raises(anthropic.InternalServerError) as caught:
        say(served, way, f"{kind}/breaks_first")
    assert caught.value.status_code >= 500
    assert error_in(caught.value)["type"] in {"api_error", "overloaded_error"}


@every_provider
def test_a_provider_that_hangs_up_before_its_head_is_an_error_of_the_gateway(served: Upstreams, kind: str) -> None:
    with pytest.raises(anthropic.InternalServerError) as caught:
        say(served, "streamed", f"{kind}/rejects")
    assert caught.value.status_code == 502
    assert error_in(caught.value)["code"] == "connect_reset"


@every_way
def test_a_model_that_is_not_here_is_not_found(served: Upstreams, way: str) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        say(served, way, "nobody")
    assert caught.value.type == "not_found_error"
    assert error_in(caught.value)["code"] == "unknown_model"


@pytest.mark.parametrize("kind", PROVIDERS)
@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"max_tokens": "many"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "pilot", "content": "Hello"}]}, "messages"),
        ({"extra_body": {"stream": "yes"}}, "stream"),
    ],
    ids=["bound", "no messages", "role", "stream"],
)
def test_a_mistake_is_named(served: Upstreams, kind: str, members: dict[str, Any], named: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=named) as caught:
        say(served, "whole", f"{kind}/text", **members)
    assert caught.value.type == "invalid_request_error"


def test_models_are_listed_and_found_as_anthropic_does_it(served: Upstreams) -> None:
    with blocking(served.url) as client:
        names = [model.id for model in client.models.list(limit=5)]
        assert {"anthropic/text", "openai/text"} <= set(names)
        assert len(names) == len(set(names))
        model = client.models.retrieve("bedrock/text")
        assert (model.type, model.id, model.display_name) == ("model", "bedrock/text", "bedrock/text")
        with pytest.raises(anthropic.NotFoundError) as caught:
            client.models.retrieve("nobody")
    assert caught.value.type == "not_found_error"
    assert error_in(caught.value)["code"] == "unknown_model"


def test_models_are_listed_to_who_awaits_them(served: Upstreams) -> None:
    names: list[str] = []

    async def work() -> None:
        async with awaiting(served.url) as client:
            names.extend([model.id async for model in client.models.list()])

    run(work)
    assert "gemini/text" in names


@every_provider
def test_tokens_can_be_counted_for_every_model(served: Upstreams, kind: str) -> None:
    with blocking(served.url) as client:
        raw = client.messages.with_raw_response.count_tokens(model=f"{kind}/text", messages=PROMPT)
    assert raw.parse().input_tokens > 0
    assert ("x-tidegate-estimated" in raw.headers) == (kind != "anthropic")


@pytest.mark.parametrize(("script", "attempts"), [("status_400", 1), ("status_500", 2)])
def test_the_package_tries_again_only_where_that_makes_sense(served: Upstreams, script: str, attempts: int) -> None:
    started = served.ask(lambda: served.mock.stats.started)
    with blocking(served.url, max_retries=1) as client, pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(model=f"gemini/{script}", max_tokens=100, messages=PROMPT)
    assert served.ask(lambda: served.mock.stats.started) - started == attempts
    assert (caught.value.response.headers.get("x-should-retry") == "false") == (attempts == 1)


@pytest.fixture(scope="module")
def keyed() -> Iterator[Threaded]:
    with threaded(auth={"mode": "keys", "keys": [{"id": "sdk", "sha256": hash_key(KEY)}]}) as held:
        yield held


@pytest.mark.parametrize("options", [{"api_key": KEY}, {"api_key": None, "auth_token": KEY}], ids=["key", "token"])
def test_the_gateways_key_is_taken_as_the_package_sends_it(keyed: Threaded, options: dict[str, Any]) -> None:
    with blocking(f"http://127.0.0.1:{keyed.running.port}", **options) as client:
        message = client.messages.create(model="mock", max_tokens=100, messages=PROMPT)
        assert text_of(message)
        assert [model.id for model in client.models.list()] == ["mock"]
    headers = keyed.ask(lambda: keyed.running.mock.stats.requests[-1][1])
    assert not [value for name, value in headers if KEY.encode() in value]


@every_way
def test_a_wrong_key_is_an_error_of_authentication(keyed: Threaded, way: str) -> None:
    url = f"http://127.0.0.1:{keyed.running.port}"
    with pytest.raises(anthropic.AuthenticationError) as caught:
        WAYS[way](url, {"model": "mock", "max_tokens": 100, "messages": PROMPT})
    assert caught.value.type == "authentication_error"
    assert "tg-a-key-of-the-sdk" not in str(caught.value.body)


def test_a_wrong_key_counts_nothing_and_sees_no_models(keyed: Threaded) -> None:
    with blocking(f"http://127.0.0.1:{keyed.running.port}") as client:
        with pytest.raises(anthropic.AuthenticationError) as counting:
            client.messages.count_tokens(model="mock", messages=PROMPT)
        with pytest.raises(anthropic.AuthenticationError) as listing:
            client.models.list()
    assert counting.value.type == listing.value.type == "authentication_error"


# --- in mid-stream -------------------------------------------------------------------------------------------------


def read(client: anthropic.Anthropic, model: str, pieces: list[str]) -> None:
    """Read a stream of text to its end."""
    with client.messages.stream(model=model, max_tokens=1000, messages=PROMPT) as stream:
        for piece in stream.text_stream:
            pieces.append(piece)  # noqa: PERF402 (what came before an error is kept)


@pytest.mark.parametrize(
    ("script", "code"),
    [("breaks", "upstream_error_frame"), ("ends", "upstream_truncated"), ("cut", "upstream_truncated")],
)
@every_provider
def test_a_stream_that_breaks_is_raised_after_what_came(served: Upstreams, kind: str, script: str, code: str) -> None:
    pieces: list[str] = []
    with blocking(served.url) as client, pytest.raises(anthropic.APIStatusError) as caught:
        read(client, f"{kind}/{script}", pieces)
    error = error_in(caught.value)
    if script != "breaks":  # of which some providers say a code of their own
        assert error["code"] == code
    assert error["message"]
    assert len(pieces) == 5
    expected = directly(served, "text").choices[0].message.content or ""
    assert expected.startswith("".join(pieces))
    assert served.record(caught.value.response.headers["x-request-id"]).code == code


@every_provider
def test_a_stream_that_breaks_is_raised_to_who_awaits_it(served: Upstreams, kind: str) -> None:
    async def work() -> None:
        async with awaiting(served.url) as client:
            members: dict[str, Any] = {"model": f"{kind}/breaks", "max_tokens": 1000, "messages": PROMPT}
            async with client.messages.stream(**members) as stream:
                with pytest.raises(anthropic.APIStatusError) as caught:
                    await stream.get_final_message()
                assert caught.value.type in {"api_error", "overloaded_error"}
                assert stream.current_message_snapshot.stop_reason is None

    run(work)


@pytest.mark.parametrize("kind", PASSED)
def test_an_error_of_the_same_dialect_keeps_its_kind(served: Upstreams, kind: str) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        say(served, "streamed", f"{kind}/breaks")
    assert caught.value.type == {"anthropic": "overloaded_error", "bedrock_anthropic": "api_error"}[kind]


# --- leaving -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["slow", "slow_calls"])
@every_provider
def test_a_stream_that_is_left_ends_at_the_provider_at_once(served: Upstreams, kind: str, script: str) -> None:
    if (kind, script) == ("gemini", "slow_calls"):
        return  # says a call at once, and takes no time
    cancelled = served.cancelled()
    with blocking(served.url) as client:
        members: dict[str, Any] = {"model": f"{kind}/{script}", "max_tokens": 5000, "messages": PROMPT}
        with client.messages.stream(**members) as stream:
            for event in stream:
                if event.type == "content_block_delta":
                    break
        left_at = time.monotonic()
        wait_until(lambda: served.cancelled() == cancelled + 1, SOON_S)
        assert time.monotonic() - left_at < SOON_S
        entry = served.record(stream.response.headers["x-request-id"])
    assert entry.code == "client_gone"


@every_provider
def test_a_task_that_is_cancelled_ends_its_stream_at_the_provider(served: Upstreams, kind: str) -> None:
    cancelled = served.cancelled()

    async def work() -> None:
        async with awaiting(served.url, timeout=httpx2.Timeout(20.0, read=0.3)) as client:
            members: dict[str, Any] = {"model": f"{kind}/silent", "max_tokens": 100, "messages": PROMPT}
            with pytest.raises(anthropic.APITimeoutError):
                await client.messages.create(stream=True, **members)

    run(work)
    wait_until(lambda: served.cancelled() == cancelled + 1, SOON_S)
    assert served.last().code == "client_gone"
