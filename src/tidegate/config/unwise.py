"""What loads and is unwise all the same: what never happens, what anybody may do, what this machine cannot hold."""

from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from operator import itemgetter
from typing import Final
from urllib.parse import urlsplit

from tidegate.admission.settings import LimitSettings, ModelSettings, TargetSettings
from tidegate.config.addresses import is_loopback
from tidegate.config.settings import Config, ProviderSettings
from tidegate.config.units import written_duration, written_number, written_size
from tidegate.dispatch.settings import SlotSettings
from tidegate.edge.settings import ServerSettings
from tidegate.exchange import Timeouts
from tidegate.upstream.kinds import kind_of
from tidegate.worker.settings import LocalSettings

_FILES_APART: Final = 200
_FILES_A_STREAM: Final = 2
_FEW_FILES: Final = 4096
_ENOUGH_FILES: Final = "raise it: ulimit -n 65536"

Bound = tuple[str, float]
"""What ends something else as well: how it is called, and its seconds; 0 is off."""


def warnings(config: Config, nofile_limit: int) -> list[str]:
    """Give what is unwise, a sentence each. Shape: a `nofile_limit` below 0 is no limit."""
    return [
        *_of_files(config.limits, nofile_limit),
        *_of_access(config),
        *_of_server(config.server),
        *_of_limits(config),
        *_of_providers(config),
        *_of_models(config),
    ]


def _of_files(limits: LimitSettings, nofile_limit: int) -> Iterator[str]:
    """Warn of few open files, and of fewer than the file counts on; the default of `max_connections` counts on none."""
    room = max(0, nofile_limit - _FILES_APART) // _FILES_A_STREAM
    if 0 <= nofile_limit < _FEW_FILES:
        yield f"the limit of {nofile_limit} open files leaves room for about {room} streams; {_ENOUGH_FILES}"
    elif nofile_limit >= 0 and room < limits.max_connections != LimitSettings().max_connections:
        yield (
            f"limits.max_connections of {limits.max_connections} never comes about: "
            f"{nofile_limit} open files are room for about {room} streams"
        )


def _of_access(config: Config) -> Iterator[str]:
    if config.auth.mode == "open":
        if config.auth.keys:
            yield "auth.keys are not asked for, as auth.mode is open"
        for position, provider in enumerate(config.providers):
            if provider.passthrough:
                yield f"providers[{position}].passthrough: anybody may ask {provider.name} anything, as auth.mode is open"
        if not is_loopback(config.server.host):
            yield f"auth.mode is open and server.host {config.server.host} can be reached from other machines"
    for proxy in config.server.trusted_proxies:
        if not ip_network(proxy).prefixlen:
            yield f"server.trusted_proxies: {proxy} is every address, so that clients choose the one they are judged by"


def _of_server(server: ServerSettings) -> Iterator[str]:
    if server.max_header_bytes < 1024:
        yield f"server.max_header_bytes of {server.max_header_bytes} bytes refuses ordinary requests"
    if server.max_body_bytes < 1024:
        yield f"server.max_body_bytes of {server.max_body_bytes} bytes refuses ordinary requests"
    if not server.header_timeout_s:
        yield "server.header_timeout is off: a client that sends nothing holds its connection for ever"
    for name, seconds in (
        ("body_timeout", server.body_timeout_s),
        ("slow_client_timeout", server.slow_client_timeout_s),
    ):
        yield from _late(f"server.{name}", seconds, ("request_timeout", server.request_timeout_s))


def _of_limits(config: Config) -> Iterator[str]:
    limits = config.limits
    if 0 < limits.max_connections < limits.max_connections_per_ip:
        yield (
            f"limits.max_connections_per_ip of {limits.max_connections_per_ip} is never reached: "
            f"max_connections of {limits.max_connections} is before"
        )
    if 0 < limits.max_buffered_bytes < config.server.max_body_bytes:
        yield (
            f"server.max_body_bytes of {written_size(config.server.max_body_bytes)} is never reached: "
            f"limits.max_buffered_bytes of {written_size(limits.max_buffered_bytes)} is before"
        )
    for position, rule in enumerate(limits.rate):
        if rule.by in ("key", "tenant") and config.auth.mode == "open":
            yield f"limits.rate[{position}]: all share one limit by {rule.by}, as auth.mode is open and asks for no keys"


def _of_providers(config: Config) -> Iterator[str]:
    exchange = "server.request_timeout", config.server.request_timeout_s
    for position, provider in enumerate(config.providers):
        path = f"providers[{position}]"
        targets = [target for model in config.models for target in model.targets if target.provider == provider.name]
        if not targets and not provider.passthrough:
            yield f"{path}: no model uses the provider {provider.name}"
        url = urlsplit(provider.base_url)
        secrets = provider.api_key or provider.api_key_file or provider.headers or provider.aws.session_token
        if url.scheme == "http" and not is_loopback(url.hostname or "") and secrets:
            yield f"{path}.base_url: credentials are sent without TLS"
        yield from _of_kind(provider, path)
        yield from _of_timeouts(provider.timeouts, exchange, f"{path}.timeouts")
        yield from _of_retry(provider, exchange, path)
        if provider.kind != "local":  # whose slots are as many as its processes have room for
            yield from _of_slots(provider.slots, targets, exchange, f"{path}.slots")


