"""Finding a handler by its reference, and what is said when it is not there."""

import pathlib
import sys
from collections.abc import Iterator

import pytest

from tidegate.predict.handler import HandlerError, load


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    monkeypatch.chdir(tmp_path)
    paths, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = paths
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def written(folder: pathlib.Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


CLASS = "class {name}:\n    def predict(self, text: str) -> str:\n        return text\n"


@pytest.mark.parametrize("name", ["Model", "Runner", "Predictor"])
def test_a_file_alone_is_searched_for_the_usual_names(folder: pathlib.Path, name: str) -> None:
    written(folder, "handy.py", CLASS.format(name=name))
    assert load("handy.py").reference == f"handy.py:{name}"


def test_our_own_base_class_is_not_taken_for_the_handler(folder: pathlib.Path) -> None:
    written(folder, "handy.py", "from tidegate.predict import Model\n" + CLASS.format(name="Predictor(Model)"))
    assert load("handy.py").reference == "handy.py:Predictor"


def test_a_file_is_registered_before_it_runs_and_may_import_its_neighbours(folder: pathlib.Path) -> None:
    written(folder, "sub/neighbour_of_handy.py", "WORD = 'hi'\n")
    text = "import sys\nfrom neighbour_of_handy import WORD\nME = sys.modules['handy']\ndef go(n: int) -> str:\n    return ME.WORD * n\n"
    written(folder, "sub/handy.py", text)
    assert load("sub/handy.py:go").make().call({"n": 2}) == "hihi"
    assert sys.modules["handy"].__file__ == str(folder / "sub" / "handy.py")


def test_a_module_is_found_from_where_we_are(folder: pathlib.Path) -> None:
    written(folder, "pack_of_handlers/__init__.py", "")
    written(folder, "pack_of_handlers/inner.py", CLASS.format(name="Mine"))
    assert load("pack_of_handlers.inner:Mine").make().call({"text": "x"}) == "x"


@pytest.mark.parametrize(
    ("reference", "text", "sentence"),
    [
        ("gone.py:Model", "", "there is no file gone.py"),
        ("no_such_package.inner:Model", "", "there is no module no_such_package.inner"),
        (":Model", "", "write file.py:Name"),
        ("handy.py", "", "has no Model, Runner or Predictor: name the handler"),
        ("handy.py:Other", CLASS.format(name="Mine"), "there is no Other in handy.py; it has Mine"),
        ("handy.py:Other", "", "there is no Other in handy.py"),
        ("handy.py:thing", "thing = 5\n", "neither a class nor a function but of type int"),
        (
            "handy.py",
            "import no_such_library\n",
            "handy.py cannot be loaded: ModuleNotFoundError: No module named 'no_such",
        ),
        ("handy", "import no_such_library\n", "handy cannot be loaded: ModuleNotFoundError"),
        ("handy.py", "from cog import BasePredictor\n", "write `from tidegate.predict import ...` in place of"),
        ("handy", "import cog.types\n", "write `from tidegate.predict import ...` in place of `from cog import ...`"),
        ("handy", "1 / 0\n", "handy cannot be loaded: ZeroDivisionError"),
        ("handy.py", "raise SystemExit(3)\n", "handy.py cannot be loaded: SystemExit: 3"),
        ("handy.py", "def (:\n", "handy.py cannot be loaded: SyntaxError"),
    ],
)
def test_what_cannot_be_found_says_what_to_do(folder: pathlib.Path, reference: str, text: str, sentence: str) -> None:
    written(folder, "handy.py", text)
    with pytest.raises(HandlerError) as refused:
        load(reference)
    assert sentence in str(refused.value)
    assert "handy" not in sys.modules or "cannot be loaded" not in sentence


def test_what_the_users_file_raised_is_the_cause(folder: pathlib.Path) -> None:
    written(folder, "handy.py", "1 / 0\n")
    with pytest.raises(HandlerError) as refused:
        load("handy.py:Model")
    assert isinstance(refused.value.__cause__, ZeroDivisionError)


def test_a_file_that_would_hide_a_module_of_python_is_refused(folder: pathlib.Path) -> None:
    written(folder, "json.py", CLASS.format(name="Model"))
    with pytest.raises(HandlerError, match="rename the file"):
        load("json.py:Model")


def test_annotations_may_be_texts(folder: pathlib.Path) -> None:
    text = (
        "from __future__ import annotations\nfrom tidegate.predict import Input, Iterator, Path\n"
        "class Model:\n    def setup(self, weights: Path) -> None:\n        self.weights = weights\n"
        "    def run(self, image: Path, n: int | None = Input(ge=1)) -> Iterator[str]:\n        yield 'x'\n"
    )
    written(folder, "handy.py", text)
    handler = load("handy.py")
    assert (handler.files, handler.kind, handler.entry) == (("image",), "generator", "run")
    running = handler.make()
    assert running.setup("w") is None
    assert running._made.weights == pathlib.Path("w")
