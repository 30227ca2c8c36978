"""A handler that cannot be where a reference says: told before anything is served, and without running the file."""

from pathlib import Path

import pytest

from tidegate.config import ConfigError, load_handler
from tidegate.config.outline import MAX_BYTES, MAX_LISTED, trouble

GREETER = "class Greeter:\n    def predict(self) -> int:\n        return 1\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def file(text: str | bytes, name: str = "model.py") -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = 1\ndef run(:\n", 2),
        ("class Model:\n    def predict(self) -> int:\n    return 1\n", 3),
        ("x = (1,\n", 1),
        ("s = 'é'\n".encode("latin-1"), 1),
        ("x = 1\0\n", 1),
    ],
)
def test_what_is_not_python_is_told_with_its_line(text: str | bytes, line: int) -> None:
    told = trouble(file(text), "Model")
    assert told.startswith(f"model.py, line {line}: not Python: ")


def test_a_line_that_is_wrong_is_not_repeated() -> None:
    assert "canary" not in trouble(file("key = 'sk-canary' oops\n"), "")


def test_a_name_that_is_not_there_is_told_with_those_that_are() -> None:
    place = file(f"{GREETER}\nasync def run() -> int: ...\ndef _hidden() -> int: ...\nLIMIT = 3\n")
    assert trouble(place, "Greter") == (
        "there is no Greter in model.py, which has Greeter, run; did you mean 'Greeter'?"
    )
    assert trouble(place, "Zzz") == "there is no Zzz in model.py, which has Greeter, run"
    assert trouble(file("x = 1\n"), "Model") == "there is no Model in model.py, which has no class and no function"


def test_without_a_name_one_of_the_usual_ones_is_needed() -> None:
    assert trouble(file(GREETER), "") == (
        "model.py has no Model, Runner or Predictor; name one of Greeter, as in model.py:Greeter"
    )
    assert trouble(file("x = 1\n"), "") == "model.py has no Model, Runner or Predictor, and nothing else to serve"
    for usual in ("Model", "Runner", "Predictor"):
        assert trouble(file(GREETER.replace("Greeter", usual)), "") == ""


def test_of_many_names_the_first_are_told() -> None:
    place = file("".join(f"def f{number}() -> int: ...\n" for number in range(MAX_LISTED + 1)))
    told = trouble(place, "Model")
    assert f"f{MAX_LISTED - 1}, …" in told
    assert f"f{MAX_LISTED}," not in told


@pytest.mark.parametrize(
    "text",
    [
        "class Model: ...\n",
        "def Model() -> int: ...\n",
        "async def Model() -> int: ...\n",
        "Model = make()\n",
        "Model: type = make()\n",
        "One, Model = make()\n",
        "from elsewhere import Model\n",
        "from elsewhere import Other as Model\n",
        "import Model.inner\n",
        "if True:\n    class Model: ...\n",
        "try:\n    from a import Model\nexcept ImportError:\n    class Model: ...\n",
        "with open('x') as Model: ...\n",
        "for Model in (): ...\n",
        "def make() -> None:\n    global Model\n    Model = 1\nmake()\n",
        # What only a run would tell:
        "from elsewhere import *\n",
        "exec('class Model: ...')\n",
        "globals()['Model'] = int\n",
        "import sys\nsetattr(sys, 'x', 1)\n",
        "import sys\nsys.modules[__name__] = object()\n",
        "def __getattr__(name: str) -> int: ...\n",
        "import other\nother.__dict__['x'] = 1\n",
    ],
)
def test_a_name_that_is_there_or_may_be_is_let_through(text: str) -> None:
    assert trouble(file(text), "Model") == ""


@pytest.mark.parametrize(
    "text",
    [
        "class Other:\n    Model = 1\n",
        "def run() -> None:\n    Model = 1\n",
        "x = Model\n",
        "f = lambda: (Model := 1)\n",
    ],
)
def test_a_name_of_something_inside_is_none_of_the_file(text: str) -> None:
    assert "there is no Model" in trouble(file(text), "Model")


def test_a_file_is_not_run() -> None:
    assert trouble(file("open('ran', 'w')\nclass Model: ...\n"), "Model") == ""
    assert not Path("ran").exists()


def test_what_cannot_be_looked_at_is_left_to_the_worker() -> None:
    assert trouble(file("#" * MAX_BYTES + "\n("), "Model") == ""
    Path("folder.py").mkdir()
    assert trouble("folder.py", "Model") == ""


@pytest.mark.parametrize("text", ["1+" * 3000 + "1", "-" * 100_000 + "1"])
def test_what_is_nested_deeply_is_left_to_the_worker(text: str) -> None:
    assert trouble(file(f"x = {text}\n"), "Model") == ""


def test_many_terms_are_looked_through() -> None:
    told = trouble(file("x = " + "1+" * 300 + "1\nclass Greeter: ...\n"), "Model")
    assert told.endswith("which has Greeter")


def test_an_odd_escape_is_let_through() -> None:
    assert trouble(file("class Model:\n    x = '\\d'\n"), "Model") == ""


@pytest.mark.parametrize(
    ("place", "where"),
    [
        ("models", "models.py"),
        ("package.model", "package/model.py"),
        ("spaces.inner.model", "spaces/inner/model.py"),
        ("package", "package/__init__.py"),
    ],
)
def test_a_module_is_found_without_importing_its_packages(place: str, where: str) -> None:
    file("raise SystemExit\n", "package/__init__.py")
    file(GREETER, where)
    assert trouble(place, "Greeter") == ""
    assert trouble(place, "Nope") == f"there is no Nope in {place}, which has Greeter"


@pytest.mark.parametrize("place", ["nowhere", "package.nowhere", "models.inner", "math", "sys", "nowhere.deep"])
def test_a_module_that_only_an_import_would_find_is_left_to_the_worker(place: str) -> None:
    file("", "package/__init__.py")
    file(GREETER, "models.py")
    assert trouble(place, "Model") == ""


def test_a_handler_that_is_not_there_is_a_mistake_of_the_configuration() -> None:
    with pytest.raises(ConfigError) as caught:
        load_handler(file(GREETER) + ":Nope", 1, {})
    (mistake,) = caught.value.mistakes
    assert str(mistake) == ("--predict: providers[0].local.handler: there is no Nope in model.py, which has Greeter")
