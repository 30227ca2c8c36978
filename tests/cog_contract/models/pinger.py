"""Chunks as fast or as slowly as asked: a synchronous generator."""

import time
from collections.abc import Iterator

from tidegate.predict import Input, streaming


class Model:
    @streaming
    def run(
        self, n: int = Input(default=10), delay: float = Input(default=0.0), size: int = Input(default=10)
    ) -> Iterator[str]:
        text = "y" * size
        for _ in range(n):
            if delay:
                time.sleep(delay)
            yield text
