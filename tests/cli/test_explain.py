"""`tidegate explain`: what it says is what happens."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import ask, chat, gateway, make_config, run
from processes import tidegate, write_config
from streams import DONE, ROLE, Script, answer, chunked, closing, streamed
from tidegate.cli.explanation import WIDTH, explain
from tidegate.testing.upstream import ScriptedUpstream, scripted_upstream
from tidegate.verdict import TABLE

ERROR = {"error": {"message": "no"}}
FAILING: dict[str, Script] = {
    "connect_reset": closing(),
    "provider_auth": closing(answer(401, ERROR)),
    "upstream_rate_limited": closing(answer(429, ERROR)),
    "upstream_rejected": closing(answer(422, ERROR)),
    "upstream_failed": closing(answer(503, ERROR)),
    "error_frame": closing(streamed(ROLE, b'data: {"error": {"message": "no"}}\n\n')),
    "empty_stream": closing(streamed(DONE)),
    "bad_frame": closing(b"what is this\r\n\r\n"),
    "upstream_truncated": closing(chunked(ROLE)),
}


def rows(text: str, title: str) -> dict[str, list[str]]:
    """Give the rows under a title, by their first cell; lines that go on are joined."""
    found: dict[str, list[str]] = {}
    lines = iter(text.splitlines())
    for line in lines:
        if line.strip() == title:
            break
    last: list[str] = []
    for line in lines:
        if not line.strip():
            break
        cells = [cell for cell in line.strip().split("  ") if cell]
        if len(cells) == 1 and last:
            last[-1] += f" {cells[0].strip()}"
        else:
            last = found[cells[0].strip()] = [cell.strip() for cell in cells[1:]]
    return found


FAILURES = "What follows a failure before the first content"


def then(text: str, code: str) -> str:
    return rows(text, FAILURES)[code][-1]


def hits_of(sentence: str, targets: int) -> tuple[list[int], str | None]:
    """Give what a sentence foretells when all targets fail so: the requests that each gets, and `x-should-retry`."""
    return {
        "the client is told, with x-should-retry: false": ([1, 0], "false"),
        "the client is told: there is no other target": ([1, 0], None),
        "the client is told: one attempt is all": ([1, 0], None),
        "the next target at once": ([1, 1], None),
        "the next target at once; where there is none, here again, 2 attempts in all": ([1, 2], None),
        "the next target at once; where there is none, here again, 3 attempts in all": ([1, 3], None),
        "here again, 2 attempts in all": ([2, 0], None),
        "here again, 3 attempts in all": ([3, 0], None),
        "here again, 2 attempts in all; then the next target": ([2, 2], None),
        "here again, 3 attempts in all; then the next target": ([3, 3], None),
    }[sentence]


@asynccontextmanager
async def upstreams(script: Script, number: int) -> AsyncIterator[Sequence[ScriptedUpstream]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(scripted_upstream(script)) for _ in range(number)]


@pytest.mark.parametrize("attempts", [1, 2, 3])
@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("code", FAILING)
def test_what_is_said_about_a_failure_is_what_happens(
    code: str, targets: int, attempts: int, capsys: pytest.CaptureFixture[str]
) -> None:
    retry = {"max_attempts": attempts, "initial_delay": 0.001, "max_delay": 0.001}

    async def work() -> None:
        async with upstreams(FAILING[code], targets) as asked:
            names = [f"p{number}" for number in range(targets)]
            sections: dict[str, Any] = {
                "providers": [
                    {"name": name, "base_url": up.base_url, "retry": retry}
                    for name, up in zip(names, asked, strict=True)
                ],
                "models": [
                    {"name": "mock", "targets": [{"provider": name, "priority": n} for n, name in enumerate(names)]}
                ],
            }
            assert explain(make_config("http://unused", **sections), "mock") == 0
            hits, header = hits_of(then(capsys.readouterr().out, code), targets)
            async with gateway("http://unused", **sections) as running:
                reply = await ask(running.port, chat())
                entry = await running.entry()
                assert entry.code == code
                assert [sum(len(peer.requests) for peer in up.peers) for up in asked] == hits[:targets]
                assert reply.headers.get("x-should-retry") == header
                assert reply.status == (TABLE[code].status if code not in KEPT else KEPT[code])

    run(work)


KEPT = {"upstream_rejected": 422, "upstream_failed": 503}
"""A provider's own status, where it is kept."""


