"""The smallest model. Serve it with `tidegate serve --predict model.py:Model --port 5000`."""

from collections.abc import Iterator

from tidegate.predict import Input


class Model:
    """Greets, word by word: a generator is a stream for clients."""

    def setup(self) -> None:
        """Load here what takes long: it runs once in each worker, before the first prediction."""
        self.greeting = "Hello"

    def predict(
        self,
        name: str = Input(description="Whom to greet.", min_length=1, max_length=100),
        times: int = Input(default=1, ge=1, le=10),
    ) -> Iterator[str]:
        """Give one greeting after another."""
        for _ in range(times):
            yield f"{self.greeting}, {name}! "
