"""What models and their targets must be like: names with wildcards, and targets that differ and can be chosen."""

import re
from typing import Any, Final

from tidegate.config.decode import FAILED, Seen, Spot
from tidegate.config.mistakes import Mistakes, did_you_mean

_WILDCARD: Final = re.compile(r"[^*]+/\*")


def check_models(seen: Seen, mistakes: Mistakes) -> None:
    """Note all that does not fit about models and their targets."""
    for model in seen.get("models[]", ()):
        targets = [target for target in model.member("targets").items() if target.value is not None]
        _check_names(model, targets, mistakes)
        _check_stars(model.member("name"), targets, mistakes)
        _check_twins(model.value.get("name", FAILED), targets, mistakes)
        _check_weights(targets, mistakes)
        _check_enough(model, targets, mistakes)
    _check_providers(seen, mistakes)


def _check_names(model: Spot, targets: list[Spot], mistakes: Mistakes) -> None:
    name = model.member("name")
    stars = any("*" in (target.member("model").value or name.value or "") for target in targets)
    if "*" in (name.value or "") and _WILDCARD.fullmatch(name.value) is None:
        problem = f"expected '*' only at the end and after a slash, such as openai/*, got {name.shown}"
        mistakes.add(name.node.at, name.path, problem)
    for alias in model.member("aliases").items():
        if "*" in (alias.value or ""):
            mistakes.add(alias.node.at, alias.path, f"expected an alias without '*', got {alias.shown}")
        elif alias.value and stars and "*" in (name.value or ""):
            problem = "no rest of a name comes with an alias, and a target wants one for its '*'"
            mistakes.add(alias.node.at, alias.path, problem)


def _check_stars(name: Spot, targets: list[Spot], mistakes: Mistakes) -> None:
    """Refuse a star that stands for nothing, and a second one."""
    for target in targets if name.value else ():
        model = target.member("model")
        stars = (model.value or "").count("*")
        if stars and "*" not in name.value:
            problem = f"'*' stands for the rest of a name, and the name {name.shown} has none"
            mistakes.add(model.node.at, model.path, problem)
        elif stars > 1:
            mistakes.add(model.node.at, model.path, "expected '*' once: it stands for the whole rest of the name")


def _check_twins(name: Any, targets: list[Spot], mistakes: Mistakes) -> None:
    """Refuse what would be asked a second time as if it were another."""
    rest = "*" if name is not FAILED and "*" in name else name
    first: dict[Any, Spot] = {}
    for target in targets:
        there = (target.value.get("provider"), target.value.get("model") or rest)
        if FAILED in there:
            continue
        twin = first.setdefault(there, target)
        if twin is not target:
            mistakes.add(target.node.at, target.path, f"the same provider and model as {twin.where}")


def _check_weights(targets: list[Spot], mistakes: Mistakes) -> None:
    """Refuse a priority at which nobody would be asked."""
    levels: dict[Any, list[Spot]] = {}
    for target in targets:
        levels.setdefault(target.value.get("priority", 0), []).append(target.member("weight"))
    for level, weights in levels.items() if FAILED not in levels else ():
        if all(weight.value == 0 for weight in weights):
            problem = f"expected a weight above 0 for one target of priority {level} at least"
            mistakes.add(weights[0].node.at, weights[0].path, problem)


def _check_enough(model: Spot, targets: list[Spot], mistakes: Mistakes) -> None:
    """Refuse a model that nobody serves, and one that is to be hedged with nobody else."""
    all_targets, after = model.member("targets"), model.member("hedge").member("after")
    if all_targets.value == []:
        mistakes.add(all_targets.node.at, all_targets.path, "expected at least one target")
    elif after.value and targets and len(all_targets.value) - _idle(targets) < 2:
        mistakes.add(after.node.at, after.path, "expected a second target to hedge with, there is but one")


def _idle(targets: list[Spot]) -> int:
    return sum(target.member("weight").value == 0 for target in targets)


def _check_providers(seen: Seen, mistakes: Mistakes) -> None:
    """Refuse targets at providers that are not there."""
    names = [spot.value for spot in seen.get("providers[].name", ())]
    known: Any = next((root.value.get("providers", []) for root in seen.get("", ())), [])
    if not names or known is FAILED or len(known) != len(names):
        return  # a provider's own name is in doubt, so that nobody can say which one is missing
    for spot in seen.get("models[].targets[].provider", ()):
        if spot.value and spot.value not in names:
            hint = did_you_mean(spot.value, names)
            mistakes.add(spot.node.at, spot.path, f"no provider has the name {spot.shown}", hint)
