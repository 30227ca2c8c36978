"""`tidegate explain MODEL`: what the configuration makes of a request for a model, from its settings alone."""

from collections.abc import Iterator, Sequence

import typer

from tidegate.admission.catalogue import Catalogue
from tidegate.config import Config, ProviderSettings, written_duration
from tidegate.exchange import Model, Target
from tidegate.verdict import TABLE, Again, Refused, Verdict

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
    for title, rows in (
        (f"A request for {name}", list(_about(model))),
        ("The stack, outermost first", list(_stack(config, model, providers))),
        ("Targets, in the order of their priority", list(_targets(model, providers))),
        ("What each verdict does", list(_verdicts(model, providers))),
    ):
        typer.echo(title)
        _print(rows)
    return 0


def _print(rows: Sequence[Row]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        typer.echo("  " + "  ".join([*cells, row[-1]]).rstrip())
    typer.echo("")


def _about(model: Model) -> Iterator[Row]:
    yield "model", model.name
    sticks = f", by {model.sticky_by}" if model.balance == "sticky" else ""
    yield "balance", f"{model.balance}{sticks}" if len(model.targets) > 1 else "one target: nothing to choose"
    yield "hedge", f"after {written_duration(model.hedge_after_s)}" if model.hedge_after_s else "off"


def _stack(config: Config, model: Model, providers: dict[str, ProviderSettings]) -> Iterator[Row]:
    limits, server = config.limits, config.server
    whole = written_duration(server.request_timeout_s) if server.request_timeout_s else "no limit"
    used = [providers[target.provider] for target in model.targets]
    yield "admission", f"{config.auth.mode}; {limits.max_connections or 'any number of'} connections, " + _rates(config)
    yield "turn", f"route, retry, fall back; the whole exchange: {whole} (server.request_timeout)"
    bounded = any(p.slots.max_streams for p in used) or any(target.max_streams for target in model.targets)
    yield "slots", "each attempt holds one to the end of its stream" if bounded else "no limit (slots.max_streams is 0)"
    yield "breaker", "each attempt needs the permit of its target's breaker"
    yield "deadlines", "connect, headers, first_token, total while it opens; idle and total while it streams"
    yield "opening", "signed anew for each attempt; held until the first content"


def _rates(config: Config) -> str:
    rules = [f"by {rule.by}" for rule in config.limits.rate]
    return f"rates {', '.join(rules)}" if rules else "no rates"


def _targets(model: Model, providers: dict[str, ProviderSettings]) -> Iterator[Row]:
    yield "priority", "weight", "target", "attempts", "extra attempts", "streams", "breaker", "first_token, idle, total"
    for target in sorted(model.targets, key=lambda target: target.priority):
        yield _target(target, providers[target.provider])


def _target(target: Target, provider: ProviderSettings) -> Row:
    budget, slots, breaker, limits = provider.retry_budget, provider.slots, provider.breaker, target.timeouts
    streams = " and ".join(str(number) for number in (target.max_streams, slots.max_streams) if number) or "no limit"
    rule = (
        f"{breaker.failures} in a row, {breaker.ratio:g} of {breaker.min_calls}, {written_duration(breaker.open_for_s)}"
    )
    return (
        str(target.priority),
        str(target.weight),
        f"{target.provider}/{target.model}",
        str(provider.retry.max_attempts),
        f"{budget.burst:g} + {budget.rate_per_second:g}/s + {budget.ratio:g} of the first",
        streams,
        rule if breaker.failures or breaker.ratio else "off",
        ", ".join(written_duration(seconds) for seconds in (limits.first_token_s, limits.idle_s, limits.total_s)),
    )


def _verdicts(model: Model, providers: dict[str, ProviderSettings]) -> Iterator[Row]:
    yield "code", "status", "breaker", "then"
    attempts = max(providers[target.provider].retry.max_attempts for target in model.targets)
    several = sum(target.weight > 0 for target in model.targets) > 1
    for verdict in TABLE.values():
        if verdict.stage in ("opening", "streaming") or verdict.again is Again.ELSEWHERE:
            counts = "counts" if verdict.trips else "-"
            then = _then(verdict, attempts, several=several)
            if verdict.stage == "streaming":
                then = f"with content on its way: an error frame, and nothing else; before: {then}"
            yield verdict.code, str(verdict.status), counts, then


def _then(verdict: Verdict, attempts: int, *, several: bool) -> str:
    """Say what follows a verdict before the first content."""
    if verdict.again is Again.NEVER:
        return "the client is told; nothing else is tried, and x-should-retry is false"
    if verdict.again is Again.ELSEWHERE:
        return "the next target at once" if several else "the client is told: there is no other target"
    if verdict.code == "upstream_rate_limited":
        here = "after Retry-After up to retry.max_retry_after"
        return f"the next target at once, this one rests; without another: again {here}" if several else f"again {here}"
    here = f"again here, {attempts} attempts in all" if attempts > 1 else "not tried again here"
    return f"{here}; then the next target" if several else here
