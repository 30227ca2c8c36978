import pytest

from tidegate.admission.catalogue import MAX_SHOWN_CHARS, Catalogue, names_behind
from tidegate.admission.settings import HedgeSettings, ModelSettings, TargetSettings
from tidegate.exchange import Timeouts
from tidegate.verdict import UNKNOWN_MODEL, Refused

IMPATIENT = Timeouts(idle_s=7.0)
MODELS = (
    ModelSettings(
        name="fast",
        targets=(TargetSettings(provider="real", model="gpt-small", timeouts=IMPATIENT),),
        aliases=("cheap", "quick"),
    ),
    ModelSettings(name="same", targets=(TargetSettings(provider="real"),)),
    ModelSettings(name="play", targets=(TargetSettings(provider="mocked", model="mock"),), aliases=("toy",)),
)


def catalogue() -> Catalogue:
    return Catalogue(MODELS, frozenset({"mocked"}))


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


def test_a_model_brings_what_is_configured_for_it_and_for_its_targets() -> None:
    target = TargetSettings(provider="p", model="x", weight=3, priority=2, max_streams=5, timeouts=IMPATIENT)
    settings = ModelSettings(
        name="all", targets=(target,), balance="sticky", sticky_by="x-session", hedge=HedgeSettings(after_s=0.8)
    )
    model = Catalogue((settings,)).find("all")
    assert (model.balance, model.sticky_by, model.hedge_after_s) == ("sticky", "x-session", 0.8)
    (found,) = model.targets
    assert (found.weight, found.priority, found.max_streams, found.timeouts) == (3, 2, 5, IMPATIENT)
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
    before = sizes(models)
    for number in range(100):
        models.find(f"play?tokens={number}")
    assert models.names == ["fast", "same", "play"]
    assert sizes(models) == before


def sizes(models: Catalogue) -> dict[str, int]:
    return {name: len(part) for name, part in vars(models).items()}


# --- wildcards -------------------------------------------------------------------------------------------------------


def wild(name: str, *models: str, aliases: tuple[str, ...] = ()) -> ModelSettings:
    return ModelSettings(
        name=name, targets=tuple(TargetSettings(provider="p", model=model) for model in models), aliases=aliases
    )


WILD = Catalogue(
    (
        wild("openai/*", ""),
        wild("openai/gpt-4/*", "four-*"),
        wild("openai/gpt-4/fixed", "one", aliases=("openai/alias",)),
    )
)


@pytest.mark.parametrize(
    ("asked", "public", "sent"),
    [
        ("openai/gpt-4o", "openai/*", "gpt-4o"),
        ("openai/a/b", "openai/*", "a/b"),
        ("openai/gpt-4/turbo", "openai/gpt-4/*", "four-turbo"),
        ("openai/gpt-4/fixed", "openai/gpt-4/fixed", "one"),
        ("openai/alias", "openai/gpt-4/fixed", "one"),
    ],
)
def test_an_exact_name_comes_before_a_wildcard_and_a_longer_one_before_a_shorter(
    asked: str, public: str, sent: str
) -> None:
    model = WILD.find(asked)
    assert (model.name, model.targets[0].model) == (public, sent)


def test_the_state_of_a_wildcard_s_target_is_kept_under_its_configured_name() -> None:
    assert WILD.find("openai/a").targets[0].key == WILD.find("openai/b").targets[0].key == ("p", "*")


@pytest.mark.parametrize("name", ["openai/", "openai", "openai/*", "openai/gpt*", "xopenai/a", "OpenAI/a"])
def test_a_wildcard_stands_for_names_and_not_for_itself(name: str) -> None:
    with pytest.raises(Refused):
        WILD.find(name)


def test_the_longest_wildcard_wins_whatever_the_order_of_the_file() -> None:
    for names in (("a/*", "a/b/*", "a/b/c/*"), ("a/b/c/*", "a/b/*", "a/*")):
        models = Catalogue([wild(name) for name in names])
        found = [models.find(name).name for name in ("a/x", "a/b/x", "a/b/c/x", "a/b/c", "a/b")]
        assert found == ["a/*", "a/b/*", "a/b/c/*", "a/b/*", "a/*"]


def test_a_star_in_the_middle_of_a_target_s_model_is_where_the_rest_goes_and_others_stay_as_they_are() -> None:
    models = Catalogue([wild("tuned/*", "ft:*:acme", "fixed", aliases=("tuned",))])
    assert [target.model for target in models.find("tuned/seven").targets] == ["ft:seven:acme", "fixed"]
    assert models.find("tuned").name == "tuned/*"
    assert models.names == ["tuned/*"]


def test_an_alias_of_a_wildcard_comes_before_it() -> None:
    models = Catalogue([wild("a/*", "fixed", aliases=("b/one",)), wild("b/*", "")])
    assert models.find("b/one").targets[0].model == "fixed"
    assert models.find("b/two").targets[0].model == "two"


@pytest.mark.parametrize(
    "name", ["*", "wild/*", "wild/*?ttft=1s", "wild/x*", "wild/x?y=*", "exact?y=*", "short?*", "a*", "**"]
)
def test_no_star_that_a_client_asks_for_reaches_a_provider(name: str) -> None:
    models = Catalogue([wild("wild/*", "", aliases=("short",)), wild("exact", "mock")], parametric=frozenset({"p"}))
    with pytest.raises(Refused) as caught:
        models.find(name)
    assert caught.value.verdict is UNKNOWN_MODEL


def test_parameters_go_through_a_wildcard_as_a_part_of_the_name() -> None:
    models = Catalogue([wild("mock/*", "")], parametric=frozenset({"p"}))
    assert models.find("mock/slow?ttft=1s").targets[0].model == "slow?ttft=1s"


def test_parameters_are_for_those_targets_alone_that_know_them() -> None:
    targets = (TargetSettings(provider="real", model="gpt"), TargetSettings(provider="mocked", model="mock"))
    models = Catalogue([ModelSettings(name="both", targets=targets)], frozenset({"mocked"}))
    found = models.find("both?ttft=1s")
    assert [target.model for target in found.targets] == ["gpt", "mock?ttft=1s"]
    assert [target.key for target in found.targets] == [("real", "gpt"), ("mocked", "mock")]


@pytest.mark.parametrize(
    ("name", "target", "names"),
    [
        ("openai/*", "", ["openai/a", "openai/ft:b:acme", "openai/ft:"]),
        ("tuned/*", "ft:*:acme", ["tuned/b"]),
        ("tuned/*", "ft:*", ["tuned/b:acme"]),
        ("tuned/*", "fixed", []),
    ],
)
def test_what_a_provider_lists_is_named_as_clients_reach_it(name: str, target: str, names: list[str]) -> None:
    catalogued = Catalogue([wild(name, target)])
    model = catalogued.models[0]
    found = list(names_behind(model, model.targets[0], ["a", "ft:b:acme", "ft:", "x*"]))
    assert found == names
    for asked in found:
        assert catalogued.find(asked).name == name


def test_two_lookups_of_one_wildcard_know_nothing_of_each_other() -> None:
    first, second = WILD.find("openai/a"), WILD.find("openai/b")
    assert (first.targets[0].model, second.targets[0].model) == ("a", "b")
    assert WILD.models[0].targets[0].model == "*"
