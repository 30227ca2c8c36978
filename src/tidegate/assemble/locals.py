"""Models in our own processes, as the rest of the gateway sees them: which they are, and who is asked for an attempt."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final

from msgspec import structs

from tidegate.assemble.routes import PREDICTION
from tidegate.config import Config
from tidegate.dispatch.service import Service
from tidegate.exchange import Arrival, Ask, Attempt, Model, Outcome, Stream
from tidegate.verdict import UNKNOWN_MODEL, Refused
from tidegate.wire.sse import SseFramer
from tidegate.worker.health import Health
from tidegate.worker.local import Local
from tidegate.worker.messages import MAX_MESSAGE_BYTES, Info

OWN_ROUTE: Final = "predictions"
OWN_DIALECT: Final = PREDICTION.name
OWN_FRAMER: Final = partial(SseFramer, MAX_MESSAGE_BYTES)
"""What one item of an output may be is bounded by `local.max_output_bytes`."""


class Innermost:
    """Opens an attempt where its provider is: over the network, or in our own processes."""

    __slots__ = ("_locals", "_opening")

    def __init__(self, opening: Service[Attempt], locals_: Mapping[str, Local]) -> None:
        self._opening = opening
        self._locals = locals_

    def open(self, ask: Attempt, /) -> AbstractAsyncContextManager[Stream]:
        """Give the context of one stream."""
        return self._locals.get(ask.target.provider, self._opening).open(ask)


class OwnModel:
    """A model of which predictions can be made. Shape: `max_queue` is how many may wait for a slot."""

    def __init__(self, model: Model, locals_: Sequence[Local], max_queue: int) -> None:
        # Nobody knows what a second run would do, and elsewhere nobody knows predictions.
        names = {local.name for local in locals_}
        targets = tuple(target for target in model.targets if target.provider in names)
        self.model = structs.replace(model, targets=targets, hedge_after_s=0.0, once=True)
        self.name = model.name
        self.max_queue = max_queue
        self._locals = locals_

    @property
    def info(self) -> Info | None:
        """What the handler is; None until one of its processes is set up."""
        for local in self._locals:
            info = local.crew.info
            if info is not None:
                return info
        return None

    @property
    def serves(self) -> bool:
        """Whether one of its processes is ready."""
        for local in self._locals:  # noqa: SIM110 (asked for each prediction: any() costs three times as much)
            if local.serves:
                return True
        return False

    def health(self) -> Health:
        """Give the health of the processes; where the model has several providers, of the first that has any to tell."""
        return next((local for local in self._locals if local.info is not None), self._locals[0]).health()

    async def check(self) -> str:
        """Ask the handler how it is; gives what is wrong."""
        return await next((local for local in self._locals if local.info is not None), self._locals[0]).check()

    def cancel(self, outcome: Outcome) -> bool:
        """Ask a prediction to stop; gives whether one of the processes has it."""
        return any(local.cancel(outcome) for local in self._locals)


class OwnModels:
    """The models of a configuration that are our own. Shape: `by_name` has each under its name and its aliases."""

    def __init__(self, config: Config, models: Sequence[Model], locals_: Mapping[str, Local]) -> None:
        self.by_name: dict[str, OwnModel] = {}
        queues = {provider.name: provider.slots.max_queue for provider in config.providers}
        for settings, model in zip(config.models, models, strict=True):
            names = [target.provider for target in model.targets if target.provider in locals_]
            if names:
                own = OwnModel(model, [locals_[name] for name in names], max(queues[name] for name in names))
                self.by_name.update(dict.fromkeys((model.name, *settings.aliases), own))

    def find(self, arrival: Arrival, body: bytes) -> tuple[Ask, Model]:  # noqa: ARG002 (others go by the path)
        """Give what is asked and of which model. Errors: Refused (bad_request, unknown_model)."""
        ask = PREDICTION.read_request(body)
        own = self.by_name.get(ask.model)
        if own is None:
            raise Refused(UNKNOWN_MODEL, "no predictions are made here with this model")
        return ask, own.model
