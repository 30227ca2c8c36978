"""What the file may say about a model in our own processes."""

from msgspec import Struct, field

from tidegate.kernel.units import Count, Duration, Secret, Size


class LocalSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A handler and the processes it runs in. Shape: `handler` is `file.py:Name` or `package.module:Name`.

    Holds: each of `workers` processes runs as many predictions at a time as the handler's `@concurrent` says;
    `cancel_grace` is how long a cancelled one has until its process is replaced; 0 of `setup_timeout` is no limit.
    `env` is set in the environment of the processes, besides what they have of the gateway's. `echo` says that what
    predictions print is told in the gateway's log as well as to their clients.
    """

    handler: str = ""
    workers: Count = 1
    setup_timeout_s: Duration = field(default=600.0, name="setup_timeout")
    cancel_grace_s: Duration = field(default=5.0, name="cancel_grace")
    max_output_bytes: Size = 256 * 1024 * 1024
    env: dict[str, Secret] = field(default_factory=dict)
    echo: bool = False

    def __repr__(self) -> str:
        """Give the handler alone: what its environment holds must not reach a log by way of a traceback."""
        return f"LocalSettings(handler={self.handler!r})"
