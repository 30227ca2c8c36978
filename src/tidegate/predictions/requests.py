"""What a request for a prediction says: the members of its body, its id, and how it wants the answer."""

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct

from tidegate.hooks.addresses import GuardError, PrivateError, checked
from tidegate.verdict import BAD_REQUEST, MEDIA_TYPE, Refused

Mode = Literal["sync", "async", "events"]

EVENTS: Final = "text/event-stream"
MAX_URL_CHARS: Final = 2048
MAX_MEMBERS: Final = 1000
"""How many entries a context, and how many words a filter, may have."""
WEBHOOK_EVENTS: Final = ("start", "output", "logs", "completed")

_ID: Final = re.compile(r"[A-Za-z0-9_.~-]{1,128}")
_ID_MEANS: Final = "an id is 1 to 128 of the characters A-Z a-z 0-9 _ . ~ -, and not '.' or '..'"
_LISTED: Final = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*+"?)++')
_PARTS: Final = re.compile(r'(?:[^;"]|"(?:\\.|[^"\\])*+"?)++')
_HOST: Final = re.compile(rb"(?:\[([0-9a-f:.]+)\]|([^:\[\]]+))(?::[0-9]{0,5})?")
_BEARS_KEY: Final = frozenset((b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"))
_ELSEWHERE: Final = frozenset((b"cross-site", b"same-site"))
_FORWARDED: Final = frozenset(
    (
        b"forwarded",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-real-ip",
        b"cf-connecting-ip",
    )
)
"""What proxies add to requests."""
_USUAL: Final = frozenset((b"localhost", b"127.0.0.1"))
_NO_NAME: Final = (
    "without keys, this machine is answered at localhost or an IP address, and not at another name: ask there, "
    "ask for keys (auth.mode), or name the proxy in between (server.trusted_proxies)"
)
_NOT_PUBLIC: Final = "its address is not public; predictions.webhooks.allow_private would allow it"
_DIGITS: Final = re.compile(r"[0-9]{1,9}")
_EVENT_ID: Final = re.compile(rb"[0-9]{1,18}")
_PLACE: Final = re.compile(r" - at `\$\.?([a-z_]*)[^`]*`$")


class Trouble(Struct, frozen=True):
    """What is wrong with a body, and where. Shape: as Cog's clients know it; `msg` never repeats what came."""

    loc: tuple[str, ...]
    msg: str
    type: str = "value_error"


class Body(Struct, frozen=True):
    """The members of a body as they came. Shape: others are not looked at; `input` is not read yet, nor empty."""

    input: Raw = Raw(b"null")
    id: str | None = None
    context: dict[str, str] | None = None
    webhook: str | None = None
    webhook_events_filter: list[str] | None = None
    timeout: float | None = None


class Wish(Struct, frozen=True):
    """How a client wants the answer. Shape: `wait_s` is how long an answer may be waited for that may come later.

    Shape: `detached` says that the prediction is to go on when the client leaves.
    """

    mode: Mode
    wait_s: float = 0.0
    detached: bool = False


_decoder: Final = msgspec.json.Decoder(Body)


def unprocessable(*troubles: Trouble) -> Refused:
    """Give the refusal of a body that can be read, and makes no sense."""
    first = troubles[0]
    message = f"{'.'.join(first.loc)}: {first.msg}"
    body = msgspec.json.encode({"detail": troubles})
    return Refused(BAD_REQUEST, message, param=".".join(first.loc), status=422, body=(b"application/json", body))


def trouble_with(name: str, message: str) -> Refused:
    """Give the refusal of one member of a body."""
    return unprocessable(Trouble(("body", name), message))


def malformed(error: Exception) -> Refused:
    """Give the refusal of a body that cannot be read."""
    why = str(error) if isinstance(error, msgspec.DecodeError) else "it is not UTF-8"
    return Refused(BAD_REQUEST, f"the body is not JSON: {'it is too deep' if _deep(error) else why}")


def check_kind(headers: Mapping[bytes, bytes]) -> None:
    """Say whether a body's type can be read; one without a type is taken for JSON. Errors: Refused (media_type)."""
    kind = headers.get(b"content-type")
    if kind is not None and not _is_json(kind):
        raise Refused(MEDIA_TYPE, "send the body as 'Content-Type: application/json'")


def check_site(headers: Mapping[bytes, bytes]) -> None:
    """Refuse what a page of elsewhere lets a browser do without asking us. Errors: Refused (bad_request), with 403.

    Shape: a request with a key is no such page's doing; nor, from a browser that does not say whose page it is, one of
    JSON: browsers ask before they send these elsewhere.
    Source: Fetch, "CORS-safelisted request-header"; W3C Fetch Metadata.
    """
    if not _BEARS_KEY.isdisjoint(headers):
        return
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        foreign = site.strip() in _ELSEWHERE
    else:
        foreign = origin is not None and origin.partition(b"://")[2] != headers.get(b"host")
        foreign = foreign and not _is_json(headers.get(b"content-type", b""))
    if foreign:
        raise Refused(BAD_REQUEST, "pages of other origins may not ask for this", status=403)


def check_host(peer: str, headers: Mapping[bytes, bytes]) -> None:
    """Refuse on this machine a host that anybody can have. Errors: Refused (bad_request), with 403.

    Shape: a page whose own name is made to lead here is, to its browser, a page of ours. It cannot have an address for a
    name, nor `localhost`.
    """
    host = headers.get(b"host")
    if host is None or host.partition(b":")[0] in _USUAL:
        return
    if _is_near(peer) and not _is_local(host):
        raise Refused(BAD_REQUEST, _NO_NAME, status=403)


def _is_local(host: bytes) -> bool:
    read = _HOST.fullmatch(host.strip().lower())
    if read is None:
        return False
    address, name = read.groups()
    if name is not None and (name.rstrip(b".") == b"localhost" or name.rstrip(b".").endswith(b".localhost")):
        return True
    return _address(((address or name) or b"").decode("latin-1")) is not None


def _is_near(peer: str) -> bool:
    address = _address(peer.partition("%")[0])
    return address is not None and (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def check_near(peer: str, headers: Mapping[bytes, bytes]) -> None:
    """Refuse whoever is not on this machine. Errors: Refused (bad_request), with 403.

    Shape: what says that it was forwarded comes from elsewhere, though the proxy be here.
    """
    if not _is_near(peer) or not _FORWARDED.isdisjoint(headers):
        raise Refused(BAD_REQUEST, "only this machine may ask for this", status=403)


def read_body(body: bytes, headers: Mapping[bytes, bytes], *, private: bool = False) -> Body:
    """Read a request's body. Errors: Refused (bad_request), with 400 or 422.

    Shape: no body at all is an empty one; `private` says that webhooks may go to addresses that are not public.
    """
    if not body and b"content-type" not in headers:
        return Body()
    try:
        read = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _mistyped(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error) from error
    if read.id is not None and not is_id(read.id):
        raise trouble_with("id", _ID_MEANS)
    if read.timeout is not None and not read.timeout > 0.0:
        raise trouble_with("timeout", "it must be more than 0 seconds")
    if len(read.context or ()) > MAX_MEMBERS:
        raise trouble_with("context", f"it may have {MAX_MEMBERS} entries at most")
    _check_webhook(read, private=private)
    return read


def _is_json(kind: bytes) -> bool:
    media = kind.partition(b";")[0].strip().lower()
    return media == b"application/json" or (media.startswith(b"application/") and media.endswith(b"+json"))


def is_id(ident: str) -> bool:
    """Say whether this can name a prediction."""
    return _ID.fullmatch(ident) is not None and ident not in {".", ".."}


def check_path_id(ident: str) -> None:
    """Refuse an id in a path that can name no prediction. Errors: Refused."""
    if not is_id(ident):
        raise unprocessable(Trouble(("path", "id"), _ID_MEANS))


def webhook_events(body: Body) -> Sequence[str]:
    """Give what a body's webhook is to be told."""
    return WEBHOOK_EVENTS if body.webhook_events_filter is None else body.webhook_events_filter


def wish_of(headers: Mapping[bytes, bytes]) -> Wish:
    """Give how a client wants its answer."""
    wish = _preferred(headers.get(b"prefer", b"").decode("latin-1"))
    return Wish("events", detached=wish.detached) if wants_events(headers) else wish


def wants_events(headers: Mapping[bytes, bytes]) -> bool:
    """Say whether a client takes server-sent events, and names them. Source: RFC 9110 section 12.5.1."""
    for accepted in _LISTED.findall(headers.get(b"accept", b"").decode("latin-1")):
        media, *parameters = _PARTS.findall(accepted)
        if media.strip().lower() == EVENTS and _weight(parameters) > 0.0:
            return True
    return False


def last_event(headers: Mapping[bytes, bytes]) -> int | None:
    """Give the last event that a client has; None where it does not say. Errors: Refused (bad_request)."""
    given = headers.get(b"last-event-id", b"").strip()
    if not given:
        return None
    if _EVENT_ID.fullmatch(given) is None:
        raise Refused(BAD_REQUEST, "Last-Event-ID is not the number of an event", param="last-event-id")
    return int(given)


def _weight(parameters: Sequence[str]) -> float:
    """Give what `q` says. Shape: 1 where it says nothing that can be read."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 1.0
    return 1.0


def _preferred(prefer: str) -> Wish:
    """Read the header. Shape: `wait` counts where an answer may come later, since who said nothing of that waits anyhow.

    Source: RFC 7240 section 2: names without case, values quoted or not, the first of a name counts.
    """
    found: dict[str, str] = {}
    for preference in _LISTED.findall(prefer):
        name, *parameters = (_pair(part) for part in _PARTS.findall(preference))
        found.setdefault(*name)
        if name[0] == "respond-async":
            for key, value in parameters:
                found.setdefault(key, value)
    if "respond-async" not in found:
        return Wish("sync")
    wait = found.get("wait", "")
    return Wish("async", float(wait) if _DIGITS.fullmatch(wait) else 0.0, detached=True)


def _pair(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    value = value.strip()
    if len(value) > 1 and value.startswith('"') and value.endswith('"'):
        value = value[1:-1]
    return name.strip().lower(), value


def _check_webhook(body: Body, *, private: bool) -> None:
    if body.webhook is not None:
        _check_url(body.webhook, private=private)
    words = webhook_events(body)
    if len(words) > MAX_MEMBERS or not set(words) <= set(WEBHOOK_EVENTS):
        raise trouble_with("webhook_events_filter", f"it may have {', '.join(WEBHOOK_EVENTS)}")


def _check_url(text: str, *, private: bool) -> None:
    """Refuse a URL that can never be asked for. Shape: what a name leads to is looked at each time it is."""
    if len(text) > MAX_URL_CHARS:
        raise trouble_with("webhook", f"it may have {MAX_URL_CHARS} characters")
    try:
        checked(text, allow_private=private)
    except PrivateError as error:
        raise trouble_with("webhook", _NOT_PUBLIC) from error
    except GuardError as error:
        raise trouble_with("webhook", str(error)) from error


def _mistyped(error: msgspec.ValidationError) -> Refused:
    """Give the refusal of a member of another type. Shape: its words are of types and never of what came."""
    text = str(error)
    place = _PLACE.search(text)
    name = place[1] if place is not None and place[1] else "__root__"
    return trouble_with(name, _PLACE.sub("", text))


def _deep(error: Exception) -> bool:
    return isinstance(error, RecursionError)
