"""A conversation as a request. Anthropic's rules for what goes with thoughts are looked at here, where the client's words are known."""

import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import structs

from tidegate.dialect.anthropic.values import NAME
from tidegate.dialect.conversation import (
    DROPPED,
    REFUSED,
    CallPart,
    Conversation,
    DocumentPart,
    ImagePart,
    Loss,
    Part,
    RefusalPart,
    ResultPart,
    TextPart,
    ThoughtPart,
    Tool,
    Turn,
    Untranslatable,
    Written,
    id_of_call,
    leading,
    lost,
    thinking_budget,
    thinking_effort,
)
from tidegate.dialect.values import arguments_of, json_of

LACKS: Final[Mapping[str, Loss]] = {
    "seed": DROPPED,
    "verbosity": DROPPED,
    "frequency_penalty": REFUSED,
    "presence_penalty": REFUSED,
    "choices": REFUSED,
    "logprobs": REFUSED,
    "logit_bias": REFUSED,
    "ImagePart.detail": DROPPED,
    "Schema.name": DROPPED,
    "Schema.description": DROPPED,
}
ANSWER_TOKENS: Final = 8192
"""The bound of an answer, thoughts apart, for which the client set none. Models before Claude 3.5 allow less, and say so."""
MIN_THINKING_TOKENS: Final = 1024
MIN_TOP_P: Final = 0.95
"""While it thinks. Source: Anthropic, "Extended thinking", for this and the one above."""

_CHOICES: Final = {"auto": "auto", "required": "any", "none": "none", "tool": "tool"}
_DISPLAYS: Final = {True: "summarized", False: "omitted", None: None}
_PDF: Final = "application/pdf"
_is_id = re.compile(r"[a-zA-Z0-9_-]+").fullmatch

# Models from 4.6 on are told how hard to think, and from 4.7 on refuse a number of tokens; all before, and the models of
# others that speak this dialect, know a number alone. Source: Anthropic, "Adaptive thinking".
_adapts = re.compile(r"claude-(?:[a-z]+-(?:4[-.](?:[6-9]|\d\d)(?!\d)|(?:[5-9]|\d\d)(?!\d))|mythos)").search


def write(conversation: Conversation, model: str, version: str = "") -> Written:
    """Write a request. Shape: with a `version` as Bedrock wants it, who has the rest in the address. Errors: Untranslatable."""
    writer = _Writer(conversation, model)
    members = writer.members()
    if version:
        del members["model"], members["stream"]
        members = {"anthropic_version": version} | members
    return Written(json_of(members), writer.dropped)


