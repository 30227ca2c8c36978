"""How the official openai package learns that there is no answer, and what becomes of the provider when nobody waits for it."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any, Final

import openai
import pytest
from upstreams import KINDS, Upstreams, openai_async, openai_client, upstreams, wait_until

PROMPT: Final = "Tell me about the tide."
TRANSLATED: Final = tuple(kind for kind in KINDS if kind != "openai")
TOOLS: Any = [{"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}]
PROMPTLY_S: Final = 1.0
PATIENCE_S: Final = 0.15

every_kind = pytest.mark.parametrize("kind", KINDS)
every_api = pytest.mark.parametrize("api", ["chat", "responses"])
streamed_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture(scope="module")
def served() -> Iterator[Upstreams]:
    with upstreams() as held:
        yield held


def create(client: openai.OpenAI | openai.AsyncOpenAI, api: str, **members: Any) -> Any:
    """Ask one of the package's two APIs."""
    if api == "chat":
        return client.chat.completions.create(**{"messages": [{"role": "user", "content": PROMPT}], **members})
    return client.responses.create(**{"input": PROMPT, **members})


def failure(served: Upstreams, api: str, model: str, **members: Any) -> openai.APIStatusError:
    """Give the exception that a request ends with."""
    with openai_client(served) as client, pytest.raises(openai.APIStatusError) as caught:
        create(client, api, model=model, **members)
    return caught.value


# --- before the stream -----------------------------------------------------------------------------------------------

STATUSES: Final = [
    ("status_400", openai.BadRequestError, 400, "upstream_rejected"),
    ("status_401", openai.InternalServerError, 502, "provider_auth"),
    ("status_403", openai.InternalServerError, 502, "provider_auth"),
    ("status_404", openai.NotFoundError, 404, "upstream_rejected"),
    ("status_422", openai.UnprocessableEntityError, 422, "upstream_rejected"),
    ("status_500", openai.InternalServerError, 500, "upstream_failed"),
    ("status_503", openai.InternalServerError, 503, "upstream_failed"),
    ("rejects", openai.InternalServerError, 502, "connect_reset"),
    ("impatient", openai.InternalServerError, 504, "headers_timeout"),
]


@every_api
@every_kind
@streamed_or_not
@pytest.mark.parametrize(("script", "exception", "status", "code"), STATUSES)
def test_an_error_before_the_stream_is_the_exception_of_its_status(
    served: Upstreams,
    api: str,
    kind: str,
    stream: bool,
    script: str,
    exception: type[openai.APIStatusError],
    status: int,
    code: str,
) -> None:
    error = failure(served, api, f"{kind}/{script}", stream=stream)
    assert type(error) is exception
    assert error.status_code == status
    if script not in {"status_401", "status_403", "rejects", "impatient"}:
        assert f"The mock was asked to answer {status}." in error.message, "the provider's own words"
    if kind != "openai":
        assert error.code == (code if stream or script != "impatient" else "total_timeout")
    entry = served.record(error.request_id)
    assert (entry.provider, entry.code) == (kind, code if stream or script != "impatient" else "total_timeout")


@every_kind
@pytest.mark.parametrize(("api", "stream"), [("chat", True), ("responses", False)])
def test_a_rate_limit_is_told_with_its_wait(served: Upstreams, api: str, kind: str, stream: bool) -> None:
    error = failure(served, api, f"{kind}/{'limited' if stream else 'limited_whole'}", stream=stream)
    assert type(error) is openai.RateLimitError
    assert error.response.headers["retry-after"] == "7"
    assert served.record(error.request_id).code == "upstream_rate_limited"


@every_api
@every_kind
def test_an_error_in_the_first_frame_is_an_exception_before_the_stream(served: Upstreams, api: str, kind: str) -> None:
    error = failure(served, api, f"{kind}/breaks_first", stream=True)
    assert type(error) is openai.InternalServerError
    assert served.record(error.request_id).code == "error_frame"