@pytest.mark.parametrize("failures", [0, 1])
def test_what_counts_against_a_target_is_what_opens_its_breaker(
    failures: int, capsys: pytest.CaptureFixture[str]
) -> None:
    breaker = {"breaker": {"failures": failures, "ratio": 0}}
    for code, script in FAILING.items():

        async def work(code: str = code, script: Script = script) -> None:
            async with upstreams(script, 1) as (upstream,):
                explain(make_config("http://unused", provider=breaker), "mock")
                counts = rows(capsys.readouterr().out, FAILURES)[code][1] == "counts"
                async with gateway(upstream.base_url, provider=breaker) as running:
                    await ask(running.port, chat())
                    health: Any = running.tidegate.health.summary()["breakers"]
                    assert (health["main/mock"] == "open") is (counts and failures == 1), code

        run(work)


def test_every_verdict_has_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    explain(make_config("http://unused"), "mock")
    said = capsys.readouterr().out
    elsewhere = {"completed", "cancelled", "bug"}
    words = set(said.replace(",", " ").split())
    assert {code for code in TABLE if code not in words} == elsewhere
    assert all(len(line) <= WIDTH for line in said.splitlines())
    assert set(rows(said, FAILURES)) & set(FAILING) == set(FAILING)


LARGE: dict[str, Any] = {
    "providers": [
        {"name": "main", "slots": {"max_streams": 20, "max_queue": 7}, "retry": {"max_attempts": 4}},
        {"name": "other", "breaker": {"failures": 0, "ratio": 0}, "retry_budget": {"burst": 3}},
    ],
    "models": [
        {
            "name": "large",
            "aliases": ["big"],
            "balance": "sticky",
            "sticky_by": "x-session",
            "hedge": {"after": 0.8},
            "targets": [
                {"provider": "other", "model": "late", "priority": 2, "timeouts": {"idle": 0}},
                {"provider": "main", "model": "first", "weight": 3, "max_streams": 5},
                {"provider": "main", "model": "resting", "weight": 0},
            ],
        },
        {"name": "wild/*", "targets": [{"provider": "other", "model": "x-*"}]},
    ],
    "limits": {
        "rate": [
            {"by": "key", "requests_per_minute": 5, "burst": 2, "tokens_per_minute": 700, "max_streams": 3},
            {"by": "ip", "requests_per_minute": 9},
        ],
        "max_connections": 0,
        "max_connections_per_ip": 4,
    },
    "server": {"request_timeout": 0},
}


def test_targets_are_told_with_all_that_is_set_about_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(make_config("http://unused", **LARGE), "big") == 0
    said = capsys.readouterr().out
    about = rows(said, "A request for big")
    assert about["model"] == ["large"]
    assert about["balance"] == ["sticky, by x-session"]
    assert about["hedge"][0].startswith("after 800ms")
    order = [said.index(f"  {name}\n") for name in ("main/first", "main/resting", "other/late")]
    assert order == sorted(order)
    first, resting, late = (rows(said, name) for name in ("main/first", "main/resting", "other/late"))
    assert first["asked"] == ["priority 0, weight 3"]
    assert first["retry"][0].startswith("4 attempts in all")
    assert first["slots"] == ["5 streams and 20 streams of all models of main at a time; 7 may wait, for 10s"]
    assert "never asked" in resting["asked"][0]
    assert late["retry"] == ["none"]
    assert late["breaker"] == ["off"]
    assert late["slots"] == ["no limit"]
    assert late["budget"][0].startswith("3 extra attempts")
    assert "idle no limit" in late["deadlines"][0]
    assert then(said, "upstream_failed") == "here again, as its retry says; then the next target"
    stack = rows(said, "The stack, outermost first")
    assert list(stack) == ["admission", "turn", "slots", "breaker", "deadlines", "opening"]
    assert stack["admission"][0] == (
        "auth.mode open; any number of connections, 4 of one address; 512MiB held for all; "
        "by key 5 requests a minute (2 at once), 700 tokens a minute, 3 requests at a time; by ip 9 requests a minute"
    )
    assert "no limit for the whole exchange" in stack["turn"][0]


