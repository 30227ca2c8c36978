"""The settings that serve one handler without a file: what a command line and Cog's variables say."""

from collections.abc import Mapping
from typing import Final

from tidegate.config.mistakes import At
from tidegate.config.tree import Leaf, Node, Rows, Table, from_flag, from_variable

_FLAG: Final = "--predict"
_VARIABLES: Final[Mapping[str, tuple[str, str]]] = {
    "PORT": ("server.port", ""),
    "COG_SETUP_TIMEOUT": ("local.setup_timeout", "s"),
    "COG_STREAM_HISTORY_CAPACITY": ("predictions.history.max_events", ""),
    "COG_THROTTLE_RESPONSE_INTERVAL": ("predictions.webhooks.interval", "s"),
    "WEBHOOK_AUTH_TOKEN": ("predictions.webhooks.token", ""),
}
"""What Cog's server reads from its environment: the setting that is the same, and the unit that Cog leaves out."""


def tree(reference: str, workers: int, environ: Mapping[str, str]) -> Node:
    """Give the settings' root node. Shape: the model is called as its file or module is."""
    name = from_flag(_FLAG, _name(reference) or "model")
    leaves = {
        "predictions.shutdown": from_flag(_FLAG, "true"),
        "local.handler": from_flag(_FLAG, reference),
        "local.workers": from_flag("--workers", str(workers)),
    }
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


def _name(reference: str) -> str:
    """Give what a model is called by default."""
    place = reference.rpartition(":")[0] or reference
    if place.endswith(".py"):
        return place.removesuffix(".py").rpartition("/")[2]
    return place.rpartition(".")[2]


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
