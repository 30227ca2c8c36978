"""The whole configuration: the rooms' own settings, composed."""

from msgspec import Struct

from tidegate.admission.settings import AuthSettings, ModelSettings
from tidegate.edge.settings import OpsSettings, ServerSettings
from tidegate.observe.settings import ObserveSettings
from tidegate.upstream.settings import ProviderSettings


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything the file may say, as the rooms understand it: seconds, bytes, counts."""

    server: ServerSettings = ServerSettings()
    ops: OpsSettings = OpsSettings()
    auth: AuthSettings = AuthSettings()
    providers: tuple[ProviderSettings, ...] = ()
    models: tuple[ModelSettings, ...] = ()
    observe: ObserveSettings = ObserveSettings()
