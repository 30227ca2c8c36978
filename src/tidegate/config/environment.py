"""What the usual variables say: the providers where there is no file, else the built-in mock; and the proxy to use."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from tidegate.config.mistakes import At, Mistakes
from tidegate.config.tree import Node, Rows, Table, from_variable
from tidegate.upstream.settings import KindName

DEMO: Final = "tidegate.demo.ngram:Model"
"""The handler of the demo's own model."""
_MOCKED: Final = "the built-in mock provider serves the model mock"


class Known(Struct, frozen=True):
    """A provider that the usual variables name. Shape: the variables begin with `prefix`; `root` follows what its address says."""

    name: KindName
    prefix: str
    models: tuple[str, ...]
    root: str = ""

    @property
    def key(self) -> str:
        """The variable that holds its key."""
        return f"{self.prefix}_API_KEY"


KNOWN: Final = (
    Known(
        "openai", "OPENAI",
        ("gpt-5", "gpt-5-mini", "gpt-5-nano", "gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-4o", "gpt-4o-mini", "o3", "o4-mini"),
    ),
    # Names change faster than releases come: anthropic/NAME is any of them.
    Known("anthropic", "ANTHROPIC", ("claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5", "anthropic/*"), "/v1"),
    Known("gemini", "GEMINI", ("gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini/*"), "/v1beta"),
)  # fmt: skip
"""By their variables. Anthropic's and Google's own clients leave the version out of the address."""


def tree(environ: Mapping[str, str], *, for_demo: bool) -> tuple[Node, tuple[str, ...]]:
    """Give the settings' root node, and what to tell about it. Shape: a demo has a model of its own and the mock as well."""
    providers: list[Node] = []
    models: list[Node] = []
    notes: list[str] = []
    keyed = False
    for known in KNOWN:
        if environ.get(known.key):
            keyed = True
            names = _names(known, environ)
            providers.append(_provider(known, environ))
            models.extend(_model(name, known.name, f"{known.prefix}_MODELS") for name in names)
            notes.append(f"no configuration file: {known.key} is set, its provider serves {', '.join(names)}")
        elif environ.get(f"{known.prefix}_BASE_URL"):
            notes.append(f"{known.prefix}_BASE_URL is not used, as {known.key} is not set")
    if for_demo:
        handler = _table("environment", {"handler": DEMO}, {})
        providers.append(_table("environment", {"name": "demo", "kind": "local"}, {"local": handler}))
        models.append(_model("demo", "demo", "environment"))
    if for_demo or not keyed:
        *some, last = (known.key for known in KNOWN)
        notes.append(_MOCKED if keyed else f"no configuration file and no {', '.join(some)} or {last}: {_MOCKED}")
        providers.append(_table("environment", {"name": "mock", "kind": "mock"}, {}))
        models.append(_model("mock", "mock", "environment"))
    at = At("environment")
    lists = {"providers": Rows(at, tuple(providers)), "models": Rows(at, tuple(models))}
    return _table("environment", {}, lists), tuple(notes)


def proxy_of(base_url: str, environ: Mapping[str, str]) -> str:
    """Give the URL of the proxy that requests to `base_url` go through; empty for none. Errors: ConfigError.

    Shape: HTTPS_PROXY and NO_PROXY, or both in lower case; a plain http:// address needs no tunnel and gets none.
    """
    url = urlsplit(base_url)
    name = next((name for name in ("https_proxy", "HTTPS_PROXY") if environ.get(name)), "")
    if url.scheme != "https" or not name or _goes_direct(url.hostname or "", url.port or 443, environ):
        return ""
    proxy = environ[name] if "://" in environ[name] else f"http://{environ[name]}"
    try:
        parts = urlsplit(proxy)
        good = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        # The value is not repeated: it may hold credentials.
        Mistakes().fail(At(name), "expected the URL of a proxy such as http://proxy.example.com:3128")
    return proxy


def _goes_direct(host: str, port: int, environ: Mapping[str, str]) -> bool:
    """Give whether NO_PROXY names a host, a domain above it, or everything."""
    listed = environ.get("no_proxy") or environ.get("NO_PROXY", "")
    for entry in (part.strip().lower() for part in listed.split(",")):
        name = entry.removesuffix(f":{port}").removeprefix("*.").strip("[].")
        if entry == "*" or (name and (host == name or host.endswith(f".{name}"))):
            return True
    return False


def _names(known: Known, environ: Mapping[str, str]) -> tuple[str, ...]:
    names = (name.strip() for name in environ.get(f"{known.prefix}_MODELS", "").split(","))
    return tuple(filter(None, names)) or known.models


def _provider(known: Known, environ: Mapping[str, str]) -> Node:
    given = {"api_key": from_variable(known.key, environ[known.key])}
    variable = f"{known.prefix}_BASE_URL"
    url = environ.get(variable, "").rstrip("/")
    if url:
        given["base_url"] = from_variable(variable, url.removesuffix(known.root) + known.root)
    return _table("environment", {"name": known.name, "kind": known.name}, given)


def _model(name: str, provider: str, source: str) -> Node:
    target = _table(source, {"provider": provider}, {})
    return _table(source, {"name": name}, {"targets": Rows(target.at, (target,))})


def _table(source: str, texts: Mapping[str, str], nodes: Mapping[str, Node]) -> Table:
    entries = {**{name: from_variable(source, text) for name, text in texts.items()}, **nodes}
    return Table(At(source), entries, {name: At(source) for name in entries})
