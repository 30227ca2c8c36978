"""The settings that serve one handler without a file: what a command line and Cog's variables say."""

import json
from collections.abc import Mapping
from typing import Final

from tidegate.config.mistakes import At
from tidegate.config.tree import Leaf, Node, Rows, Table, from_flag, from_variable

_FLAG: Final = "--predict"
_PORT: Final = "5000"
"""Cog's."""
_VARIABLES: Final[Mapping[str, tuple[str, str]]] = {
    "PORT": ("server.port", ""),
    "COG_SETUP_TIMEOUT": ("local.setup_timeout", "s"),
    "COG_STREAM_HISTORY_CAPACITY": ("predictions.history.max_events", ""),
    "COG_THROTTLE_RESPONSE_INTERVAL": ("predictions.webhooks.interval", "s"),
    "WEBHOOK_AUTH_TOKEN": ("predictions.webhooks.token", ""),
}
"""What Cog's server reads from its environment: the setting that is the same, and the unit that Cog leaves out."""


def tree(
    reference: str, workers: int, environ: Mapping[str, str], *, allow_private: bool = False, near: bool = True
) -> Node:
    """Give the settings' root node. Shape: the model is called as its file or module is; `near` says that it is served to this machine alone."""
    name = from_flag(_FLAG, _name(reference))
    leaves = {
        "server.port": from_flag(_FLAG, _PORT),
        "predictions.shutdown": from_flag(_FLAG, "true"),
        "local.handler": from_flag(_FLAG, reference),
        "local.workers": from_flag("--workers", str(workers)),
        "local.echo": from_flag(_FLAG, "true"),
    }
    if near:  # there is no load balancer that would have to notice
        leaves["server.drain_delay"] = from_flag(_FLAG, "0")
    if allow_private:
        for section in ("files", "webhooks"):
            leaves[f"predictions.{section}.allow_private"] = from_flag("--allow-private", "true")
    for variable, (path, unit) in _VARIABLES.items():
        if environ.get(variable):
            leaves[path] = from_variable(variable, environ[variable] + unit)
    if environ.get("COG_STREAM_HISTORY_CAPACITY") == "0":
        # Cog has no other way to say that nothing is kept; who reads slowly still needs room.
        leaves["predictions.history.mode"] = from_flag(_FLAG, "none")
        del leaves["predictions.history.max_events"]
    provider = _table(_below("local", leaves), name=name, kind=from_flag(_FLAG, "local"))
    model = _table({}, name=name, targets=_row(_table({}, provider=name)))
    rest = {path: leaf for path, leaf in leaves.items() if not path.startswith("local.")}
    return _table(rest, providers=_row(provider), models=_row(model))


def lines(reference: str, workers: int, *, allow_private: bool = False) -> str:
    """Give the lines of a file that stand for the flags."""
    name, handler = _quoted(_name(reference)), _quoted(reference)
    more = ", files: {allow_private: true}, webhooks: {allow_private: true}" if allow_private else ""
    return (
        f"server: {{port: {_PORT}}}\n"
        "providers:\n"
        f"  - name: {name}\n"
        "    kind: local\n"
        f"    local: {{handler: {handler}, workers: {workers}, echo: true}}\n"
        "models:\n"
        f"  - name: {name}\n"
        f"    targets: [{{provider: {name}}}]\n"
        f"predictions: {{shutdown: true{more}}}\n"
    )


def _quoted(text: str) -> str:
    """Give a text as YAML that is that text, whatever is in it."""
    return json.dumps(text.replace("$", "$$"))


def _name(reference: str) -> str:
    """Give what a model is called by default."""
    place = reference.rpartition(":")[0] or reference
    if place.endswith(".py"):
        return place.removesuffix(".py").rpartition("/")[2] or "model"
    return place.rpartition(".")[2] or "model"


def _below(section: str, leaves: Mapping[str, Leaf]) -> dict[str, Leaf]:
    return {path: leaf for path, leaf in leaves.items() if path.startswith(f"{section}.")}


def _table(leaves: Mapping[str, Leaf], **nodes: Node) -> Table:
    """Give a mapping of nodes. Shape: `leaves` go by their paths from here, as `history.mode`."""
    deeper: dict[str, dict[str, Leaf]] = {}
    for path, leaf in leaves.items():
        name, _, rest = path.partition(".")
        if rest:
            deeper.setdefault(name, {})[rest] = leaf
        else:
            nodes[name] = leaf
    nodes.update({name: _table(inner) for name, inner in deeper.items()})
    return Table(At(_FLAG), nodes, {name: At(_FLAG) for name in nodes})


def _row(node: Node) -> Rows:
    return Rows(At(_FLAG), (node,))
