"""`tidegate keys hash`."""

import secrets
import sys

from tidegate.admission.identity import hash_key


def run(key: str | None) -> int:
    """Print a key's digest; gives the exit code."""
    made = False
    if key is None:
        if sys.stdin.isatty():
            key, made = f"tg-{secrets.token_urlsafe(32)}", True
        else:
            key = sys.stdin.read().strip()
    try:
        digest = hash_key(key)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    if made:
        print(f"key     {key}\nsha256  {digest}\nThe key is shown this once; put the sha256 into auth.keys.")  # noqa: T201
    else:
        print(digest)  # noqa: T201
    return 0
