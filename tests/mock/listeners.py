"""Strict listeners, one a dialect: what the mock said, or an assertion of what is out of place. For the tests of the mock.

They know the providers' references and nothing of the mock or of the gateway; judges that others wrote are asked where there
are any: the types of OpenAI's SDK, botocore's parser with the model of the service.
"""

import base64
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import botocore.session
from botocore.eventstream import EventStreamBuffer
from botocore.parsers import EventStreamJSONParser
from msgspec import Struct, field
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

Said = dict[str, Any]


class Heard(Struct):
    """An answer. Shape: `calls` are id, name and arguments as they came; `usage` is input and output tokens, all of them."""

    thinking: str = ""
    text: str = ""
    refusal: str = ""
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    finish: str = ""
    usage: tuple[int, int] | None = None
    signature: str = ""
    error: Said | None = None
    complete: bool = False
    ident: str = ""
    order: list[str] = field(default_factory=list)

    def called(self) -> list[tuple[str, Any]]:
        return [(name, json.loads(arguments or "{}")) for _, name, arguments in self.calls]


def hear(dialect: str, body: bytes, *, stream: bool) -> Heard:
    """Give what a body says."""
    return (_STREAMS if stream else _WHOLES)[dialect](body)


def _valid(model: type[BaseModel], said: Said) -> None:
    model.model_validate(said)


def events(body: bytes) -> list[tuple[str, str]]:
    """Give the events of a stream: name and data. Holds: each frame is whole."""
    text = body.decode().replace("\r\n", "\n")
    frames = [frame for frame in text.split("\n\n") if frame]
    assert text.endswith("\n\n") or not text
    found: list[tuple[str, str]] = []
    for frame in frames:
        fields = [re.sub(r":\s?", "\0", line, count=1).split("\0") for line in frame.split("\n")]
        names = [name for name, _ in fields]
        if names == [""]:
            continue
        assert names in (["data"], ["event", "data"])
        found.append((fields[0][1] if len(fields) == 2 else "", fields[-1][1]))
    return found


# Chat


def _chat_stream(body: bytes) -> Heard:
    heard = Heard()
    arguments: dict[int, list[str]] = {}
    for name, data in events(body):
        assert not name
        assert not heard.complete
        if data == "[DONE]":
            heard.complete = True
            continue
        said = json.loads(data)
        if "error" in said:
            heard.error = said["error"]
            continue
        _valid(ChatCompletionChunk, said)
        if said.get("usage"):
            heard.usage = said["usage"]["prompt_tokens"], said["usage"]["completion_tokens"]
        for choice in said["choices"]:
            delta = choice["delta"]
            heard.thinking += delta.get("reasoning_content") or ""
            heard.text += delta.get("content") or ""
            heard.refusal += delta.get("refusal") or ""
            heard.finish = choice["finish_reason"] or ""
            for call in delta.get("tool_calls", ()):
                pieces = arguments.setdefault(call["index"], [])
                if "id" in call:
                    assert not pieces
                    assert call["index"] == len(heard.calls)
                    heard.calls.append((call["id"], call["function"]["name"], ""))
                pieces.append(call["function"]["arguments"])
                heard.order.append(f"call{call['index']}")
        heard.ident = said["id"]
    heard.calls = [(id_, name, "".join(arguments[nth])) for nth, (id_, name, _) in enumerate(heard.calls)]
    return heard


