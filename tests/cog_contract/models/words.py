"""Words with logs, metrics, failures and pauses: a synchronous generator that is opted in to SSE."""
# ruff: noqa: T201 - what a handler prints is what is observed

import os
import sys
import time
from collections.abc import Iterator

from tidegate.predict import CancelationException, Input, current_scope, streaming

MODES = ["ok", "raise", "raise_first", "exit", "sick", "sick_raise", "well", "block", "swallow", "count", "tail"]


class Model:
    def setup(self) -> None:
        print("setup: loading weights")
        self.sick = "well"
        self.runs = 0

    def healthcheck(self) -> bool:
        if self.sick == "sick_raise":
            raise RuntimeError("no GPU")
        return self.sick == "well"

    @streaming
    def run(
        self,
        prompt: str = Input(description="Prompt", min_length=1, max_length=200),
        n: int = Input(default=3, ge=0, le=200000),
        delay: float = Input(default=0.0, ge=0, le=60),
        mode: str = Input(default="ok", choices=MODES),
    ) -> Iterator[str]:
        self.runs += 1
        if mode in {"sick", "sick_raise", "well"}:
            self.sick = mode
        elif mode == "count":
            yield str(self.runs)
        elif mode == "tail":
            sys.stdout.write("a tail without a newline")
        elif mode == "exit":
            print("about to die")
            sys.stdout.flush()
            time.sleep(delay)
            os._exit(3)
        elif mode == "block":
            time.sleep(delay)
        elif mode == "swallow":
            yield from self.swallow(delay)
        else:
            yield from self.words(prompt, n, delay, mode)

    def words(self, prompt: str, n: int, delay: float, mode: str) -> Iterator[str]:
        print(f"log: starting {prompt!r}")
        print("err: warming up", file=sys.stderr)
        scope = current_scope()
        scope.record_metric("prompt_chars", len(prompt))
        if mode == "raise_first":
            raise ValueError("bad thing before first chunk")
        try:
            for index in range(n):
                if delay:
                    time.sleep(delay)
                if mode == "raise" and index == 2:
                    raise ValueError("bad thing after two chunks")
                scope.record_metric("tokens", 1, "incr")
                yield f"{prompt}-{index} "
        except CancelationException:
            print("cleanup: cancelled")
            raise
        print("log: done")

    def swallow(self, delay: float) -> Iterator[str]:
        try:
            for _ in range(1000):
                time.sleep(delay)
        except CancelationException:
            print("swallowed")
        yield "kept on"