# --- what is not asked of a provider ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRANSLATED)
@streamed_or_not
@pytest.mark.parametrize(
    ("api", "members", "param"),
    [
        ("chat", {"logit_bias": {"50256": -100}}, "logit_bias"),
        ("chat", {"audio": {"voice": "alloy", "format": "mp3"}, "modalities": ["text", "audio"]}, "audio"),
        ("chat", {"web_search_options": {}}, "web_search_options"),
        ("chat", {"extra_body": {"wizardry": 1}}, "wizardry"),
        ("chat", {"messages": [{"role": "user", "content": "Hello", "mood": "glad"}]}, "messages[0].mood"),
        ("responses", {"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ("responses", {"prompt": {"id": "pmpt_1"}}, "prompt"),
        ("responses", {"extra_body": {"wizardry": 1}}, "wizardry"),
    ],
)
def test_what_would_change_the_answer_and_cannot_be_said_is_refused_by_name(
    served: Upstreams, api: str, kind: str, stream: bool, members: dict[str, Any], param: str
) -> None:
    error = failure(served, api, f"{kind}/text", stream=stream, **members)
    assert type(error) is openai.BadRequestError
    assert (error.code, error.param) == ("untranslatable", param)
    assert param in error.message
    assert served.record(error.request_id).code == "untranslatable"


@every_kind
@pytest.mark.parametrize(
    ("api", "members", "param"),
    [("chat", {"messages": [{"role": "wizard"}]}, "messages[0].role"), ("responses", {"input": []}, "input")],
)
def test_a_request_that_is_wrong_is_refused_by_name(
    served: Upstreams, api: str, kind: str, members: dict[str, Any], param: str
) -> None:
    error = failure(served, api, f"{kind}/text", **members)
    assert type(error) is openai.BadRequestError
    assert (error.code, error.param) == ("bad_request", param)
    assert failure(served, api, f"{kind}/nothing").code == "unknown_model"


@every_api
@every_kind
def test_what_the_provider_need_not_hear_is_dropped_and_listed(served: Upstreams, api: str, kind: str) -> None:
    members: Any = {"metadata": {"tide": "high"}, "store": True, "service_tier": "auto"}
    with openai_client(served) as client:
        for stream in (False, True):
            asked = {"model": f"{kind}/text", "stream": stream, "extra_headers": {"x-stainless-raw-response": "true"}}
            answer = create(client, api, **asked, **members)
            dropped = {name.strip() for name in answer.headers.get("x-tidegate-dropped", "").split(",") if name}
            assert dropped == (set() if kind == "openai" else set(members))
            assert ("metadata" in served.sent()) == (kind == "openai")
            parsed = answer.parse()
            assert list(parsed) if stream else parsed.id
            assert served.record(answer.headers["x-request-id"]).code == "completed"


# --- leaving ---------------------------------------------------------------------------------------------------------


def check_gone(served: Upstreams, before: int) -> None:
    """Check that the provider was left as well, at once, and why."""
    wait_until(lambda: served.cancelled() == before + 1, PROMPTLY_S)
    assert served.last().code == "client_gone"


@every_api
@every_kind
def test_leaving_a_stream_closes_the_providers(served: Upstreams, api: str, kind: str) -> None:
    before = served.cancelled()
    with openai_client(served) as client:
        stream = create(client, api, model=f"{kind}/slow", stream=True)
        assert len(list(itertools.islice(stream, 7))) == 7
        stream.close()
        check_gone(served, before)


@pytest.mark.parametrize("kind", ["openai", "anthropic", "bedrock"])  # the others give a call whole
def test_leaving_in_the_middle_of_a_call_closes_the_providers_stream(served: Upstreams, kind: str) -> None:
    before = served.cancelled()
    with openai_client(served) as client:
        stream = create(client, "chat", model=f"{kind}/slow_calls", tools=TOOLS, stream=True)
        assert len(list(itertools.islice(stream, 5))) == 5
        stream.close()
        check_gone(served, before)


@every_api
@every_kind
def test_leaving_a_stream_asynchronously_closes_the_providers(served: Upstreams, api: str, kind: str) -> None:
    before = served.cancelled()

    async def work() -> None:
        async with openai_async(served) as client:
            async with await create(client, api, model=f"{kind}/slow", stream=True) as stream:
                await anext(stream)
            await asyncio.to_thread(check_gone, served, before)

    asyncio.run(work())


@every_api
@every_kind
def test_cancelling_a_request_that_is_not_streamed_closes_the_providers(served: Upstreams, api: str, kind: str) -> None:
    before, asked = served.cancelled(), served.open()

    async def work() -> None:
        async with openai_async(served) as client:
            asking = asyncio.create_task(create(client, api, model=f"{kind}/slow"))
            while served.open() == asked:
                await asyncio.sleep(0.005)
            asking.cancel()
            await asyncio.wait([asking])
            await asyncio.to_thread(check_gone, served, before)

    asyncio.run(work())


@every_api
@every_kind
@streamed_or_not
def test_a_client_that_waits_no_longer_raises_a_timeout(served: Upstreams, api: str, kind: str, stream: bool) -> None:
    before = served.cancelled()
    with openai_client(served, timeout=PATIENCE_S) as client:
        with pytest.raises(openai.APITimeoutError):
            create(client, api, model=f"{kind}/silent", stream=stream)
        check_gone(served, before)
