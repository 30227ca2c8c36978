"""Signs webhooks. Pure: the time is handed in. Source: Standard Webhooks 1.0.0, standardwebhooks.com."""

import base64
import binascii
import hashlib
import hmac
from typing import Final

PREFIX: Final = "whsec_"


def key_of(secret: str) -> bytes:
    """Give the key that a secret stands for: what follows `whsec_`, decoded, or else the text itself.

    Errors: ValueError, without the secret, when what follows is not base64 or nothing.
    """
    if not secret.startswith(PREFIX):
        return secret.encode()
    text = secret.removeprefix(PREFIX).rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a webhook secret that begins with whsec_ goes on in base64") from None
    if not key:
        raise ValueError("a webhook secret is not empty")
    return key


def signature(key: bytes, ident: str, stamp: int, body: bytes) -> str:
    """Give the value of `webhook-signature`. Shape: `stamp` is the Unix time of `webhook-timestamp`."""
    digest = hmac.digest(key, b"%s.%d." % (ident.encode(), stamp) + body, hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()
