"""`tidegate explain MODEL`: what the configuration makes of a request for a model, from its settings alone."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

import typer

from tidegate.admission.catalogue import Catalogue
from tidegate.admission.settings import RateSettings
from tidegate.config import Config, ProviderSettings, written_duration, written_size
from tidegate.dispatch.breaker import LONGEST_S
from tidegate.exchange import Model, Target
from tidegate.verdict import (
    BAD_FRAME,
    CLIENT_GONE,
    CLIENT_SLOW,
    DEADLINE_EXCEEDED,
    TABLE,
    TOTAL_TIMEOUT,
    UPSTREAM_RATE_LIMITED,
    UPSTREAM_RESET,
    UPSTREAM_TRUNCATED,
    Again,
    Refused,
    Verdict,
)
from tidegate.worker.settings import LocalSettings

WIDTH: Final = 116
"""Columns that sentences are wrapped at."""
EITHER: Final = (UPSTREAM_TRUNCATED, UPSTREAM_RESET, TOTAL_TIMEOUT, BAD_FRAME)
"""What can happen before the first content and after it."""

Row = tuple[str, ...]


def explain(config: Config, name: str) -> int:
    """Print the stack in order, the targets, and what each verdict would do; gives the exit code."""
    mocks = frozenset(provider.name for provider in config.providers if provider.kind == "mock")
    catalogue = Catalogue(config.models, mocks)
    try:
        model = catalogue.find(name)
    except Refused:
        known = ", ".join(catalogue.names)
        typer.echo(f"error: no model {name!r} in this configuration; it has {known}", err=True)
        return 2
    providers = {provider.name: provider for provider in config.providers}
    _print(f"A request for {name}", list(_about(model)))
    _print("The stack, outermost first", list(_stack(config)))
    typer.echo("Targets, in the order of their priority")
    for target in sorted(model.targets, key=lambda target: target.priority):
        rows = list(_target(target, providers[target.provider], config.server.request_timeout_s))
        _print(f"  {target.provider}/{target.model}", rows, indent=4)
    if any(providers[target.provider].kind == "local" for target in model.targets):
        _print("Predictions", list(_predictions(config, model.name)))
    _print("What follows a failure before the first content", list(_failures(model, providers)))
    for sentence in _rules(model):
        typer.echo(textwrap.fill(sentence, WIDTH, initial_indent="  ", subsequent_indent="    "))
    typer.echo("")
    _print("What ends a stream whose content is on its way", list(_endings(config)))
    _print("What is told before any target is asked", list(_refusals()))
    return 0


def _print(title: str, rows: Sequence[Row], indent: int = 2) -> None:
    """Print rows in columns, the last of them wrapped."""
    typer.echo(title)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        begin = f"{' ' * indent}{cells}  "
        typer.echo(textwrap.fill(row[-1], WIDTH, initial_indent=begin, subsequent_indent=" " * len(begin)))
    typer.echo("")


def _about(model: Model) -> Iterator[Row]:
    sticks = f", by {model.sticky_by}" if model.balance == "sticky" else ""
    hedged = f"after {written_duration(model.hedge_after_s)} without content another target is asked beside the first"
    yield "model", model.name
    yield "balance", f"{model.balance}{sticks}" if _several(model) else "one target: nothing to choose"
    yield "hedge", hedged if model.hedge_after_s else "off"


def _stack(config: Config) -> Iterator[Row]:
    whole = config.server.request_timeout_s
    yield "admission", "; ".join(_admission(config))
    yield "turn", f"route, retry, fall back, hedge; {_limit(whole)} for the whole exchange (server.request_timeout)"
    yield "slots", "each attempt holds one where there is a limit, to the end of its stream"
    yield "breaker", "each attempt needs the permit of its target's breaker"
    yield "deadlines", "each phase of an attempt has its own"
    yield "opening", "each attempt is signed anew, and held back until its first content"


def _admission(config: Config) -> Iterator[str]:
    limits = config.limits
    yield f"auth.mode {config.auth.mode}"
    crowd = f"{limits.max_connections} connections" if limits.max_connections else "any number of connections"
    yield crowd + (f", {limits.max_connections_per_ip} of one address" if limits.max_connections_per_ip else "")
    yield (
        f"{written_size(limits.max_buffered_bytes)} held for all" if limits.max_buffered_bytes else "no limit of memory"
    )
    if not limits.rate:
        yield "no rates"
    for rule in limits.rate:
        yield f"by {rule.by} {', '.join(_measures(rule))}"


def _measures(rule: RateSettings) -> Iterator[str]:
    if rule.requests_per_minute:
        at_once = f" ({rule.burst} at once)" if rule.burst else ""
        yield f"{rule.requests_per_minute} requests a minute{at_once}"
    if rule.tokens_per_minute:
        yield f"{rule.tokens_per_minute} tokens a minute"
    if rule.max_streams:
        yield f"{rule.max_streams} requests at a time"


def _limit(seconds: float) -> str:
    return written_duration(seconds) if seconds else "no limit"


def _target(target: Target, provider: ProviderSettings, whole_s: float) -> Iterator[Row]:
    budget = provider.retry_budget
    never = "" if target.weight else ": never asked"
    yield "asked", f"priority {target.priority}, weight {target.weight}{never}"
    yield "retry", _retry(provider)
    extra = f"{budget.burst:g} extra attempts, and {budget.rate_per_second:g} a second"
    yield "budget", f"{extra}, and {budget.ratio:g} for each first attempt; shared by all models of {provider.name}"
    yield "slots", _slots(target, provider)
    yield "breaker", _breaker(target, provider)
    yield "deadlines", _deadlines(target, whole_s)
    if provider.kind == "local":
        yield "processes", _processes(provider.local)


def _processes(local: LocalSettings) -> str:
    """Say where a model of our own runs, and what bounds it there."""
    workers = f"{local.workers} processes run" if local.workers != 1 else "1 process runs"
    at_once = "as many predictions at a time as its @concurrent says, 1 without it"
    setup = f"{written_duration(local.setup_timeout_s)} for setup" if local.setup_timeout_s else "no limit for setup"
    grace, most = written_duration(local.cancel_grace_s), written_size(local.max_output_bytes)
    each = "each " if local.workers != 1 else ""
    return (
        f"{workers} {local.handler}, {each}{at_once}; {setup}; at most {most} of output; what is cancelled has {grace} to "
        "end, then its process is replaced"
    )


def _predictions(config: Config, name: str) -> Iterator[Row]:
    """Say what becomes of predictions of a model of our own."""
    kept, history = config.predictions, config.predictions.history
    room = f"{history.max_events} events and {written_size(history.max_bytes)} of each"
    yield "asked", f"/v1/models/{name}/predictions, and /predictions where it is the only one; once, at a local target"
    yield "timeout", f"{_limit(kept.timeout_s)} (predictions.timeout); server.request_timeout is not for them"
    late = "kept for who comes late or reads slowly" if history.mode == "keep" else "kept for who reads slowly alone"
    yield "events", f"the newest {room} {late}; {kept.max_subscribers} readers of each"
    most = f"{kept.max_retained} of them and {written_size(kept.max_retained_bytes)}"
    yield "over", f"can be asked for during {written_duration(kept.retain_s)}, at most {most}"


def _retry(provider: ProviderSettings) -> str:
    retry = provider.retry
    if retry.max_attempts < 2:
        return "none"
    first, longest = min(retry.initial_delay_s, retry.max_delay_s), retry.max_delay_s
    grows = retry.max_attempts > 2 and first < longest
    delays = written_duration(first) + (f", doubled each time up to {written_duration(longest)}," if grows else "")
    return f"{retry.max_attempts} attempts in all, a random wait of at most {delays} between them"


def _deadlines(target: Target, whole_s: float) -> str:
    """Give the phases' limits, and which of them the whole exchange's never lets pass."""
    timeouts = target.timeouts
    phases = (
        ("connect", timeouts.connect_s),
        ("headers", timeouts.headers_s),
        ("first_token", timeouts.first_token_s),
        ("idle", timeouts.idle_s),
        ("total", timeouts.total_s),
        ("response", timeouts.response_s),
    )
    never = [name for name, seconds in phases if 0 < whole_s < seconds]
    cut = (
        f"; the {written_duration(whole_s)} of server.request_timeout are over before {_listed(never)}" if never else ""
    )
    return ", ".join(f"{name} {_limit(seconds)}" for name, seconds in phases) + cut


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _slots(target: Target, provider: ProviderSettings) -> str:
    own, shared = target.max_streams, provider.slots.max_streams
    streams = [f"{own} streams"] * bool(own) + [f"{shared} streams of all models of {provider.name}"] * bool(shared)
    if provider.kind == "local" and not shared:
        streams.append("as many predictions as its processes have room for")
    if not streams:
        return "no limit"
    wait = provider.slots.max_queue_wait_s
    patience = f"for {written_duration(wait)}" if wait else "as long as they like"
    return f"{' and '.join(streams)} at a time; {provider.slots.max_queue} may wait, {patience}"


def _breaker(target: Target, provider: ProviderSettings) -> str:
    breaker, opens = provider.breaker, list[str]()
    if breaker.failures:
        opens.append(f"{breaker.failures} calls in a row that did not open, or as many streams in a row that were cut")
    if breaker.ratio:
        window = written_duration(breaker.window_s)
        opens.append(f"failures of {breaker.ratio:.0%} of at least {breaker.min_calls} calls in {window}")
    if not opens:
        return "off"
    longer = f", each time twice as long up to {written_duration(LONGEST_S)}, until a stream completes"
    pause = f"for {written_duration(breaker.open_for_s)}{longer if breaker.open_for_s < LONGEST_S else ''}"
    apart = "; this name has one to itself" if target.asked else ""
    return f"opens after {', or after '.join(opens)}, {pause}; closes after {breaker.successes} good probes{apart}"


def _several(model: Model) -> bool:
    return sum(target.weight > 0 for target in model.targets) > 1


def _failures(model: Model, providers: dict[str, ProviderSettings]) -> Iterator[Row]:
    yield "code", "status", "breaker", "then"
    attempts = {max(1, providers[target.provider].retry.max_attempts) for target in model.targets if target.weight}
    for verdict in TABLE.values():
        if verdict.stage == "opening" or verdict in EITHER or verdict.again is Again.ELSEWHERE:
            then = _then(verdict, attempts, several=_several(model))
            yield verdict.code, str(verdict.status), "counts" if verdict.trips else "-", then


def _then(verdict: Verdict, attempts: set[int], *, several: bool) -> str:
    """Say what follows a verdict before the first content. Shape: `attempts` are those that targets are given."""
    if verdict.again is Again.NEVER:
        return "the client is told, with x-should-retry: false"
    if verdict.again is Again.ELSEWHERE:
        return "the next target at once" if several else "the client is told: there is no other target"
    again = f"here again, {max(attempts)} attempts in all" if len(attempts) == 1 else "here again, as its retry says"
    if max(attempts) == 1:
        return "the next target at once" if several else "the client is told: one attempt is all"
    if verdict is UPSTREAM_RATE_LIMITED and several:
        return f"the next target at once; where there is none, {again}"
    return f"{again}; then the next target" if several else again


def _rules(model: Model) -> Iterator[str]:
    if _several(model):
        yield "A failure with a Retry-After goes to the next target at once, and is waited for only where there is none."
        yield "Targets are skipped while their breaker is open, and after a 429 until its Retry-After has passed."
    yield "A Retry-After above retry.max_retry_after, or beyond the exchange's own deadline, is not waited for."
    yield (
        "An attempt after one that was sent is paid for by its target's budget; where that is empty, "
        f"{'the next target that can pay is asked, and when none can ' if _several(model) else ''}the client is told at "
        "once, with x-should-retry: false."
    )


def _endings(config: Config) -> Iterator[Row]:
    yield "code", "breaker", "then"
    for verdict in TABLE.values():
        if verdict.stage == "streaming" or verdict in (BAD_FRAME, DEADLINE_EXCEEDED):
            then = "an error frame with this code, and the end; nothing is tried again"
            yield verdict.code, "counts" if verdict.trips else "-", then
    finishes = config.server.on_client_disconnect == "finish"
    left = (
        "the provider may end without it, within bounds" if finishes else "the provider's connection is closed at once"
    )
    yield CLIENT_GONE.code, "-", f"the client left: {left}"
    if config.server.slow_client_timeout_s or config.limits.max_buffered_bytes:
        yield CLIENT_SLOW.code, "-", f"{_slowness(config)}: both connections are closed"


def _slowness(config: Config) -> str:
    """Give how a client comes to be too slow."""
    patience, memory = config.server.slow_client_timeout_s, config.limits.max_buffered_bytes
    late = f"took nothing for {written_duration(patience)}" if patience else ""
    much = f"was the slowest when more than {written_size(memory)} were held" if memory else ""
    return f"the client {' or '.join(filter(None, (late, much)))}"


def _refusals() -> Iterator[Row]:
    codes: dict[int, list[str]] = {}
    for verdict in TABLE.values():
        if verdict.stage == "refusal" and verdict.again is not Again.ELSEWHERE:
            codes.setdefault(verdict.status, []).append(verdict.code)
    for status in sorted(codes):
        yield str(status), ", ".join(codes[status])
