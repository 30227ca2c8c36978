"""What the file may say about a model in our own processes."""

from msgspec import Struct, field

from tidegate.kernel.units import Count, Duration, Size


class LocalSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A handler and the processes it runs in. Shape: `handler` is `file.py:Name` or `package.module:Name`.

    Holds: each of `workers` processes runs as many predictions at a time as the handler's `@concurrent` says;
    `cancel_grace` is how long a cancelled one has until its process is replaced; 0 of `setup_timeout` is no limit.
    """

    handler: str = ""
    workers: Count = 1
    setup_timeout_s: Duration = field(default=600.0, name="setup_timeout")
    cancel_grace_s: Duration = field(default=5.0, name="cancel_grace")
    max_output_bytes: Size = 256 * 1024 * 1024
