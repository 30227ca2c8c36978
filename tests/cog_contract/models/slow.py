"""A handler whose setup takes a while."""

import time


class Model:
    def setup(self) -> None:
        time.sleep(4)

    def run(self, text: str) -> str:
        return text
