"""What is said of an error, whatever its class does."""

from tidegate.worker.child.faults import MAX_CHARACTERS, sentence, trace


class MuteError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class UntraceableError(Exception):
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise ValueError("no notes")


def test_an_error_whose_text_cannot_be_made_is_told_by_its_name() -> None:
    assert sentence(MuteError()) == "MuteError: <its text cannot be made>"
    assert sentence(KeyError()) == "KeyError"


def test_an_error_whose_traceback_cannot_be_made_is_told_in_a_sentence() -> None:
    assert trace(UntraceableError("x")) == "UntraceableError: x"


def _raise_several() -> None:
    raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])


def test_errors_within_an_error_are_told_and_a_long_one_is_cut() -> None:
    try:
        try:
            _raise_several()
        except ExceptionGroup as group:
            raise RuntimeError("x" * 2 * MAX_CHARACTERS) from group
    except RuntimeError as error:
        told, said = trace(error), sentence(error)
    assert "ValueError: one" in told
    assert "KeyError: 'two'" in told
    assert len(told) == len(said) == MAX_CHARACTERS + 1


def test_what_no_text_can_hold_is_written_out() -> None:
    assert sentence(ValueError("\ud800")) == "ValueError: \\ud800"
