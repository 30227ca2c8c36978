"""What the file may say about the client's side."""

from typing import Literal

from msgspec import Struct, field

from tidegate.kernel.units import Count, Duration, Size


class TlsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Paths of the PEM files to serve TLS with; both empty is plain HTTP."""

    cert: str = ""
    key: str = ""


class ServerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The main port: where it listens, what a client may send, how long it may take."""

    host: str = "127.0.0.1"
    port: Count = 8080
    tls: TlsSettings = TlsSettings()
    max_header_bytes: Size = 64 * 1024
    max_body_bytes: Size = 20 * 1024 * 1024
    header_timeout_s: Duration = field(default=10.0, name="header_timeout")
    body_timeout_s: Duration = field(default=60.0, name="body_timeout")
    keep_alive_s: Duration = field(default=75.0, name="keep_alive")
    heartbeat_s: Duration = field(default=15.0, name="heartbeat")
    slow_client_timeout_s: Duration = field(default=30.0, name="slow_client_timeout")
    on_client_disconnect: Literal["cancel", "finish"] = "cancel"
    request_timeout_s: Duration = field(default=1200.0, name="request_timeout")
    drain_delay_s: Duration = field(default=5.0, name="drain_delay")
    drain_timeout_s: Duration = field(default=30.0, name="drain_timeout")
    trusted_proxies: tuple[str, ...] = ()


class OpsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ops listener: metrics and health, exempt from limits. Shape: `host:port`; empty is none."""

    listen: str = "127.0.0.1:9464"
