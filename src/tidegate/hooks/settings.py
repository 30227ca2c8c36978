"""What the file may say about requests to addresses that clients name."""

from msgspec import Struct, field

from tidegate.kernel.units import Count, Duration, Secret, Size


class FileSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How files are fetched whose URLs are inputs. Shape: `allow_private` lets them be on addresses that are not public.

    Holds: `max_bytes` is for all files of a prediction together, data URIs too, and `timeout` for all fetching of one.
    """

    max_bytes: Size = 100 * 1024 * 1024
    timeout_s: Duration = field(default=60.0, name="timeout")
    max_redirects: Count = 5
    allow_private: bool = False


class WebhookSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How webhooks are sent. Shape: `secret` signs them, `whsec_` and base64; `token` is a bearer. `interval` is the least time between two of a prediction."""

    secret: Secret = Secret("")
    token: Secret = Secret("")
    interval_s: Duration = field(default=0.5, name="interval")
    timeout_s: Duration = field(default=30.0, name="timeout")
    max_attempts: Count = 13
    allow_private: bool = False