@pytest.mark.parametrize(
    ("retry", "said"),
    [
        ({"max_attempts": 2}, "2 attempts in all, a random wait of at most 250ms between them"),
        ({"max_attempts": 3}, "3 attempts in all, a random wait of at most 250ms, doubled each time up to 2s, between them"),
        ({"max_attempts": 3, "initial_delay": 2, "max_delay": 1}, "3 attempts in all, a random wait of at most 1s between them"),
    ],
)  # fmt: skip
def test_the_wait_between_attempts_is_told_as_it_grows(
    retry: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    explain(make_config("http://unused", provider={"retry": retry}), "mock")
    assert rows(capsys.readouterr().out, "main/mock")["retry"] == [said]


@pytest.mark.parametrize(
    ("whole", "cut"),
    [
        (1200, ""),
        (720, "; the 12m of server.request_timeout are over before total"),
        (600, "; the 10m of server.request_timeout are over before total"),
        (60, "; the 1m of server.request_timeout are over before first_token, total and response"),
    ],
)
def test_deadlines_that_the_whole_exchange_does_not_outlast_are_told(
    whole: int, cut: str, capsys: pytest.CaptureFixture[str]
) -> None:
    explain(make_config("http://unused", server={"request_timeout": whole}), "mock")
    phases = "connect 10s, headers 1m, first_token 5m, idle 30s, total 15m, response 10m"
    assert rows(capsys.readouterr().out, "main/mock")["deadlines"] == [f"{phases}{cut}"]


def test_what_opens_a_breaker_is_told_and_whose_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    models = [{"name": "wild/*", "targets": [{"provider": "main"}]}, {"name": "m", "targets": [{"provider": "main"}]}]
    config = make_config("http://unused", provider={"breaker": {"failures": 3, "open_for": 9}}, models=models)
    opens = (
        "opens after 3 calls in a row that did not open, or as many streams in a row that were cut, or after failures of "
        "50% of at least 20 calls in 1m, for 9s, each time twice as long up to 5m, until a stream completes; closes after "
        "2 good probes"
    )
    explain(config, "m")
    assert rows(capsys.readouterr().out, "main/m")["breaker"] == [opens]
    long = make_config("http://unused", provider={"breaker": {"open_for": 600}})
    explain(config, "wild/x")
    assert rows(capsys.readouterr().out, "main/x")["breaker"] == [f"{opens}; this name has one to itself"]
    explain(long, "mock")
    assert ", for 10m; closes after" in rows(capsys.readouterr().out, "main/mock")["breaker"][0]


@pytest.mark.parametrize(
    ("server", "limits", "gone", "slow"),
    [
        ({}, {}, "closed at once", "took nothing for 30s or was the slowest when more than 512MiB"),
        ({"on_client_disconnect": "finish"}, {"max_buffered_bytes": 0}, "may end without it", "took nothing for 30s:"),
        ({"slow_client_timeout": 0}, {}, "closed at once", "the client was the slowest when more than 512MiB"),
        ({"slow_client_timeout": 0}, {"max_buffered_bytes": 0}, "closed at once", ""),
    ],
)
def test_what_ends_a_stream_from_its_clients_side_is_told(
    server: dict[str, Any], limits: dict[str, Any], gone: str, slow: str, capsys: pytest.CaptureFixture[str]
) -> None:
    explain(make_config("http://unused", server=server, limits=limits), "mock")
    said = capsys.readouterr().out
    endings = rows(said, "What ends a stream whose content is on its way")
    assert gone in endings["client_gone"][-1]
    assert slow in endings.get("client_slow", [""])[-1]
    assert ("client_slow" in endings) is bool(slow)
    assert "error frame" in endings["deadline_exceeded"][-1]
    memory = "no limit of memory" if limits else "512MiB held for all"
    assert rows(said, "The stack, outermost first")["admission"] == [
        f"auth.mode open; 10000 connections; {memory}; no rates"
    ]


def test_a_model_with_one_target_that_is_ever_asked_has_no_next(capsys: pytest.CaptureFixture[str]) -> None:
    providers = [{"name": "main"}, {"name": "resting", "retry": {"max_attempts": 4}}]
    models = [{"name": "m", "targets": [{"provider": "main"}, {"provider": "resting", "weight": 0}]}]
    explain(make_config("http://unused", providers=providers, models=models), "m")
    said = capsys.readouterr().out
    assert "next target" not in said
    assert then(said, "upstream_failed") == "the client is told: one attempt is all"
    assert rows(said, "A request for m")["balance"] == ["one target: nothing to choose"]


def test_a_name_behind_a_wildcard_is_told_as_its_provider_hears_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(make_config("http://unused", **LARGE), "wild/seven") == 0
    said = capsys.readouterr().out
    assert rows(said, "A request for wild/seven")["model"] == ["wild/*"]
    assert "asked" in rows(said, "other/x-seven")


@pytest.mark.parametrize("name", ["nobody", "wild/", "wild/*", ""])
def test_an_unknown_model_is_an_error_with_the_names_that_there_are(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(make_config("http://unused", **LARGE), name) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert f"error: no model {name!r}" in told.err
    assert "large, wild/*" in told.err


@pytest.mark.parametrize(
    ("local", "slots", "predictions", "told"),
    [
        ({}, {}, {}, (
            "1 process runs m.py:Model, as many predictions", "10m for setup", "as many predictions as its processes have room for",
            "timeout no limit", "kept for who comes late or reads slowly; 1024 readers", "during 1h, at most 10000 of them",
        )),
        ({"workers": 3, "setup_timeout": 0, "cancel_grace": 2, "max_output_bytes": 1024}, {"max_streams": 5}, {
            "history": {"mode": "none", "max_events": 9}, "timeout": 60, "max_subscribers": 8, "retain": 60, "max_retained": 4,
        }, (
            "3 processes run m.py:Model, each as many predictions", "no limit for setup; at most 1KiB of output",
            "has 2s to end", "5 streams of all models of main at a time", "timeout 1m (predictions.timeout)",
            "the newest 9 events", "kept for who reads slowly alone; 8 readers", "during 1m, at most 4 of them",
        )),
    ],
)  # fmt: skip
def test_where_a_model_of_our_own_runs_and_what_is_kept_of_its_predictions_is_told(
    local: dict[str, Any], slots: dict[str, Any], predictions: dict[str, Any], told: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    provider = {"kind": "local", "local": {"handler": "m.py:Model", **local}, "slots": slots}
    assert explain(make_config("", provider=provider, predictions=predictions), "mock") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert [part for part in told if part not in said] == []


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_explains_and_exits_with_0(tmp_path: Path) -> None:
    done = tidegate("explain", "mock?ttft=1s", "-c", str(write_config(tmp_path)))
    assert (done.returncode, done.stderr) == (0, "")
    assert "  main/mock?ttft=1s\n" in done.stdout


@pytest.mark.slow
def test_the_command_exits_with_2_for_a_model_or_a_file_that_is_not_there(tmp_path: Path) -> None:
    file = write_config(tmp_path)
    unknown = tidegate("explain", "nobody", "-c", str(file))
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == "error: no model 'nobody' in this configuration; it has mock\n"
    missing = tidegate("explain", "mock", "-c", "nowhere.yaml", cwd=tmp_path)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "nowhere.yaml" in missing.stderr


@pytest.mark.slow
def test_the_help_of_the_command_shows_an_example() -> None:
    assert "Example:  tidegate explain" in tidegate("explain", "--help").stdout


@pytest.mark.slow
def test_no_secret_is_explained(tmp_path: Path) -> None:
    providers = [
        {
            "name": "main",
            "kind": "openai",
            "base_url": "http://127.0.0.1:1/v1",
            "api_key": "sk-canary-0",
            "headers": {"x-key": "sk-canary-1"},
        }
    ]
    done = tidegate("explain", "mock", "-c", str(write_config(tmp_path, providers=providers)))
    assert done.returncode == 0
    assert "canary" not in done.stdout + done.stderr
