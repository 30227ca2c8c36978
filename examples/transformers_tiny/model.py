"""A causal language model of Hugging Face's transformers, served with its tokens as they come.

Nothing is downloaded: the weights are random and the tokenizer is an alphabet. What it says is noise; how it is loaded, asked,
streamed and stopped is what it would be with `AutoModelForCausalLM.from_pretrained(...)` in `setup`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tidegate.predict import Input, current_scope

ALPHABET = " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'-\n"
BEGIN = len(ALPHABET)
UNKNOWN = ALPHABET.index("?")
POSITIONS = 4096


class Model:
    """Two layers and 64 dimensions: a token takes about a millisecond."""

    def setup(self) -> None:
        """Build the model once for each worker."""
        torch.manual_seed(0)
        torch.set_num_threads(1)
        config = LlamaConfig(
            vocab_size=len(ALPHABET) + 1,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=POSITIONS,
            bos_token_id=BEGIN,
            eos_token_id=None,
            pad_token_id=None,
        )
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: Any = LlamaForCausalLM(config).to(self.device).eval()

    def predict(
        self,
        prompt: str = Input(description="What it goes on from."),
        max_new_tokens: int = Input(default=64, ge=1, le=2048),
        temperature: float = Input(default=1.0, ge=0, le=2, description="0 always takes the likeliest token."),
        seed: int | None = Input(default=None, description="The same seed gives the same text."),
    ) -> Iterator[str]:
        """Give the text, one token at a time."""
        chance = torch.Generator(self.device)
        if seed is None:
            chance.seed()
        else:
            chance.manual_seed(seed)
        tokens = encoded(prompt)[-(POSITIONS - max_new_tokens) :]
        record = current_scope().record_metric
        record("input_token_count", len(tokens))
        seen = torch.tensor([tokens], device=self.device)
        cache = None
        for _ in range(max_new_tokens):
            # Not around the loop: the consumer's code would run in it while a generator waits at its yield.
            with torch.inference_mode():
                answer = self.model(input_ids=seen, past_key_values=cache, use_cache=True)
                cache = answer.past_key_values
                seen = drawn(answer.logits[:, -1, :BEGIN], temperature, chance)
            record("output_token_count", 1, mode="increment")
            yield ALPHABET[int(seen)]
        record("finish_reason", "length")


def encoded(text: str) -> list[int]:
    """Give a text's tokens, behind the one that begins every text."""
    places = {letter: place for place, letter in enumerate(ALPHABET)}
    return [BEGIN, *(places.get(letter, UNKNOWN) for letter in text)]


def drawn(logits: torch.Tensor, temperature: float, chance: torch.Generator) -> torch.Tensor:
    """Draw the next token."""
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    return torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=chance)
