"""What the usual variables say: the providers where there is no file, else the built-in mock; and the proxy to use."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from tidegate.config.mistakes import At, Mistakes
from tidegate.config.tree import Node, Rows, Table, from_variable

MODELS: Final = (
    "gpt-5", "gpt-5-mini", "gpt-5-nano", "gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-4o", "gpt-4o-mini", "o3", "o4-mini",
)  # fmt: skip

_MOCKED: Final = "the built-in mock provider serves the model mock"


def tree(environ: Mapping[str, str], *, with_mock: bool) -> tuple[Node, tuple[str, ...]]:
    """Give the settings' root node, and what to tell about it."""
    providers: list[Node] = []
    models: list[Node] = []
    notes: list[str] = []
    if environ.get("OPENAI_API_KEY"):
        providers.append(_openai(environ))
        names = [name.strip() for name in environ.get("OPENAI_MODELS", "").split(",") if name.strip()] or MODELS
        models.extend(_model(name, "openai", "OPENAI_MODELS") for name in names)
        notes.append(f"no configuration file: OPENAI_API_KEY is set, its provider serves {', '.join(names)}")
    elif environ.get("OPENAI_BASE_URL"):
        notes.append("OPENAI_BASE_URL is not used, as OPENAI_API_KEY is not set")
    if with_mock or not providers:
        notes.append(_MOCKED if providers else f"no configuration file and no OPENAI_API_KEY: {_MOCKED}")
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


def _openai(environ: Mapping[str, str]) -> Node:
    members = {"api_key": "OPENAI_API_KEY", "base_url": "OPENAI_BASE_URL"}
    given = {
        name: from_variable(variable, environ[variable]) for name, variable in members.items() if environ.get(variable)
    }
    return _table("environment", {"name": "openai", "kind": "openai"}, given)


def _model(name: str, provider: str, source: str) -> Node:
    target = _table(source, {"provider": provider}, {})
    return _table(source, {"name": name}, {"targets": Rows(target.at, (target,))})


def _table(source: str, texts: Mapping[str, str], nodes: Mapping[str, Node]) -> Table:
    entries = {**{name: from_variable(source, text) for name, text in texts.items()}, **nodes}
    return Table(At(source), entries, {name: At(source) for name in entries})
