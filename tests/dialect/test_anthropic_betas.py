"""Betas that a header names, in the body that Bedrock reads."""

import json
from typing import Any

import pytest

from tidegate.dialect.anthropic.betas import with_betas

MODEL = "us.anthropic.claude-sonnet-4-6-v1:0"
CONTEXT, THINKING, EFFORT = "context-management-2025-06-27", "interleaved-thinking-2025-05-14", "effort-2025-11-24"
BODY = b'{"max_tokens": 1.0e1}'


def betas_in(header: str, model: str = MODEL, **members: Any) -> tuple[Any, tuple[str, ...]]:
    written = with_betas(json.dumps(members).encode(), model, {b"anthropic-beta": header.encode("latin-1")})
    return json.loads(written.body).get("anthropic_beta"), written.dropped


def test_what_the_header_names_is_in_the_body() -> None:
    assert betas_in(f"{CONTEXT}, {THINKING},,{CONTEXT}") == ([CONTEXT, THINKING], ())


def test_what_the_body_names_itself_stays_and_comes_first() -> None:
    assert betas_in(CONTEXT, anthropic_beta=["of-tomorrow", CONTEXT]) == (["of-tomorrow", CONTEXT], ())
    assert betas_in(CONTEXT, anthropic_beta=None) == ([CONTEXT], ())


def test_what_amazon_refuses_is_left_out_and_told() -> None:
    assert betas_in(f"claude-code-20250219,{THINKING},\xe9") == ([THINKING], ("anthropic-beta",))


@pytest.mark.parametrize(("model", "knows"), [("eu.anthropic.claude-opus-4-5-20251101-v1:0", True), (MODEL, False)])
def test_a_beta_of_one_model_is_told_to_it_alone(model: str, *, knows: bool) -> None:
    assert betas_in(EFFORT, model) == (([EFFORT], ()) if knows else (None, ("anthropic-beta",)))


@pytest.mark.parametrize("headers", [{}, {b"anthropic-beta": b""}, {b"anthropic-beta": b"of-tomorrow"}])
def test_a_body_to_which_nothing_is_added_keeps_its_bytes(headers: dict[bytes, bytes]) -> None:
    assert with_betas(BODY, MODEL, headers).body is BODY


@pytest.mark.parametrize("named", [b'"x"', b"[1]", b"{}"])
def test_a_list_that_is_none_is_left_to_the_provider(named: bytes) -> None:
    body = b'{"anthropic_beta":%b}' % named
    assert with_betas(body, MODEL, {b"anthropic-beta": CONTEXT.encode()}).body is body
