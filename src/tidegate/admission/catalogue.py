"""The models that clients may ask for: by name, by alias, or by what a name begins with."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

from msgspec import structs

from tidegate.admission.settings import ModelSettings
from tidegate.exchange import Model, Target
from tidegate.verdict import UNKNOWN_MODEL, Refused

MAX_SHOWN_CHARS: Final = 100
WILDCARD: Final = "*"


class Catalogue:
    """Finds models. Shape: a target whose provider is `parametric` takes what follows a `?` in the name asked for.

    An exact name comes before a wildcard, and of two wildcards the longer. A name with a `*` is nobody's: that stands for
    other names, and no provider hears it.
    """

    def __init__(self, models: Sequence[ModelSettings], parametric: frozenset[str] = frozenset()) -> None:
        self.models = [_model(settings) for settings in models]
        self._parametric = parametric
        self._named: dict[str, Model] = {}
        self._wild: dict[str, Model] = {}
        for settings, model in zip(models, self.models, strict=True):
            self._named.update(dict.fromkeys(settings.aliases, model))
            if settings.name.endswith(WILDCARD):
                self._wild[settings.name.removesuffix(WILDCARD)] = model
            else:
                self._named[settings.name] = model
        self._longest_first = sorted(self._wild, key=len, reverse=True)

    @property
    def names(self) -> list[str]:
        """The configured names, wildcards included."""
        return [model.name for model in self.models]

    def find(self, name: str) -> Model:
        """Give a model. Errors: Refused (unknown_model)."""
        model = self._named.get(name)
        if model is None and WILDCARD not in name:
            model = self._with_parameters(name) or self._behind_wildcard(name)
        if model is None:
            shown = name if len(name) <= MAX_SHOWN_CHARS else name[:MAX_SHOWN_CHARS] + "…"
            raise Refused(UNKNOWN_MODEL, f"no model {shown!r} here; GET /v1/models lists them", param="model")
        return model

    def _with_parameters(self, name: str) -> Model | None:
        base, mark, rest = name.partition("?")
        model = self._named.get(base) if mark else None
        if model is None or not any(target.provider in self._parametric for target in model.targets):
            return None
        return _resolved(model, lambda target: self._parametrized(target, rest))

    def _parametrized(self, target: Target, rest: str) -> str:
        mark = "&" if "?" in target.model else "?"
        return f"{target.model}{mark}{rest}" if target.provider in self._parametric else target.model

    def _behind_wildcard(self, name: str) -> Model | None:
        for prefix in self._longest_first:
            rest = name.removeprefix(prefix)
            if rest and rest != name:
                return _resolved(self._wild[prefix], partial(_with_rest, rest))
        return None


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


def names_behind(model: Model, target: Target, listed: Iterable[str]) -> Iterator[str]:
    """Give the names under which clients reach what a target's provider lists, through a model with a wildcard."""
    prefix = model.name.removesuffix(WILDCARD)
    before, star, after = target.name.partition(WILDCARD)
    for name in listed if star else ():
        rest = name.removeprefix(before).removesuffix(after)
        if rest and WILDCARD not in rest and name == before + rest + after:
            yield prefix + rest
