"""Servers that speak OpenAI's chat completions, each in its own way: where they are, and what they do differently.

What a server lacks it refuses, or takes and forgets; what would change the answer is refused here, and the client told why.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from tidegate.dialect.conversation import DROPPED, REFUSED, Loss
from tidegate.dialect.openai_chat import LACKS, OpenAIChat, Quirks


class Server(Struct, frozen=True):
    """One of them. Shape: `base_url` is empty where everybody has an own."""

    dialect: OpenAIChat
    base_url: str = ""
    needs_key: bool = True


_WORDY: Final[Mapping[str, Loss]] = {**LACKS, "verbosity": DROPPED}
# They sample themselves, or pass on to who does, and take what OpenAI has no member for.
_SAMPLING: Final = {name: loss for name, loss in _WORDY.items() if name != "top_k"}

SERVERS: Final[Mapping[str, Server]] = {
    "openai_compatible": Server(OpenAIChat(Quirks(bound="max_tokens", lacks=_WORDY)), needs_key=False),
    "vllm": Server(
        OpenAIChat(Quirks(bound="max_tokens", thoughts="reasoning", lacks=_SAMPLING)),
        "http://127.0.0.1:8000/v1",
        needs_key=False,
    ),
    "sglang": Server(
        OpenAIChat(Quirks(bound="max_tokens", thoughts="reasoning_content", lacks=_SAMPLING)),
        "http://127.0.0.1:30000/v1",
        needs_key=False,
    ),
    "llamacpp": Server(
        OpenAIChat(Quirks(bound="max_tokens", thoughts="reasoning_content", lacks=_SAMPLING)),
        "http://127.0.0.1:8080/v1",
        needs_key=False,
    ),
    "ollama": Server(
        OpenAIChat(
            Quirks(
                bound="max_tokens",
                thoughts="reasoning",
                lacks={**_WORDY, "logit_bias": REFUSED, "choices": REFUSED, "user": DROPPED, "parallel_tools": DROPPED},
            )
        ),
        "http://127.0.0.1:11434/v1",
        needs_key=False,
    ),
    "groq": Server(
        OpenAIChat(Quirks(thoughts="reasoning", lacks={**_WORDY, "logit_bias": REFUSED, "choices": REFUSED})),
        "https://api.groq.com/openai/v1",
    ),
    "together": Server(
        OpenAIChat(Quirks(bound="max_tokens", thoughts="reasoning", lacks=_SAMPLING)), "https://api.together.xyz/v1"
    ),
    # It tells usage in the last frame anyway, and refuses members that it does not know.
    "mistral": Server(
        OpenAIChat(
            Quirks(
                usage="given",
                bound="max_tokens",
                lacks={
                    **_WORDY,
                    "logit_bias": REFUSED,
                    "seed": DROPPED,
                    "user": DROPPED,
                    "effort": DROPPED,
                    "thinking_tokens": DROPPED,
                },
            )
        ),
        "https://api.mistral.ai/v1",
    ),
    # It wants the thoughts of a turn that called tools back.
    "deepseek": Server(
        OpenAIChat(
            Quirks(
                bound="max_tokens",
                thoughts="reasoning_content",
                lacks={
                    **_WORDY,
                    "choices": REFUSED,
                    "logit_bias": REFUSED,
                    "seed": DROPPED,
                    "user": DROPPED,
                    "parallel_tools": DROPPED,
                },
            )
        ),
        "https://api.deepseek.com/v1",
    ),
    "openrouter": Server(
        OpenAIChat(
            Quirks(
                usage="given",
                bound="max_tokens",
                thoughts="reasoning_details",
                lacks={name: loss for name, loss in LACKS.items() if name != "top_k"},
            )
        ),
        "https://openrouter.ai/api/v1",
    ),
    "xai": Server(
        OpenAIChat(Quirks(usage="given", thoughts="reasoning_content", lacks={**_WORDY, "logit_bias": REFUSED})),
        "https://api.x.ai/v1",
    ),
}
"""By their kind in the configuration."""
