"""The bases users may derive from; a handler needs neither."""

from dataclasses import dataclass
from typing import Any, dataclass_transform

from tidegate.predict.scope import Spoken, current_scope


class Model:
    """The base of a handler: give it `setup(self)` and `predict(self, ...)` or `run(self, ...)`."""

    def record_metric(self, name: str, value: Any, mode: Spoken = "replace") -> None:
        """Record a metric of the prediction that runs. Errors: as Scope.record_metric."""
        current_scope().record_metric(name, value, mode)


@dataclass_transform()
class BaseModel:
    """The base of an output with fields: each class derived from it is a dataclass."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__()
        dataclass(**options)(cls)
