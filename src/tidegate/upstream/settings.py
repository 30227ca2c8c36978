"""What the file may say about providers."""

from typing import Literal

from msgspec import Struct, field

from tidegate.exchange import Timeouts
from tidegate.kernel.units import Count, Duration, Secret

KindName = Literal[
    "openai", "openai_responses", "azure", "openai_compatible", "vllm", "sglang", "llamacpp", "ollama", "ollama_native", "groq", "together", "mistral",
    "deepseek", "openrouter", "xai", "anthropic", "gemini", "gemini_array", "bedrock", "bedrock_anthropic", "mock", "local",
]  # fmt: skip
"""The rows of `upstream/kinds.py` by name, and `local` for a model in our own processes."""


class ConnectionSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The pool of one provider. Holds: `max` 0 is no cap; `idle` is how long an unused connection is kept."""

    max: Count = 0
    idle_s: Duration = field(default=90.0, name="idle")


class AwsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and as whom Amazon's services are asked. Shape: without keys, they are found as Amazon's own tools find them."""

    region: str = ""
    profile: str = ""
    access_key_id: str = ""
    secret_access_key: Secret = Secret("")
    session_token: Secret = Secret("")


class ProviderSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One provider: a row of `upstream/providers.py`, its address and its credentials.

    Shape: `api_key_file` is read anew when it changes, for keys that are rotated; it excludes `api_key`. `auth` is how the
    key is sent where that is not as the kind's providers expect it; `api_version` is for Azure. `passthrough` lets any request through at `/p/{name}/…`.
    """

    name: str
    kind: KindName
    base_url: str = ""
    auth: Literal["", "bearer", "x-api-key", "api-key", "x-goog-api-key", "query"] = ""
    api_version: str = ""
    aws: AwsSettings = AwsSettings()
    api_key: Secret = Secret("")
    api_key_file: str = ""
    ca_file: str = ""
    passthrough: bool = False
    headers: dict[str, Secret] = field(default_factory=dict)
    timeouts: Timeouts = Timeouts()
    connections: ConnectionSettings = ConnectionSettings()

    def __repr__(self) -> str:
        """Give name and kind alone: credentials must not reach a log by way of a traceback."""
        return f"ProviderSettings(name={self.name!r}, kind={self.kind!r})"
