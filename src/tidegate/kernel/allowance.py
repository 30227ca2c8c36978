"""What the files of one request may still take, all together."""

import sys

from msgspec import Struct


class Allowance(Struct):
    """Bytes, seconds of fetching, and seconds in line for it. Shape: `most_bytes` is what there was at first; None seconds are no limit."""

    most_bytes: int = sys.maxsize
    left_s: float | None = None
    left_bytes: int = -1
    line_s: float | None = None

    def __post_init__(self) -> None:
        """Begin with all of it."""
        if self.left_bytes < 0:
            self.left_bytes = self.most_bytes

    def check(self, size: int) -> None:
        """Refuse what is too much. Errors: ValueError, with a sentence about the file."""
        if size > self.left_bytes:
            alone = self.left_bytes == self.most_bytes
            whose = "it has" if alone else "with the files before it there are"
            raise ValueError(f"{whose} more than {self.most_bytes} bytes")

    def take(self, size: int) -> None:
        """Use so many bytes. Errors: ValueError, as above."""
        self.check(size)
        self.left_bytes -= size

    def spend(self, seconds: float) -> None:
        """Use so much time."""
        if self.left_s is not None:
            self.left_s = max(0.0, self.left_s - seconds)

    def stand(self, seconds: float) -> None:
        """Use so much time in line."""
        if self.line_s is not None:
            self.line_s = max(0.0, self.line_s - seconds)
