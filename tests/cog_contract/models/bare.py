"""A generator that nobody opted in to SSE, and that requires nothing."""

from collections.abc import Iterator

from tidegate.predict import Input


class Model:
    def run(self, n: int = Input(default=2)) -> Iterator[str]:
        for index in range(n):
            yield f"c{index}"
