from typing import get_args

import pytest

from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.upstream.compatible import SERVERS
from tidegate.upstream.kinds import KINDS, PASSAGE, road
from tidegate.upstream.settings import KindName
from tidegate.upstream.signing import Auth
from tidegate.wire import Frame
from tidegate.wire.sse import SseFramer

CLIENTS = ("openai_chat", "openai_responses", "anthropic")


def test_every_kind_of_the_file_has_rows_and_no_other_has() -> None:
    assert set(get_args(KindName)) == {*KINDS, "local"}
    assert set(SERVERS) < set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_says_how_it_is_signed_and_where_it_is(kind: str) -> None:
    row = KINDS[kind]
    assert row.auth in get_args(Auth)
    assert row.base_url.startswith("http") or "base_url" in row.needs or kind == "mock"
    for way in row.rows:
        assert way.stream.startswith("/")
        assert way.whole.startswith("/")
        assert way.framer().feed(b"") == []


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_pass_only_where_dialect_and_framing_are_the_client_s(kind: str) -> None:
    for client in CLIENTS:
        row, passes = road(KINDS[kind], client)
        if passes is None:
            assert row is KINDS[kind].rows[0]
        else:
            assert passes.name == client == row.dialect.name
            assert isinstance(row.framer(), SseFramer) or kind == "bedrock_anthropic"  # which gives frames of events
    row, passes = road(KINDS[kind], PASSAGE.name)
    assert row.dialect is passes is PASSAGE


def test_anthropic_on_bedrock_gives_its_clients_events_whatever_its_framing() -> None:
    row = KINDS["bedrock_anthropic"].rows[0]
    event = Frame(b"event: ping\ndata: {}\n\n")
    assert row.passes is not None
    assert row.passes.look(event)[1] is None
    assert row.media == b"application/vnd.amazon.eventstream"


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_speaks_chat_is_asked_for_chat_and_embeddings(name: str) -> None:
    kind, server = KINDS[name], SERVERS[name]
    assert isinstance(kind.rows[0].dialect, OpenAIChat)
    assert [row.stream for row in kind.rows] == ["/chat/completions", "/embeddings"]
    assert kind.needs == (() if server.base_url else ("base_url",))
    assert kind.needs_key is server.needs_key
    assert server.needs_key is server.base_url.startswith("https://")
