"""AWS Signature Version 4, the verifying side, for the mock's Bedrock.

The credentials are constants that everybody may know: what is checked is that a client signs right, not who it is.
Source: AWS General Reference, Signature Version 4 signing process.
"""

import hashlib
import hmac
import re
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, unquote

from msgspec import Struct

from tidegate.mock.ask import BadAsk, Headers

ACCESS_KEY: Final = "AKIDTIDEGATEMOCK000"
SECRET_KEY: Final = "mock-secret-access-key"  # noqa: S105 (public by design)
SESSION_TOKEN: Final = "mock-session-token"  # noqa: S105 (public by design)
EXPIRED_TOKEN: Final = "mock-expired-session-token"  # noqa: S105 (public by design)
SERVICE: Final = "bedrock"
SKEW_S: Final = 300
MOST_SIGNED: Final = 64
MOST_BYTES: Final = 8 * 1024
_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_END: Final = "aws4_request"
_STAMP: Final = "%Y%m%dT%H%M%SZ"
_PARTS: Final = ("Credential", "SignedHeaders", "Signature")
_PART: Final = re.compile(r"(\w+)=([^\s,]+)")
_DATE: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z")


class _Claim(Struct, frozen=True):
    """What an Authorization header says. Shape: `signed` are the names of headers in their order."""

    key: str
    day: str
    region: str
    service: str
    end: str
    signed: tuple[str, ...]
    signature: str

    def scope(self) -> str:
        return f"{self.day}/{self.region}/{self.service}/{self.end}"


def verify(method: bytes, target: str, headers: Headers, body: bytes, now: float) -> None:
    """Check a request's signature. Shape: `now` in seconds since 1970. Errors: BadAsk (403, `code` is AWS's exception)."""
    said = _joined(headers)
    claim = _claim(said.get("authorization", ""))
    _check_credentials(claim, said.get("x-amz-security-token"))
    stamp = said.get("x-amz-date", "")
    _check_signed(claim, said)
    _check_clock(claim, stamp, now)
    digest = said.get("x-amz-content-sha256") or hashlib.sha256(body).hexdigest()
    if digest != hashlib.sha256(body).hexdigest():
        raise _invalid("The value of 'X-Amz-Content-SHA256' does not match the body.")
    path, _, query = target.partition("?")
    request = "\n".join(
        (
            method.decode("latin-1"),
            _canonical_path(path),
            _canonical_query(query),
            *(f"{name}:{said[name]}" for name in claim.signed),
            "",
            ";".join(claim.signed),
            digest,
        )
    )
    if not hmac.compare_digest(_signature(claim, stamp, request).encode(), claim.signature.encode()):
        raise _invalid(
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access "
            "Key and signing method. Consult the service documentation for details."
        )


def _refused(code: str, words: str) -> BadAsk:
    return BadAsk(words, status=403, code=code)


def _invalid(words: str) -> BadAsk:
    return _refused("InvalidSignatureException", words)


def _joined(headers: Headers) -> dict[str, str]:
    """Give headers by their names, in lower case; blanks in a row are one, and values of one name are joined."""
    said: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        value = " ".join(raw_value.decode("latin-1").split())
        said[name] = f"{said[name]},{value}" if name in said else value
    return said


def _claim(authorization: str) -> _Claim:
    if not authorization:
        raise _refused("MissingAuthenticationTokenException", "Missing Authentication Token")
    algorithm, _, rest = authorization[:MOST_BYTES].partition(" ")
    if algorithm != _ALGORITHM:
        raise _refused("IncompleteSignatureException", f"Unsupported AWS 'algorithm': '{algorithm[:32]}'.")
    said = dict(_PART.findall(rest))
    for part in _PARTS:
        if part not in said:
            raise _refused("IncompleteSignatureException", f"Authorization header requires '{part}' parameter.")
    credential = said["Credential"].split("/")
    signed = tuple(said["SignedHeaders"].split(";"))
    if len(credential) != 5 or len(signed) > MOST_SIGNED:
        raise _refused("IncompleteSignatureException", "Credential must have exactly 5 slash-delimited elements.")
    key, day, region, service, end = credential
    return _Claim(key, day, region, service, end, signed, said["Signature"])


def _check_credentials(claim: _Claim, token: str | None) -> None:
    if token == EXPIRED_TOKEN:
        raise _refused("ExpiredTokenException", "The security token included in the request is expired")
    if claim.key != ACCESS_KEY or token not in {None, SESSION_TOKEN}:
        raise _refused("UnrecognizedClientException", "The security token included in the request is invalid.")
    if claim.service != SERVICE:
        raise _invalid(f"Credential should be scoped to correct service: '{SERVICE}'.")
    if claim.end != _END:
        raise _invalid(f"Credential should be scoped with a valid terminator: '{_END}'.")


def _check_signed(claim: _Claim, said: dict[str, str]) -> None:
    if "host" not in claim.signed:
        raise _invalid("'Host' must be a 'SignedHeader' in the AWS Authorization.")
    if list(claim.signed) != sorted(set(claim.signed)):
        raise _invalid("'SignedHeaders' must be in order, each once.")
    for name in said:
        if name.startswith("x-amz-") and name not in claim.signed:
            raise _invalid(f"'{name}' must be a 'SignedHeader' in the AWS Authorization.")
    for name in claim.signed:
        if name not in said:
            raise _invalid(f"The signed header '{name}' is not in the request.")


def _check_clock(claim: _Claim, stamp: str, now: float) -> None:
    if not _DATE.fullmatch(stamp):
        raise _refused(
            "IncompleteSignatureException", "Authorization header requires existence of an 'X-Amz-Date' header."
        )
    if not stamp.startswith(claim.day):
        raise _invalid("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP.")
    try:
        late_s = now - datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise _invalid(f"'X-Amz-Date' is no date: {stamp}.") from None
    if late_s > SKEW_S:
        raise _invalid(f"Signature expired: {stamp} is now earlier than {SKEW_S // 60} min. ago.")
    if late_s < -SKEW_S:
        raise _invalid(f"Signature not yet current: {stamp} is still later than {SKEW_S // 60} min. from now.")


def _canonical_path(path: str) -> str:
    """Give a path, encoded once more than it came: all services but S3 do so."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            kept = kept[:-1]
        elif segment not in {"", "."}:
            kept.append(segment)
    slash = "/" if kept and path.endswith("/") else ""
    return quote("/" + "/".join(kept) + slash, safe="/~")


def _canonical_query(query: str) -> str:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return "&".join(
        f"{name}={value}" for name, value in sorted((_again(name), _again(value)) for name, _, value in pairs)
    )


def _again(text: str) -> str:
    return quote(unquote(text), safe="-_.~")


def _signature(claim: _Claim, stamp: str, request: str) -> str:
    digest = hashlib.sha256(request.encode("latin-1", "replace")).hexdigest()
    text = f"{_ALGORITHM}\n{stamp}\n{claim.scope()}\n{digest}"
    key = f"AWS4{SECRET_KEY}".encode()
    for part in (claim.day, claim.region, claim.service, claim.end):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()
