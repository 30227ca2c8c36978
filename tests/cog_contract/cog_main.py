"""The command that runs both servers beside each other."""

import argparse
import datetime as dt
import json
import sys
from collections.abc import Sequence

from cog_page import PAGE, page
from cog_servers import Coglet, Kind, Site, Tidegate
from cog_suite import CHECKS, OBSERVED, Check, Finding, judge, observe, recorded
from cog_talk import Json


def main(arguments: Sequence[str]) -> int:
    """Run, print and judge; gives the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/cog-contract", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write down what Cog does")
    parser.add_argument("--only", choices=("cog", "tidegate"), help="run one of the servers")
    parser.add_argument("--check", default="", help="run the checks whose names have this word")
    parser.add_argument("--docs", action="store_true", help="write the table in docs/cog.md, and run nothing")
    asked = parser.parse_args(arguments)
    if asked.docs:
        PAGE.write_text(page())
        return 0
    checks = [check for check in CHECKS if asked.check in check.name]
    cog = recorded()["checks"] if asked.only == "tidegate" else _run(Coglet(), checks)
    if asked.record:
        _record(cog, Coglet().version(), whole=not asked.check)
        return 0
    stale = _stale(cog) if asked.only != "tidegate" else []
    if asked.only == "cog":
        _say(json.dumps(cog, indent=1, ensure_ascii=False))
        return bool(stale)
    tidegate = _run(Tidegate(), checks)
    findings = [judge(check, cog[check.name], tidegate[check.name]) for check in checks]
    _table(findings)
    return bool(stale) or any(finding.outcome == "FAIL" for finding in findings)


def _run(kind: Kind, checks: Sequence[Check]) -> dict[str, Json]:
    site = Site(kind)
    seen: dict[str, Json] = {}
    try:
        for number, check in enumerate(checks, 1):
            sys.stderr.write(f"\r{kind.name}: {number}/{len(checks)} {check.name:50}")
            sys.stderr.flush()
            seen[check.name] = observe(check, site)
    finally:
        sys.stderr.write("\r" + " " * 80 + "\r")
        site.close()
    return seen


def _record(cog: dict[str, Json], versions: str, *, whole: bool) -> None:
    kept = {} if whole else recorded()["checks"]
    found = {
        "versions": versions,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "checks": {**kept, **cog},
    }
    OBSERVED.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    _say(f"{len(cog)} checks written to {OBSERVED.name}")


def _stale(cog: dict[str, Json]) -> list[str]:
    """Say where Cog no longer does what was recorded, and give the names."""
    known = recorded()["checks"]
    stale = [name for name, seen in cog.items() if known.get(name) != seen]
    for name in stale:
        _say(f"cog has changed: {name}\n  recorded: {json.dumps(known.get(name))}\n  now:      {json.dumps(cog[name])}")
    return stale


def _table(findings: Sequence[Finding]) -> None:
    title = ""
    for finding in findings:
        if finding.check.title != title:
            title = finding.check.title
            _say(f"\n{title}")
        _say(f"  {finding.outcome:8} {finding.check.sentence}")
        if finding.outcome != "same":
            _say(f"           cog:      {_short(finding.cog)}\n           tidegate: {_short(finding.tidegate)}")
            if finding.reason:
                _say(f"           {finding.reason}")
    counts = {name: sum(found.outcome == name for found in findings) for name in ("same", "better", "differs", "FAIL")}
    _say("\n" + ", ".join(f"{count} {name}" for name, count in counts.items()))


def _short(seen: Json) -> str:
    text = json.dumps(seen, ensure_ascii=False)
    return text if len(text) <= 220 else f"{text[:219]}…"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
