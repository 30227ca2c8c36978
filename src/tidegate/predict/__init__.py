"""What users' models import: bases, inputs, kinds of values, decorators, and the scope of the prediction that runs.

Shape: names are Cog's where Cog has them, so that a model moves by changing one import.
"""

from collections.abc import AsyncIterator, Iterator

from tidegate.predict.inputs import Input
from tidegate.predict.kinds import AsyncConcatenateIterator, ConcatenateIterator, File, Opaque, Path, Secret
from tidegate.predict.marks import concurrent, streaming
from tidegate.predict.model import BaseModel, Model
from tidegate.predict.scope import CancellationException, Scope, current_scope

BaseRunner = Model
BasePredictor = Model
CancelationException = CancellationException

__all__ = [
    "AsyncConcatenateIterator",
    "AsyncIterator",
    "BaseModel",
    "BasePredictor",
    "BaseRunner",
    "CancelationException",
    "CancellationException",
    "ConcatenateIterator",
    "File",
    "Input",
    "Iterator",
    "Model",
    "Opaque",
    "Path",
    "Scope",
    "Secret",
    "concurrent",
    "current_scope",
    "streaming",
]
