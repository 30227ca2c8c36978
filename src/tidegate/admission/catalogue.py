"""The models that clients may ask for, by name and alias."""

from collections.abc import Iterable, Mapping
from typing import Final

from tidegate.admission.settings import ModelSettings
from tidegate.exchange import Model, Target, Timeouts
from tidegate.verdict import UNKNOWN_MODEL, Refused

MAX_SHOWN_CHARS: Final = 100


class Catalogue:
    """Finds models. Shape: a model whose provider takes parameters in the name is found by the part before `?`."""

    def __init__(
        self, models: Iterable[ModelSettings], timeouts: Mapping[str, Timeouts], parametric: frozenset[str]
    ) -> None:
        self._models: dict[str, Model] = {}
        self._parametric: set[str] = set()
        self.names: list[str] = []
        for settings in models:
            targets = tuple(
                Target(target.provider, target.model or settings.name, timeouts[target.provider])
                for target in settings.targets
            )
            model = Model(settings.name, targets)
            names = (settings.name, *settings.aliases)
            self._models.update(dict.fromkeys(names, model))
            self.names.append(settings.name)
            if targets[0].provider in parametric:
                self._parametric.update(names)

    def find(self, name: str) -> Model:
        """Give a model. Errors: Refused (unknown_model)."""
        model = self._models.get(name)
        if model is not None:
            return model
        base, mark, rest = name.partition("?")
        if mark and base in self._parametric:
            model = self._models[base]
            targets = tuple(
                Target(target.provider, f"{target.model}?{rest}", target.timeouts) for target in model.targets
            )
            return Model(model.name, targets)
        shown = name if len(name) <= MAX_SHOWN_CHARS else name[:MAX_SHOWN_CHARS] + "…"
        raise Refused(UNKNOWN_MODEL, f"no model {shown!r} here; GET /v1/models lists them", param="model")
