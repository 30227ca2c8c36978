"""The models that clients may ask for: by name, by alias, or by what a name begins with."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from msgspec import structs

from tidegate.admission.settings import ModelSettings
from tidegate.exchange import Model, Target
from tidegate.verdict import UNKNOWN_MODEL, Refused

MAX_SHOWN_CHARS: Final = 100
WILDCARD: Final = "*"


class Catalogue:
    """Finds models. Shape: a model whose provider takes parameters in the name is found by the part before `?`.

    An exact name comes before a wildcard, and of two wildcards the longer.
    """

    def __init__(self, models: Iterable[ModelSettings], parametric: frozenset[str] = frozenset()) -> None:
        self._models: dict[str, Model] = {}
        self._parametric: set[str] = set()
        self._prefixes: dict[str, Model] = {}
        self.models: list[Model] = []
        for settings in models:
            model = _model(settings)
            self.models.append(model)
            if settings.name.endswith(WILDCARD):
                self._prefixes[settings.name.removesuffix(WILDCARD)] = model
            names = (settings.name, *settings.aliases)
            self._models.update(dict.fromkeys(names, model))
            if model.targets[0].provider in parametric:
                self._parametric.update(names)
        self._longest_first = sorted(self._prefixes, key=len, reverse=True)

    @property
    def names(self) -> list[str]:
        """The configured names, wildcards included."""
        return [model.name for model in self.models]

    def find(self, name: str) -> Model:
        """Give a model. Errors: Refused (unknown_model)."""
        model = self._models.get(name)
        if model is not None and WILDCARD not in name:
            return model
        base, mark, rest = name.partition("?")
        if mark and base in self._parametric:
            return _resolved(self._models[base], lambda target: f"{target.model}?{rest}")
        for prefix in self._longest_first:
            rest = name.removeprefix(prefix)
            if rest and rest != name and WILDCARD not in rest:
                return _resolved(self._prefixes[prefix], partial(_with_rest, rest))
        shown = name if len(name) <= MAX_SHOWN_CHARS else name[:MAX_SHOWN_CHARS] + "…"
        raise Refused(UNKNOWN_MODEL, f"no model {shown!r} here; GET /v1/models lists them", param="model")


def _model(settings: ModelSettings) -> Model:
    """Give a configured model. Shape: a target without a name of its own takes the public one, or its wildcard."""
    public = WILDCARD if settings.name.endswith(WILDCARD) else settings.name
    targets = tuple(
        Target(
            provider=target.provider,
            model=target.model or public,
            timeouts=target.timeouts,
            name=target.model or public,
            weight=target.weight,
            priority=target.priority,
            max_streams=target.max_streams,
        )
        for target in settings.targets
    )
    return Model(
        name=settings.name,
        targets=targets,
        balance=settings.balance,
        sticky_by=settings.sticky_by,
        hedge_after_s=settings.hedge.after_s,
    )


def _with_rest(rest: str, target: Target) -> str:
    return target.model.replace(WILDCARD, rest)


def _resolved(model: Model, name_of: Callable[[Target], str]) -> Model:
    """Give a model whose targets' names came with the request; their state stays under the configured names."""
    targets = tuple(structs.replace(target, model=name_of(target)) for target in model.targets)
    return structs.replace(model, targets=targets)
