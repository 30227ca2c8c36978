"""The least a handler can do: what a request costs beside it."""


class Model:
    def run(self) -> str:
        return "ok"
