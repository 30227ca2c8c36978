"""A synchronous generator that may run twice at a time."""

import time
from collections.abc import Iterator

from tidegate.predict import Input, concurrent, streaming


class Model:
    @streaming
    @concurrent(max=2)
    def run(
        self, prompt: str = Input(default="a"), n: int = Input(default=3), delay: float = Input(default=0.05)
    ) -> Iterator[str]:
        for index in range(n):
            time.sleep(delay)
            yield f"{prompt}-{index} "
