"""One input of each kind and each constraint; gives back what it was given."""

from typing import Any

from tidegate.predict import Input


class Model:
    def run(
        self,
        text: str = Input(min_length=2, max_length=10, regex="^[a-z]+$"),
        number: int = Input(ge=1, le=10),
        ratio: float = Input(default=0.5, ge=0, le=1),
        flag: bool = Input(default=False),
        colour: str = Input(default="red", choices=["red", "blue"]),
        size: int = Input(default=1, choices=[1, 2, 4]),
        items: list[int] = Input(default=[]),  # noqa: B008 - how inputs are declared
        maybe: str | None = Input(default=None),
    ) -> dict[str, Any]:
        kinds = {"number": type(number).__name__, "ratio": type(ratio).__name__, "size": type(size).__name__}
        return {"text": text, "flag": flag, "colour": colour, "items": items, "maybe": maybe, "kinds": kinds}
