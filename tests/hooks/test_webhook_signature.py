"""Webhooks are signed as Standard Webhooks has it, by the judgement of its own library."""

import base64
import json
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tidegate.hooks.signature import key_of, signature

BODY = json.dumps({"id": "p", "text": "ü"}).encode()


@pytest.mark.parametrize(
    "secret", ["whsec_" + base64.b64encode(bytes(range(24))).decode(), "whsec_YWJjZA==", "whsec_YWJjZA"]
)
def test_the_libraries_of_receivers_accept_a_signature(secret: str) -> None:
    now = int(time.time())
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": signature(key_of(secret), "msg_1", now, BODY),
    }
    assert Webhook(secret).verify(BODY, headers) == json.loads(BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY, {**headers, "webhook-id": "msg_2"})


def test_a_plain_secret_is_its_own_key() -> None:
    assert key_of("correct horse") == b"correct horse"
    assert key_of("") == b""


@pytest.mark.parametrize("secret", ["whsec_", "whsec_*sentinel*", "whsec_sentinel!"])
def test_a_broken_secret_is_an_error_that_does_not_show_it(secret: str) -> None:
    with pytest.raises(ValueError) as caught:
        key_of(secret)
    assert "sentinel" not in str(caught.value)
