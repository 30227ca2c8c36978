"""An asynchronous generator that says before each of its words that it comes."""
# ruff: noqa: T201 - what a handler prints is what is observed

import asyncio
from collections.abc import AsyncIterator

from tidegate.predict import Input, concurrent, streaming


class Model:
    async def setup(self) -> None:
        self.open = 0
        self.most = 0

    @streaming
    @concurrent(max=8)
    async def run(
        self,
        prompt: str = Input(default="a"),
        n: int = Input(default=3),
        delay: float = Input(default=0.05),
        mode: str = Input(default="ok"),
    ) -> AsyncIterator[str]:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            for index in range(n):
                await asyncio.sleep(delay)
                print(f"{prompt} step {index}")
                if mode == "raise" and index == 1:
                    raise ValueError("async boom")
                yield f"{prompt}-{index} "
        except asyncio.CancelledError:
            print("cleanup: cancelled")
            raise
        finally:
            self.open -= 1