def _chat_whole(body: bytes) -> Heard:
    said = json.loads(body)
    _valid(ChatCompletion, said)
    message = said["choices"][0]["message"]
    return Heard(
        thinking=message.get("reasoning_content", ""),
        text=message["content"] or "",
        refusal=message["refusal"] or "",
        calls=[
            (call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls", ())
        ],
        finish=said["choices"][0]["finish_reason"],
        usage=_pair(said.get("usage"), "prompt_tokens", "completion_tokens"),
        complete=True,
        ident=said["id"],
    )


def _pair(usage: Said | None, read: str, written: str) -> tuple[int, int] | None:
    return (usage[read], usage[written]) if usage else None


# Responses


class _Open(Struct):
    """An item that was added and is not done."""

    item: Said
    text: str = ""
    part: Said | None = None


_TEXTS = {
    "response.output_text": "text",
    "response.refusal": "refusal",
    "response.reasoning_summary_text": "text",
    "response.function_call_arguments": "arguments",
}
_ENDS = {"response.completed", "response.incomplete", "response.failed"}


class _Responses:
    """Follows the events of a response."""

    def __init__(self) -> None:
        self.heard = Heard()
        self.open: dict[int, _Open] = {}
        self.done: dict[int, Said] = {}
        self.kinds: list[str] = []

    def event(self, name: str, said: Said) -> None:
        TypeAdapter[Any](ResponseStreamEvent).validate_python(said)
        assert name == said["type"]
        assert said["sequence_number"] == len(self.kinds)
        assert not self.heard.complete
        assert self.heard.error is None
        self.kinds.append(name)
        if "response" in said:
            self._response(name, said["response"])
        elif name == "response.output_item.added":
            self._added(said["output_index"], said["item"])
        elif name == "response.output_item.done":
            self._done(said["output_index"], said["item"])
        else:
            self._inside(name, said)

    def _response(self, name: str, response: Said) -> None:
        if name in _ENDS:
            if name == "response.failed":
                self.heard.error = response["error"]
                return
            assert not self.open
            assert response["output"] == [self.done[index] for index in sorted(self.done)]
            _responses_end(self.heard, response)
            self.heard.complete = True
            return
        assert response["status"] == "in_progress"
        assert name == ("response.created" if len(self.kinds) == 1 else "response.in_progress")

    def _added(self, index: int, item: Said) -> None:
        assert index == len(self.open) + len(self.done)
        assert not item.get("content")
        assert not item.get("summary")
        assert not item.get("arguments")
        self.open[index] = _Open(item)

    def _done(self, index: int, item: Said) -> None:
        was = self.open.pop(index)
        assert was.item["id"] == item["id"]
        assert was.part is None
        self.done[index] = item
        _responses_item(self.heard, item)

    def _inside(self, name: str, said: Said) -> None:
        item = self.open[said["output_index"]]
        assert item.item["id"] == said["item_id"]
        kind, _, what = name.rpartition(".")
        if kind.endswith("_part"):
            assert (item.part is None) == (what == "added")
            item.part = said["part"] if what == "added" else None
            if what == "done":
                assert said["part"].get("text", said["part"].get("refusal")) == item.text
            return
        assert (item.part is None) == (kind == "response.function_call_arguments")
        if what == "delta":
            assert said["delta"]
            item.text += said["delta"]
            self.heard.order.append(f"call{said['output_index']}" if "function" in kind else kind)
        else:
            assert said[_TEXTS[kind]] == (item.text or ("{}" if "function" in kind else ""))


def _responses_item(heard: Heard, item: Said) -> None:
    if item["type"] == "reasoning":
        assert not heard.text
        heard.thinking += "".join(part["text"] for part in item["summary"])
        heard.signature = item.get("encrypted_content", "")
    elif item["type"] == "function_call":
        heard.calls.append((item["call_id"], item["name"], item["arguments"]))
    else:
        heard.text += "".join(part.get("text", "") for part in item["content"])
        heard.refusal += "".join(part.get("refusal", "") for part in item["content"])


def _responses_end(heard: Heard, response: Said) -> None:
    heard.ident = response["id"]
    heard.usage = _pair(response["usage"], "input_tokens", "output_tokens")
    heard.finish = (response["incomplete_details"] or {"reason": response["status"]})["reason"]


def _responses_stream(body: bytes) -> Heard:
    following = _Responses()
    for name, data in events(body):
        following.event(name, json.loads(data))
    return following.heard


def _responses_whole(body: bytes) -> Heard:
    said = json.loads(body)
    _valid(Response, said)
    heard = Heard(complete=True)
    for item in said["output"]:
        _responses_item(heard, item)
    _responses_end(heard, said)
    return heard


# Messages


class _Messages:
    """Follows the events of a message."""

    def __init__(self) -> None:
        self.heard = Heard()
        self.block: Said | None = None
        self.blocks = 0
        self.pieces: list[str] = []
        self.state = "before"

    def event(self, name: str, said: Said) -> None:
        assert name == said["type"]
        assert not self.heard.complete
        if name == "error":
            assert said["error"].keys() == {"type", "message"}
            self.heard.error = said["error"]
        elif name == "ping":
            assert self.state != "before"
        else:
            getattr(self, f"_{name}")(said)

    def _message_start(self, said: Said) -> None:
        assert self.state == "before"
        self.state = "blocks"
        message = said["message"]
        assert (message["type"], message["role"], message["content"]) == ("message", "assistant", [])
        assert message["stop_reason"] is None
        self.heard.ident = message["id"]
        self.started_with = message.get("usage")

    def _content_block_start(self, said: Said) -> None:
        assert (self.state, self.block, said["index"]) == ("blocks", None, self.blocks)
        self.block, self.pieces = said["content_block"], []
        empty = {"text": "text", "thinking": "thinking", "tool_use": "input"}[self.block["type"]]
        assert not self.block[empty]

    def _content_block_delta(self, said: Said) -> None:
        assert self.block is not None
        assert said["index"] == self.blocks
        delta = said["delta"]
        match self.block["type"], delta.pop("type"):
            case "text", "text_delta":
                assert delta.keys() == {"text"}
                self.heard.text += delta["text"]
            case "thinking", "thinking_delta":
                assert not self.heard.signature
                self.heard.thinking += delta["thinking"]
            case "thinking", "signature_delta":
                self.heard.signature = delta["signature"]
            case "tool_use", "input_json_delta":
                self.pieces.append(delta["partial_json"])
                self.heard.order.append(f"call{len(self.heard.calls)}")
            case unlike:
                raise AssertionError(unlike)

    def _content_block_stop(self, said: Said) -> None:
        assert self.block is not None
        assert said["index"] == self.blocks
        if self.block["type"] == "tool_use":
            self.heard.calls.append((self.block["id"], self.block["name"], "".join(self.pieces)))
        assert self.block["type"] != "thinking" or self.heard.signature
        self.block = None
        self.blocks += 1

    def _message_delta(self, said: Said) -> None:
        assert (self.state, self.block) == ("blocks", None)
        self.state = "stopping"
        self.heard.finish = said["delta"]["stop_reason"]
        usage = said.get("usage")
        assert (usage is None) == (self.started_with is None)
        if usage:
            assert usage["output_tokens"] >= 0
            self.heard.usage = _messages_usage(usage)

    def _message_stop(self, said: Said) -> None:
        assert self.state == "stopping"
        assert said.keys() <= {"type", "amazon-bedrock-invocationMetrics"}
        self.heard.complete = True


def _messages_usage(usage: Said) -> tuple[int, int]:
    cached = usage["cache_creation_input_tokens"] + usage["cache_read_input_tokens"]
    return usage["input_tokens"] + cached, usage["output_tokens"]


def _messages_stream(body: bytes) -> Heard:
    following = _Messages()
    for name, data in events(body):
        following.event(name, json.loads(data))
    return following.heard


def _messages_whole(body: bytes) -> Heard:
    said = json.loads(body)
    assert (said["type"], said["role"]) == ("message", "assistant")
    heard = Heard(complete=True, ident=said["id"], finish=said["stop_reason"])
    for block in said["content"]:
        match block["type"]:
            case "text":
                heard.text += block["text"]
            case "thinking":
                heard.thinking, heard.signature = block["thinking"], block["signature"]
            case "tool_use":
                heard.calls.append((block["id"], block["name"], json.dumps(block["input"])))
    heard.usage = _messages_usage(said["usage"]) if "usage" in said else None
    return heard


# Gemini


def _gemini(said: Said, heard: Heard) -> None:
    if "error" in said:
        assert said["error"].keys() <= {"code", "message", "status", "details"}
        heard.error = said["error"]
        return
    assert said.keys() <= {"candidates", "usageMetadata", "modelVersion", "responseId"}
    assert not heard.complete
    heard.ident = said["responseId"]
    (candidate,) = said["candidates"]
    assert candidate["index"] == 0
    content = candidate.get("content", {"parts": [], "role": "model"})
    assert content["role"] == "model"
    for part in content["parts"]:
        _gemini_part(part, heard)
    if usage := said.get("usageMetadata"):
        thoughts = usage.get("thoughtsTokenCount", 0)
        now = usage["promptTokenCount"], usage["candidatesTokenCount"] + thoughts
        assert usage["totalTokenCount"] == sum(now)
        assert heard.usage is None or now >= heard.usage
        heard.usage = now
    heard.finish = candidate.get("finishReason", "")
    heard.complete = bool(heard.finish)


def _gemini_part(part: Said, heard: Heard) -> None:
    heard.signature += part.get("thoughtSignature", "")
    if call := part.get("functionCall"):
        assert call.keys() == {"name", "args"}
        assert isinstance(call["args"], dict)
        heard.calls.append(("", call["name"], json.dumps(call["args"])))
    elif part.get("thought"):
        assert not heard.text
        heard.thinking += part["text"]
    else:
        heard.text += part["text"]


def _gemini_stream(body: bytes) -> Heard:
    heard = Heard()
    for name, data in events(body):
        assert not name
        _gemini(json.loads(data), heard)
    return heard


def elements(body: bytes) -> tuple[list[Said], bool]:
    """Give the elements of an array, and whether it is closed."""
    text = body.decode()
    closed = text.rstrip().endswith("]")
    return json.loads(text if closed else (text.strip() or "[") + "]"), closed


def _gemini_array(body: bytes) -> Heard:
    heard = Heard()
    found, closed = elements(body)
    for said in found:
        _gemini(said, heard)
    heard.complete = heard.complete and closed
    return heard


def _gemini_whole(body: bytes) -> Heard:
    heard = Heard()
    _gemini(json.loads(body), heard)
    return heard


# Bedrock


@cache
def service() -> Any:
    """Give botocore's model of the Bedrock runtime."""
    return botocore.session.Session().get_service_model("bedrock-runtime")


def messages(body: bytes) -> Iterator[Any]:
    """Give the messages of an event stream, checksums verified. Holds: the last one is whole."""
    buffer = EventStreamBuffer()
    buffer.add_data(body)
    yield from buffer
    # What is left of a message that was cut.
    assert len(buffer._data) == 0


def _modelled(body: bytes, operation: str, event: str) -> Iterator[tuple[str, Said]]:
    """Give the events of a stream as botocore parses them. Holds: their payloads have no member the model lacks."""
    shape = service().operation_model(operation).output_shape.members[event]
    for message in messages(body):
        answer = message.to_response_dict()
        headers = answer["headers"]
        if headers[":message-type"] == "exception":
            yield headers[":exception-type"], json.loads(answer["body"])
            continue
        payload = json.loads(answer["body"])
        assert payload.pop("p").isalnum()
        kind = headers[":event-type"]
        assert payload.keys() <= shape.members[kind].members.keys()
        parsed = EventStreamJSONParser().parse(answer, shape)
        assert parsed.keys() == {kind}
        yield kind, parsed[kind]


def _converse_stream(body: bytes) -> Heard:
    heard, order, inside = Heard(), "", -1
    pieces: dict[int, list[str]] = {}
    for kind, said in _modelled(body, "ConverseStream", "stream"):
        order += {"messageStart": "(", "messageStop": ")", "metadata": "."}.get(kind, "")
        if kind.endswith("Exception"):
            heard.error = {"type": kind, **said}
            continue
        if "contentBlockIndex" in said:
            index = said["contentBlockIndex"]
            inside = index if index != inside else inside
            assert index == inside
        if kind == "contentBlockStart":
            use = said["start"]["toolUse"]
            heard.calls.append((use["toolUseId"], use["name"], ""))
            pieces[len(heard.calls) - 1] = []
        elif kind == "contentBlockDelta":
            _converse_delta(said["delta"], heard, pieces)
        elif kind == "messageStop":
            heard.finish = said["stopReason"]
        elif kind == "metadata":
            heard.usage = _pair(said.get("usage"), "inputTokens", "outputTokens")
            assert said["metrics"]["latencyMs"] > 0
    assert "().".startswith(order)
    heard.complete = order == "()."
    heard.calls = [(id_, name, "".join(pieces[nth])) for nth, (id_, name, _) in enumerate(heard.calls)]
    return heard


def _converse_delta(delta: Said, heard: Heard, pieces: dict[int, list[str]]) -> None:
    (kind,) = delta
    if kind == "text":
        heard.text += delta["text"]
    elif kind == "toolUse":
        pieces[len(heard.calls) - 1].append(delta["toolUse"]["input"])
        heard.order.append(f"call{len(heard.calls) - 1}")
    else:
        assert not heard.signature
        heard.thinking += delta["reasoningContent"].get("text", "")
        heard.signature += delta["reasoningContent"].get("signature", "")


def _converse_whole(body: bytes) -> Heard:
    said = json.loads(body)
    assert said.keys() <= service().operation_model("Converse").output_shape.members.keys()
    heard = Heard(complete=True, finish=said["stopReason"])
    for block in said["output"]["message"]["content"]:
        (kind,) = block
        if kind == "text":
            heard.text += block["text"]
        elif kind == "toolUse":
            use = block["toolUse"]
            heard.calls.append((use["toolUseId"], use["name"], json.dumps(use["input"])))
        else:
            thought = block["reasoningContent"]["reasoningText"]
            heard.thinking, heard.signature = thought["text"], thought["signature"]
    heard.usage = _pair(said.get("usage"), "inputTokens", "outputTokens")
    return heard


def _invoke_stream(body: bytes) -> Heard:
    following = _Messages()
    for kind, said in _modelled(body, "InvokeModelWithResponseStream", "body"):
        if kind.endswith("Exception"):
            following.heard.error = {"type": kind, **said}
            continue
        inner = json.loads(said["bytes"])
        assert inner["type"] != "ping"
        assert ("amazon-bedrock-invocationMetrics" in inner) == (inner["type"] == "message_stop")
        following.event(inner["type"], inner)
    return following.heard


# Ollama


def _ollama_line(said: Said, heard: Heard) -> None:
    assert not heard.complete
    if said.keys() == {"error"}:
        heard.error = {"message": said["error"]}
        return
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", said["created_at"])
    message = said["message"]
    assert message["role"] == "assistant"
    heard.ident = said["created_at"]
    heard.text += message["content"]
    heard.thinking += message.get("thinking", "")
    for call in message.get("tool_calls", ()):
        assert isinstance(call["function"]["arguments"], dict)
        heard.calls.append(("", call["function"]["name"], json.dumps(call["function"]["arguments"])))
    heard.complete = said["done"]
    assert ("done_reason" in said) == heard.complete
    heard.finish = said.get("done_reason", "")
    if "eval_count" in said:
        heard.usage = said["prompt_eval_count"], said["eval_count"]


def _ollama_stream(body: bytes) -> Heard:
    heard = Heard()
    assert body.endswith(b"\n") or not body
    for line in filter(bytes.strip, body.splitlines()):
        _ollama_line(json.loads(line), heard)
    return heard


def _ollama_whole(body: bytes) -> Heard:
    heard = Heard()
    _ollama_line(json.loads(body), heard)
    return heard


def hear_vectors(body: bytes) -> list[list[float]]:
    """Give the vectors of an answer in floats."""
    said = json.loads(body)
    _valid(CreateEmbeddingResponse, said)
    assert [one["index"] for one in said["data"]] == list(range(len(said["data"])))
    return [one["embedding"] for one in said["data"]]


def hear_packed_vectors(body: bytes) -> list[bytes]:
    """Give the vectors of an answer in base64."""
    return [base64.b64decode(one["embedding"], validate=True) for one in json.loads(body)["data"]]


_STREAMS = {
    "chat": _chat_stream,
    "responses": _responses_stream,
    "messages": _messages_stream,
    "gemini": _gemini_stream,
    "gemini_array": _gemini_array,
    "converse": _converse_stream,
    "invoke": _invoke_stream,
    "ollama": _ollama_stream,
}
_WHOLES = {
    "chat": _chat_whole,
    "responses": _responses_whole,
    "messages": _messages_whole,
    "gemini": _gemini_whole,
    "converse": _converse_whole,
    "invoke": _messages_whole,
    "ollama": _ollama_whole,
}
