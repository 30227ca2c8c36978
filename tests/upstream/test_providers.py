"""Which headers pass, in both directions, and what the gateway adds."""

import pytest

from harness import ask, chat, run
from streams import HELLO, MESSAGE, answer, answering, error_of, fronting, streamed, word
from tidegate.admission.identity import hash_key

KEY = "sk-client-0123456789"
CANARY = "canary-5d1f"
PASSED_UP = {
    "accept": "text/event-stream",
    "openai-organization": "org-1",
    "openai-beta": "assistants=v2",
    "anthropic-version": "2023-06-01",
    "x-stainless-lang": "python",
    "x-stainless-retry-count": "0",
    "idempotency-key": "idem-1",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "a=1",
}
STOPPED_UP = (
    "cookie", "x-api-key", "api-key", "x-goog-api-key", "proxy-authorization", "forwarded", "x-forwarded-for",
    "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "via", "te", "x-mock", "x-anything", "user-agent", "origin",
    "referer", "content-language",
)  # fmt: skip
PASSED_DOWN = {
    "openai-processing-ms": "12",
    "openai-version": "2020-10-01",
    "anthropic-organization-id": "o",
    "retry-after": "3",
}
STOPPED_DOWN = (
    "set-cookie", "server", "via", "cf-ray", "alt-svc", "strict-transport-security", "www-authenticate",
    "access-control-allow-origin", "x-served-by", "location", "trailer",
)  # fmt: skip


def fields_of(head: bytes) -> dict[str, list[str]]:
    """Give the header fields of a request as it came."""
    fields: dict[str, list[str]] = {}
    for line in head.decode("latin-1").split("\r\n")[1:-2]:
        name, _, value = line.partition(":")
        fields.setdefault(name.lower(), []).append(value.strip())
    return fields


def test_only_what_is_listed_goes_up() -> None:
    async def work() -> None:
        async with fronting(answering(streamed(*HELLO))) as (running, upstream):
            headers = {**PASSED_UP, **dict.fromkeys(STOPPED_UP, CANARY), "authorization": f"Bearer {CANARY}"}
            assert (await ask(running.port, chat(), headers=headers)).status == 200
            head = upstream.peers[0].requests[0][0]
            assert CANARY.encode() not in head
            fields = fields_of(head)
            assert {name: fields.get(name) for name in PASSED_UP} == {
                name: [value] for name, value in PASSED_UP.items()
            }
            ours = {
                "host", "user-agent", "content-type", "accept-encoding", "authorization", "x-request-id", "content-length",
            }  # fmt: skip
            assert set(fields) == {*PASSED_UP, *ours}
            assert all(len(values) == 1 for values in fields.values())

    run(work)


def test_the_gateway_speaks_for_itself() -> None:
    async def work() -> None:
        async with fronting(answering(streamed(*HELLO))) as (running, upstream):
            headers = {"accept-encoding": "gzip, br", "x-request-id": "mine-1", "user-agent": "client/1"}
            reply = await ask(running.port, chat(), headers=headers)
            head = upstream.peers[0].requests[0][0]
            assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
            fields = fields_of(head)
            assert fields["accept-encoding"] == ["identity"]
            assert fields["authorization"] == ["Bearer sk-upstream-secret"]
            assert fields["content-type"] == ["application/json"]
            assert fields["host"] == [f"127.0.0.1:{upstream.port}"]
            assert fields["user-agent"][0].startswith("tidegate/")
            assert fields["x-request-id"] == ["mine-1"]
            assert reply.headers["x-request-id"] == "mine-1"

    run(work)


def test_the_client_s_key_never_goes_up_in_any_of_its_forms() -> None:
    async def work() -> None:
        auth = {"mode": "keys", "keys": [{"id": "k1", "sha256": hash_key(KEY)}]}
        async with fronting(answering(streamed(*HELLO)), auth=auth) as (running, upstream):
            for name in ("authorization", "x-api-key", "api-key", "x-goog-api-key"):
                value = f"Bearer {KEY}" if name == "authorization" else KEY
                assert (await ask(running.port, chat(), headers={name: value})).status == 200
            sent = b"".join(head + body for peer in upstream.peers for head, body in peer.requests)
            assert sent.count(b"POST ") == 4
            assert KEY.encode() not in sent

    run(work)


def test_a_provider_s_own_headers_are_sent_and_win_over_the_client_s() -> None:
    async def work() -> None:
        own = {"headers": {"OpenAI-Organization": "org-ours", "X-Extra": "1", "authorization": "Custom ours"}}
        async with fronting(answering(streamed(*HELLO)), provider=own) as (running, upstream):
            await ask(running.port, chat(), headers={"openai-organization": "org-theirs", "x-extra": "2"})
            fields = fields_of(upstream.peers[0].requests[0][0])
            assert fields["openai-organization"] == ["org-ours"]
            assert fields["x-extra"] == ["1"]
            assert fields["authorization"] == ["Custom ours"]

    run(work)


def test_a_base_url_s_path_is_kept_and_no_key_is_no_header() -> None:
    async def work() -> None:
        async with fronting(answering(streamed(*HELLO))) as (_, upstream):
            base_url = f"http://127.0.0.1:{upstream.port}/proxy/openai/v1/"
            settings = {"base_url": base_url, "api_key": ""}
            async with fronting(answering(), provider=settings) as (running, _):
                assert (await ask(running.port, chat())).status == 200
            head = upstream.peers[0].requests[0][0]
            assert head.startswith(b"POST /proxy/openai/v1/chat/completions HTTP/1.1\r\n")
            assert b"authorization" not in head

    run(work)


