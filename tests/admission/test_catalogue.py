import pytest

from tidegate.admission.catalogue import MAX_SHOWN_CHARS, Catalogue
from tidegate.admission.settings import ModelSettings, TargetSettings
from tidegate.exchange import Timeouts
from tidegate.verdict import UNKNOWN_MODEL, Refused

TIMEOUTS = {"real": Timeouts(idle_s=7.0), "mocked": Timeouts()}
MODELS = (
    ModelSettings(
        name="fast", targets=(TargetSettings(provider="real", model="gpt-small"),), aliases=("cheap", "quick")
    ),
    ModelSettings(name="same", targets=(TargetSettings(provider="real"),)),
    ModelSettings(name="play", targets=(TargetSettings(provider="mocked", model="mock"),), aliases=("toy",)),
)


def catalogue() -> Catalogue:
    return Catalogue(MODELS, TIMEOUTS, frozenset({"mocked"}))


def refusal(name: str) -> Refused:
    with pytest.raises(Refused) as caught:
        catalogue().find(name)
    assert caught.value.verdict is UNKNOWN_MODEL
    assert caught.value.param == "model"
    return caught.value


@pytest.mark.parametrize("name", ["fast", "cheap", "quick"])
def test_a_model_is_found_by_its_name_and_each_alias(name: str) -> None:
    model = catalogue().find(name)
    (target,) = model.targets
    assert (model.name, target.provider, target.model) == ("fast", "real", "gpt-small")


def test_a_target_brings_the_timeouts_of_its_provider() -> None:
    assert catalogue().find("fast").targets[0].timeouts.idle_s == 7.0
    assert catalogue().find("play").targets[0].timeouts == Timeouts()


def test_a_target_without_a_model_takes_the_public_name() -> None:
    assert catalogue().find("same").targets[0].model == "same"


@pytest.mark.parametrize("name", ["play?ttft=1s&tokens=3", "toy?ttft=1s&tokens=3"])
def test_what_follows_the_name_of_a_mocked_model_goes_to_the_mock(name: str) -> None:
    model = catalogue().find(name)
    assert model.name == "play"
    assert model.targets[0].model == "mock?ttft=1s&tokens=3"


@pytest.mark.parametrize("name", ["fast?tokens=3", "none?tokens=3", "?tokens=3", "Fast", "fast ", "", "play&tokens=3"])
def test_a_name_that_nobody_configured_is_unknown(name: str) -> None:
    assert "GET /v1/models" in refusal(name).message


def test_a_long_unknown_name_is_cut_in_the_refusal() -> None:
    assert len(refusal("x" * 5000).message) < MAX_SHOWN_CHARS + 100


def test_names_are_listed_in_the_order_of_the_file_and_without_aliases() -> None:
    assert catalogue().names == ["fast", "same", "play"]


def test_parameters_leave_nothing_behind_in_the_catalogue() -> None:
    models = catalogue()
    for number in range(100):
        models.find(f"play?tokens={number}")
    assert models.names == ["fast", "same", "play"]
    assert len(models._models) == 6
