"""The JSON of a client's chat completions request, by type. What has another type is refused, and so is what is unknown."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Strict(Struct, forbid_unknown_fields=True):
    """An object inside of a request: a member that is not known here could change the answer."""


class Marked(Strict):
    """What can have a mark up to which a prompt is cached."""

    cache_control: object = None
    prompt_cache_breakpoint: object = None


class Text(Marked, tag_field="type", tag="text", kw_only=True):
    """A piece of text."""

    text: str


class ImageUrl(Strict):
    """Where an image is, or the image itself."""

    url: str
    detail: Literal["low", "high", "auto", "original"] | None = None


class Image(Marked, tag_field="type", tag="image_url", kw_only=True):
    """An image."""

    image_url: ImageUrl | str


class FileData(Strict):
    """A file, by what is in it or by its id."""

    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None


class File(Marked, tag_field="type", tag="file", kw_only=True):
    """A file that the model reads."""

    file: FileData


class Audio(Marked, tag_field="type", tag="input_audio", kw_only=True):
    """Speech."""

    input_audio: object


class Refusal(Strict, tag_field="type", tag="refusal"):
    """Why the model did not answer."""

    refusal: str


class Message(Strict, tag_field="role"):
    """What a message has, whoever says it."""

    name: str | None = None


class System(Message, tag="system", kw_only=True):
    """Instructions."""

    content: str | list[Text]


class Developer(Message, tag="developer", kw_only=True):
    """Instructions, as newer models have them."""

    content: str | list[Text]


class User(Message, tag="user", kw_only=True):
    """What a user says."""

    content: str | list[Text | Image | File | Audio]


class Function(Strict):
    """A call's function, and what is given to it."""

    name: str
    arguments: str = ""
    # OpenAI's own package hands a message back with what it has read of it; the text of it is there as well.
    parsed_arguments: object = None
    provider_specific_fields: object = None


class Google(Struct):
    """What Google wants back with a call."""

    thought_signature: str | None = None


class Extra(Struct):
    """Source: Google, "OpenAI compatibility", thought signatures."""

    google: Google | None = None


class Call(Strict):
    """A call of a tool."""

    id: Annotated[str, Meta(min_length=1)]
    type: str | None = None
    function: Function | None = None
    custom: object = None
    index: object = None
    extra_content: Extra | None = None
    provider_specific_fields: object = None


class Detail(Struct):
    """A thought as OpenRouter tells it. Shape: open, as it is handed back just as it came."""

    text: str | None = None
    summary: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    index: int | None = None


class Block(Struct):
    """A thought as LiteLLM tells it, which is as Anthropic does. Shape: open, as it is handed back just as it came."""

    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class Assistant(Message, tag="assistant", kw_only=True):
    """What the model said."""

    content: str | list[Text | Refusal] | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None
    function_call: Function | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[Detail] | None = None
    thinking_blocks: list[Block] | None = None
    provider_specific_fields: object = None
    audio: object = None
    annotations: object = None
    parsed: object = None


class Result(Message, tag="tool", kw_only=True):
    """What a tool gave."""

    content: str | list[Text | Image | File | Audio]
    tool_call_id: Annotated[str, Meta(min_length=1)]


class OldResult(Strict, tag_field="role", tag="function"):
    """What a function gave, from before there were tools."""

    name: str
    content: str | None = None


Content = str | Sequence[Text | Image | File | Audio | Refusal] | None
AnyMessage = System | Developer | User | Assistant | Result | OldResult


class Definition(Strict):
    """A function that can be called."""

    name: Annotated[str, Meta(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Marked):
    """A tool."""

    type: str = "function"
    function: Definition | None = None
    custom: object = None


class Name(Strict):
    """Which function."""

    name: str


class Named(Strict):
    """Which tool."""

    type: str = "function"
    function: Name | None = None
    custom: object = None


class Allowed(Strict):
    """The tools that may be called this time."""

    mode: Literal["auto", "required"]
    tools: list[Named]


class Choice(Strict):
    """Which tool must be called, or may be."""

    type: str
    function: Name | None = None
    allowed_tools: Allowed | None = None
    custom: object = None


class Wanted(Strict):
    """A schema for the answer."""

    name: str
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class PlainFormat(Strict, tag_field="type", tag="text"):
    """Any text."""


class ObjectFormat(Strict, tag_field="type", tag="json_object"):
    """Any JSON object."""


class SchemaFormat(Strict, tag_field="type", tag="json_schema"):
    """JSON by a schema."""

    json_schema: Wanted


Format = PlainFormat | ObjectFormat | SchemaFormat


class Reasoning(Strict):
    """Source: OpenRouter, "Reasoning tokens"."""

    effort: Effort | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    exclude: bool | None = None
    enabled: bool | None = None


class Thinking(Strict):
    """Source: LiteLLM, "Reasoning content", for Anthropic's word among OpenAI's."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Annotated[int, Meta(ge=0)] | None = None


class Asked(Struct):
    """A request. Shape: null is not said."""

    model: str
    messages: Annotated[list[AnyMessage], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: object = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | Choice | None = None
    functions: list[Definition] | None = None
    function_call: Literal["none", "auto"] | Name | None = None
    parallel_tool_calls: bool | None = None
    response_format: Format | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0)] | None = None
    logit_bias: dict[str, Any] | None = None
    reasoning_effort: Effort | None = None
    reasoning: Reasoning | None = None
    include_reasoning: bool | None = None
    thinking: Thinking | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    user: str | None = None
    modalities: list[str] | None = None
