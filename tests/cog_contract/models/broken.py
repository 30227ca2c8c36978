"""A handler whose setup fails after it has said something."""
# ruff: noqa: T201 - what a handler prints is what is observed


class Model:
    def setup(self) -> None:
        print("looking for the weights")
        raise RuntimeError("could not load weights")

    def run(self) -> str:
        return "never"