def _of_kind(provider: ProviderSettings, path: str) -> Iterator[str]:
    """Warn of settings that are for other kinds of providers."""
    kind, aws = kind_of(provider.kind), provider.aws
    if provider.local != LocalSettings() and provider.kind != "local":
        yield f"{path}.local: a provider of kind {provider.kind} has no processes here"
    if provider.api_version and "api_version" not in kind.needs:
        yield f"{path}.api_version: a provider of kind {provider.kind} is not asked with one"
    if (provider.auth or kind.auth) != "aws":
        if aws.profile or aws.access_key_id:
            yield f"{path}.aws: nothing is signed with these credentials, as the provider is asked with a key"
    elif aws.profile and aws.access_key_id:
        yield f"{path}.aws.profile is not looked at, as access_key_id is set"


def _of_timeouts(timeouts: Timeouts, exchange: Bound, path: str) -> Iterator[str]:
    total, response = ("total", timeouts.total_s), ("response", timeouts.response_s)
    yield from _late(f"{path}.connect", timeouts.connect_s, total, response, exchange)
    first_token = "first_token", timeouts.first_token_s
    yield from _late(f"{path}.headers", timeouts.headers_s, first_token, total, exchange)
    yield from _late(f"{path}.first_token", timeouts.first_token_s, total, exchange)
    yield from _late(f"{path}.idle", timeouts.idle_s, total, exchange)
    yield from _late(f"{path}.total", timeouts.total_s, exchange)
    yield from _late(f"{path}.response", timeouts.response_s, exchange)


def _late(path: str, inside_s: float, *bounds: Bound) -> Iterator[str]:
    """Warn of a time that the nearest of some bounds never lets pass."""
    name, around_s = min((bound for bound in bounds if bound[1]), key=itemgetter(1), default=("", 0.0))
    if 0 < around_s < inside_s:
        yield f"{path} of {written_duration(inside_s)} never passes: {name} of {written_duration(around_s)} does before"


def _of_retry(provider: ProviderSettings, exchange: Bound, path: str) -> Iterator[str]:
    retry, burst = provider.retry, provider.retry_budget.burst
    yield from _late(f"{path}.retry.initial_delay", retry.initial_delay_s, ("max_delay", retry.max_delay_s))
    yield from _late(f"{path}.retry.max_delay", retry.max_delay_s, exchange)
    yield from _late(f"{path}.retry.max_retry_after", retry.max_retry_after_s, exchange)
    if 0 < burst < 1:
        yield f"{path}.retry_budget.burst of {written_number(burst)} never pays for an attempt, which costs 1"


def _of_slots(slots: SlotSettings, targets: list[TargetSettings], exchange: Bound, path: str) -> Iterator[str]:
    if slots.max_streams or any(target.max_streams for target in targets):
        yield from _late(f"{path}.max_queue_wait", slots.max_queue_wait_s, exchange)
    elif slots != SlotSettings():
        yield f"{path}: nobody waits for a slot, as there is no max_streams here nor at a target"


def _of_models(config: Config) -> Iterator[str]:
    timeouts = {provider.name: provider.timeouts for provider in config.providers}
    exchange = "server.request_timeout", config.server.request_timeout_s
    for position, model in enumerate(config.models):
        path = f"models[{position}]"
        if model.balance != "sticky" and model.sticky_by != "user":
            yield f"{path}.sticky_by: nothing sticks, as balance is {model.balance}"
        yield from _late(f"{path}.hedge.after", model.hedge.after_s, _latest_content(model.targets), exchange)
        for number, target in enumerate(model.targets):
            if target.timeouts != timeouts[target.provider]:
                yield from _of_timeouts(target.timeouts, exchange, f"{path}.targets[{number}].timeouts")
    yield from _of_shared_slots(config.models)


def _latest_content(targets: Iterable[TargetSettings]) -> Bound:
    """Give when the most patient target that is ever asked has failed without content."""
    limits = [target.timeouts.first_token_s for target in targets if target.weight]
    return "its targets' first_token", max(limits, default=0.0) if all(limits) else 0.0


def _of_shared_slots(models: Iterable[ModelSettings]) -> Iterator[str]:
    """Warn of a second number of slots for what two models have in common: there is one queue for it."""
    first: dict[tuple[str, str], tuple[str, int]] = {}
    for position, model in enumerate(models):
        rest = "*" if model.name.endswith("*") else model.name
        for number, target in enumerate(model.targets):
            path = f"models[{position}].targets[{number}]"
            other, streams = first.setdefault((target.provider, target.model or rest), (path, target.max_streams))
            if target.max_streams != streams:
                yield f"{path}.max_streams has no effect: {other} is the same provider and model, and has {streams}"
