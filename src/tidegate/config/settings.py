"""The whole configuration: the rooms' own settings, composed."""

from msgspec import Struct

from tidegate.admission.settings import AuthSettings, LimitSettings, ModelSettings
from tidegate.dispatch.settings import BreakerSettings, RetryBudgetSettings, RetrySettings, SlotSettings
from tidegate.edge.settings import OpsSettings, ServerSettings
from tidegate.observe.settings import ObserveSettings
from tidegate.predictions.settings import PredictionSettings
from tidegate.upstream.settings import ProviderSettings as UpstreamSettings
from tidegate.worker.settings import LocalSettings


class ProviderSettings(UpstreamSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One provider: where it is, and how attempts at it are made."""

    retry: RetrySettings = RetrySettings()
    retry_budget: RetryBudgetSettings = RetryBudgetSettings()
    slots: SlotSettings = SlotSettings()
    breaker: BreakerSettings = BreakerSettings()
    local: LocalSettings = LocalSettings()

    __repr__ = UpstreamSettings.__repr__


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything the file may say, as the rooms understand it: seconds, bytes, counts."""

    server: ServerSettings = ServerSettings()
    ops: OpsSettings = OpsSettings()
    auth: AuthSettings = AuthSettings()
    providers: tuple[ProviderSettings, ...] = ()
    models: tuple[ModelSettings, ...] = ()
    limits: LimitSettings = LimitSettings()
    predictions: PredictionSettings = PredictionSettings()
    observe: ObserveSettings = ObserveSettings()
