"""A single value whose handler is opted in to SSE."""

from tidegate.predict import Input, streaming


class Model:
    @streaming
    def run(self, text: str = Input(default="once")) -> str:
        return text