class _Writer:
    """Writes one request. Holds: what is dropped while it is written."""

    __slots__ = ("_conversation", "_model", "_notes", "_turns")

    def __init__(self, conversation: Conversation, model: str) -> None:
        self._conversation = conversation
        self._model = model
        self._notes: list[str] = []
        self._turns: tuple[Turn, ...] = ()

    @property
    def dropped(self) -> tuple[str, ...]:
        """The client's members that are not in the request."""
        said = self._conversation
        # A penalty of 0 is none.
        plain = structs.replace(
            said,
            frequency_penalty=said.frequency_penalty or None,
            presence_penalty=said.presence_penalty or None,
        )
        return tuple(dict.fromkeys((*lost(plain, LACKS, f"a provider that speaks {NAME}"), *self._notes)))

    def members(self) -> dict[str, object]:
        """Give the members of the request."""
        said = self._conversation
        system, self._turns = leading(tuple(Turn(turn.role, _sayable(turn.parts)) for turn in said.turns))
        thinking = self._thinking()
        members: dict[str, object] = {
            "model": self._model,
            "max_tokens": said.max_tokens or ANSWER_TOKENS + (thinking_budget(said) or 0),
            "messages": self._messages(),
            "system": system or None,
            "stream": said.stream,
            "stop_sequences": said.stop or None,
            "tools": [_tool(tool) for tool in said.tools] or None,
            "tool_choice": self._choice(),
            "metadata": {"user_id": said.user} if said.user else None,
            "thinking": thinking,
            "output_config": self._output(thinking) or None,
            **self._sampling(thinks=_thinks(thinking)),
        }
        self._check_choice(thinking)
        return _said(members)

    def _untranslatable(self, field: str, why: str) -> Untranslatable:
        member = self._conversation.member(field)
        return Untranslatable(member, f"`{member}` {why}")

    # --- thoughts ---------------------------------------------------------------------------------------------------

    def _thinking(self) -> dict[str, object] | None:
        said, budget = self._conversation, thinking_budget(self._conversation)
        if budget is None:
            return None
        if budget <= 0:
            return {"type": "disabled"}
        if _adapts(self._model):
            return _said({"type": "adaptive", "display": _DISPLAYS[said.shows_thoughts]})
        if _needs_thought(self._turns):
            # Its own models refuse to think on where the thought that led to a call is not given back.
            self._notes.append(said.member("effort" if said.thinking_tokens is None else "thinking_tokens"))
            return None
        if said.shows_thoughts is False:
            self._notes.append(said.member("shows_thoughts"))
        return {"type": "enabled", "budget_tokens": self._fitting(budget)}

    def _fitting(self, budget: int) -> int:
        """Give a bound that is below that of the whole answer. Errors: Untranslatable where none is."""
        said = self._conversation
        by = "effort" if said.thinking_tokens is None else "thinking_tokens"
        most = said.max_tokens - 1 if said.max_tokens else budget
        if budget > most and by == "thinking_tokens":
            raise self._untranslatable(by, f"must be less than `{said.member('max_tokens')}`")
        if said.max_tokens and by == "effort":
            # An effort is no number: half of what may be said is left for the answer, where there is so much.
            budget = min(budget, max(MIN_THINKING_TOKENS, said.max_tokens // 2))
        budget = min(budget, most)
        if budget < MIN_THINKING_TOKENS:
            raise self._untranslatable(
                by, f"asks for less than {MIN_THINKING_TOKENS} tokens of thought, or has no room"
            )
        return budget

    def _output(self, thinking: dict[str, object] | None) -> dict[str, object]:
        said, output = self._conversation, dict[str, object]()
        if thinking is not None and thinking["type"] == "adaptive":
            effort = thinking_effort(said)
            output["effort"] = "low" if effort == "minimal" else effort
        if said.format is not None:
            if said.format.schema is None:
                raise self._untranslatable(
                    "format", "must have a schema for a provider that speaks Anthropic's dialect"
                )
            output["format"] = {"type": "json_schema", "schema": said.format.schema}
        return output

    def _sampling(self, *, thinks: bool) -> dict[str, object]:
        """Give how words are chosen. Errors: Untranslatable for what does not go with thoughts, or is out of range."""
        said = self._conversation
        if said.temperature is not None and said.temperature > 1:
            raise self._untranslatable("temperature", "is at most 1 for this provider")
        if thinks:
            wrong = {
                "temperature": said.temperature not in {None, 1},
                "top_p": said.top_p is not None and said.top_p < MIN_TOP_P,
                "top_k": said.top_k is not None,
            }
            for field in (field for field, is_wrong in wrong.items() if is_wrong):
                raise self._untranslatable(field, "does not go with thinking for this provider")
        return {
            "temperature": None if thinks else said.temperature,
            "top_p": said.top_p,
            "top_k": said.top_k,
        }

    # --- tools ------------------------------------------------------------------------------------------------------

    def _choice(self) -> dict[str, object] | None:
        """Give what to do with the tools; None where nothing is said, or there are none."""
        said = self._conversation
        if not said.tools or not (said.tool_choice or said.parallel_tools is not None):
            return None
        choice: dict[str, object] = {"type": _CHOICES[said.tool_choice or "auto"]}
        if said.tool_choice == "tool":
            choice["name"] = said.tool
        if said.parallel_tools is not None and said.tool_choice != "none":
            choice["disable_parallel_tool_use"] = not said.parallel_tools
        return choice

    def _check_choice(self, thinking: dict[str, object] | None) -> None:
        """Refuse a call that must be made after thoughts that have a bound."""
        forced = self._conversation.tool_choice in {"required", "tool"}
        if forced and thinking is not None and thinking["type"] == "enabled":
            raise self._untranslatable("tool_choice", "does not go with thinking for this provider")

    # --- turns ------------------------------------------------------------------------------------------------------

    def _messages(self) -> list[dict[str, object]]:
        if not self._turns:
            raise self._untranslatable("turns", "must have more than instructions for this provider")
        return [{"role": turn.role, "content": self._blocks(turn.parts)} for turn in self._turns]

    def _blocks(self, parts: Sequence[Part]) -> list[dict[str, object]]:
        return [self._block(part) for part in parts]

    def _block(self, part: Part) -> dict[str, object]:
        members: dict[str, object]
        match part:
            case TextPart(text) | RefusalPart(text):
                members = {"type": "text", "text": text}
            case ImagePart():
                members = {"type": "image", "source": self._image(part)}
            case DocumentPart():
                members = {"type": "document", "source": self._document(part), "title": part.name or None}
            case ThoughtPart(sealed=""):
                members = {"type": "thinking", "thinking": part.text, "signature": part.signature}
            case ThoughtPart():
                members = {"type": "redacted_thinking", "data": part.sealed}
            case CallPart():
                ident = id_of_call(part.id, _is_id)
                members = {"type": "tool_use", "id": ident, "name": part.name, "input": arguments_of(part)}
            case _:
                ident = id_of_call(part.id, _is_id)
                content = self._blocks(part.parts) or None
                failed = part.failed or None
                members = {"type": "tool_result", "tool_use_id": ident, "content": content, "is_error": failed}
        return _said(members)

    def _image(self, part: ImagePart) -> dict[str, object]:
        if part.url:
            return {"type": "url", "url": part.url}
        return {"type": "base64", "media_type": part.media_type, "data": part.data}

    def _document(self, part: DocumentPart) -> dict[str, object]:
        if part.url:
            return {"type": "url", "url": part.url}
        if part.media_type == _PDF:
            return {"type": "base64", "media_type": _PDF, "data": part.data}
        if not part.media_type.startswith("text/"):
            raise self._untranslatable(
                "turns", f"holds a file of the type {part.media_type}, which this provider does not read"
            )
        try:
            text = b64decode(part.data, validate=True).decode()
        except ValueError:
            raise self._untranslatable("turns", "holds a file of text that is not base64 of UTF-8") from None
        return {"type": "text", "media_type": "text/plain", "data": text}


def _thinks(thinking: dict[str, object] | None) -> bool:
    return thinking is not None and thinking["type"] != "disabled"


def _tool(tool: Tool) -> dict[str, object]:
    """Write a tool. Shape: a schema is that of an object, whatever else it says."""
    return _said(
        {
            "name": tool.name,
            "description": tool.description or None,
            "input_schema": {"type": "object"} | (tool.parameters or {}),
            "strict": tool.strict or None,
        }
    )


def _sayable(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Give parts without the thoughts that say nothing to this provider: unsigned, or of another's making."""
    return tuple(
        part
        for part in parts
        if not isinstance(part, ThoughtPart) or (part.origin == NAME and (part.signature or part.sealed))
    )


def _needs_thought(turns: Sequence[Turn]) -> bool:
    """Whether the last answer was calls of tools, and what was thought before them is not known."""
    last = next((turn.parts for turn in reversed(turns) if turn.role == "assistant"), ())
    waits = any(isinstance(part, ResultPart) for part in turns[-1].parts) if turns else False
    return waits and any(isinstance(part, CallPart) for part in last) and not isinstance(last[0], ThoughtPart)


def _said(members: Mapping[str, object]) -> dict[str, object]:
    """Give members without those that say nothing."""
    return {name: value for name, value in members.items() if value is not None}