def head_with(lines: dict[str, str], said: bytes) -> bytes:
    """Give an answer with more header lines."""
    extra = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode()
    status, _, rest = said.partition(b"\r\n")
    return status + b"\r\n" + extra + rest


@pytest.mark.parametrize(
    "said", [streamed(*HELLO), answer(200, MESSAGE), answer(429, {"error": {"message": "no"}})], ids=str
)
def test_only_what_is_listed_comes_down(said: bytes) -> None:
    async def work() -> None:
        lines = {**PASSED_DOWN, **dict.fromkeys(STOPPED_DOWN, CANARY)}
        lines["x-ratelimit-remaining-requests"] = "99"
        lines["X-RateLimit-Reset-Tokens"] = "6m0s"
        async with fronting(answering(head_with(lines, said))) as (running, _):
            reply = await ask(running.port, chat(stream=b"event-stream" in said))
            assert CANARY not in str(reply.headers)
            assert {name: reply.headers.get(name) for name in PASSED_DOWN} == PASSED_DOWN
            assert reply.headers["x-upstream-ratelimit-remaining-requests"] == "99"
            assert reply.headers["x-upstream-ratelimit-reset-tokens"] == "6m0s"
            assert not any(name.startswith("x-ratelimit") for name in reply.headers)
            ours = {
                "content-type", "x-request-id", "date", "transfer-encoding", "content-length", "cache-control",
                "x-accel-buffering", "x-tidegate-target", "x-tidegate-attempts",
                "x-upstream-ratelimit-remaining-requests", "x-upstream-ratelimit-reset-tokens",
            }  # fmt: skip
            assert set(reply.headers) <= {*PASSED_DOWN, *ours}

    run(work)


@pytest.mark.parametrize("name", ["request-id", "x-request-id", "x-amzn-requestid"])
@pytest.mark.parametrize("status", [200, 400])
def test_a_provider_s_id_of_a_request_is_told_beside_ours(name: str, status: int) -> None:
    async def work() -> None:
        said: dict[str, object] = {"choices": []} if status == 200 else {"error": {"message": "no"}}
        async with fronting(answering(answer(status, said, f"{name}: theirs-1"))) as (running, _):
            reply = await ask(running.port, chat(stream=False), headers={"x-request-id": "ours-1"})
            assert reply.status == status
            ids = {name: value for name, value in reply.headers.items() if "request" in name and "id" in name}
            assert ids == {"x-request-id": "ours-1", "x-upstream-request-id": "theirs-1"}

    run(work)


def test_a_stream_s_head_tells_proxies_not_to_hold_it() -> None:
    async def work() -> None:
        async with fronting(answering(streamed(*HELLO))) as (running, _):
            reply = await ask(running.port, chat(), headers={"accept-encoding": "gzip"})
            assert reply.headers["content-type"] == "text/event-stream"
            assert reply.headers["cache-control"] == "no-cache"
            assert reply.headers["x-accel-buffering"] == "no"
            assert "content-encoding" not in reply.headers

    run(work)


SECRET = "sk-upstream-secret"


@pytest.mark.parametrize("status", [200, 400, 429, 500])
def test_a_provider_that_quotes_our_key_in_any_member_or_header_does_not_give_it_away(status: int) -> None:
    async def work() -> None:
        error = {name: f"{name} {SECRET}" for name in ("message", "type", "code", "param")}
        said = answer(status, {"error": error}, f"openai-organization: {SECRET}")
        async with fronting(answering(said)) as (running, _):
            reply = await ask(running.port, chat(stream=False))
            assert reply.status >= 400
            assert SECRET not in str(reply.headers) + reply.body.decode()
            assert b"type ***" in reply.body

    run(work)


def test_a_stream_whose_head_or_error_frame_quotes_our_key_does_not_give_it_away() -> None:
    async def work() -> None:
        bad = b'data: {"error": {"message": "m %b", "type": "t %b"}}\n\n' % (SECRET.encode(), SECRET.encode())
        said = head_with({"openai-organization": SECRET}, streamed(word("Hel"), bad))
        async with fronting(answering(said)) as (running, _):
            reply = await ask(running.port, chat())
            assert reply.status == 200
            assert SECRET not in str(reply.headers) + reply.body.decode()
            assert b"m ***" in reply.body

    run(work)


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_is_compressed_all_the_same_is_refused(*, stream: bool) -> None:
    async def work() -> None:
        said = head_with({"content-encoding": "gzip"}, streamed(*HELLO) if stream else answer(200, MESSAGE))
        async with fronting(answering(said)) as (running, _):
            reply = await ask(running.port, chat(stream=stream))
            assert (reply.status, error_of(reply)["code"]) == (502, "bad_frame")
            assert "compressed" in error_of(reply)["message"]

    run(work)


def test_a_status_beyond_http_becomes_502() -> None:
    async def work() -> None:
        async with fronting(answering(answer(700, {"error": {"message": "odd"}}))) as (running, _):
            assert (await ask(running.port, chat())).status == 502

    run(work)
