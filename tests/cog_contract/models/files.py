"""Files in and out."""

import pathlib
import tempfile
from collections.abc import Iterator

from tidegate.predict import Input, Path, Secret, streaming


class Model:
    @streaming
    def run(
        self,
        file: Path | None = Input(default=None),  # noqa: B008 - how inputs are declared
        key: Secret | None = Input(default=None),  # noqa: B008 - as above
        kind: str = Input(default="read"),
    ) -> Iterator[Path]:
        folder = pathlib.Path(tempfile.mkdtemp())
        out = folder / "out.txt"
        if kind == "missing":
            yield Path(folder / "absent.txt")
            return
        text = pathlib.Path(str(file)).read_text() if file else "nothing"
        shown = f" {key}" if key else ""
        out.write_text(text + shown if kind == "read" else kind)
        yield Path(out)
