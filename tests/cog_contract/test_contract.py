"""Tidegate against what Cog was seen to do: every check is the same, or differs as the table says."""

import json
from collections.abc import Iterator

import pytest
from cog_differences import DIFFERENCES
from cog_page import PAGE, page
from cog_servers import Site, Tidegate
from cog_suite import CHECKS, Check, judge, observe, recorded

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Lend Tidegate, whose servers the checks share."""
    lent = Site(Tidegate())
    yield lent
    lent.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_tidegate_does_what_cog_does_or_what_the_table_explains(check: Check, site: Site) -> None:
    finding = judge(check, recorded()["checks"][check.name], observe(check, site))

    assert finding.outcome != "FAIL", "\n".join(
        (check.sentence, finding.reason, f"cog: {json.dumps(finding.cog)}", f"tidegate: {json.dumps(finding.tidegate)}")
    )


def test_every_check_was_recorded_and_none_twice() -> None:
    names = [check.name for check in CHECKS]

    assert sorted(names) == sorted(recorded()["checks"])
    assert len(set(names)) == len(names)


def test_every_check_says_what_it_observes() -> None:
    assert [check.name for check in CHECKS if not check.sentence.endswith(".")] == []


def test_every_difference_is_one_and_belongs_to_a_check() -> None:
    known = recorded()["checks"]

    assert [name for name, found in DIFFERENCES.items() if name not in known or known[name] == found.expected] == []


def test_no_check_of_cog_broke() -> None:
    assert [name for name, seen in recorded()["checks"].items() if isinstance(seen, dict) and "broken" in seen] == []


def test_the_page_has_the_table_as_it_is() -> None:
    assert PAGE.read_text() == page()
