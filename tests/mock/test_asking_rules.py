"""Each rule of each provider refuses, in its own words, what breaks it. Each case is a good request with one thing changed."""

from collections.abc import Callable
from typing import Any

import botocore.session
import pytest
from asks import PNG, VERSION, ask, plain, tooled
from botocore.validate import ParamValidator

from tidegate.mock.ask import BadAsk
from tidegate.mock.seal import sealed

Path = tuple[str | int, ...]
GONE = object()


def changed(body: dict[str, Any], path: Path, value: object) -> dict[str, Any]:
    """Give a body with a member set, or left out, or (at the end of a list) added."""
    at: Any = body
    for key in path[:-1]:
        at = at[key]
    last: Any = path[-1]
    if value is GONE:
        del at[last]
    elif isinstance(at, list) and last == len(at):
        at.append(value)
    else:
        at[last] = value
    return body


def refusal(dialect: str, path: Path, value: object, body: Callable[[str], dict[str, Any]] = tooled) -> BadAsk:
    with pytest.raises(BadAsk) as refused:
        ask(dialect, changed(body(dialect), path, value))
    return refused.value


Case = tuple[Path, object, str]
SEAL = sealed("messages", "Hm.")
USER_TEXT = {"role": "user", "content": "And?"}
RESULT = {"type": "tool_result", "tool_use_id": "call_1", "content": "3 m"}

MESSAGES: list[Case] = [
    (("max_tokens",), GONE, "max_tokens: Field required"),
    (("max_tokens",), 0, "max_tokens: "),
    (("frequency_penalty",), 1, "frequency_penalty: Extra inputs are not permitted"),
    (("messages",), [], "at least one message"),
    (("messages", 0, "role"), "assistant", 'first message must use the "user" role'),
    (("messages", 0, "role"), "system", "messages.0.role: "),
    (("messages", 0, "content"), [], "must have non-empty content"),
    (("messages", 0, "content", 0, "text"), "", "must be non-empty"),
    (("messages", 0, "content", 0, "text"), " \n", "non-whitespace"),
    (("messages", 0, "content", 0, "type"), "input_text", "messages.0.content.0.type: "),
    (("messages", 0, "content", 1, "source", "data"), "???", "messages.0.content.1.source.data: "),
    (("messages", 0, "content", 1, "source", "media_type"), "image/tiff", "media_type: "),
    (("messages", 0, "content", 1, "source", "media_type"), "application/pdf", "media_type: "),
    (("messages", 0, "content", 1, "source"), {"type": "url", "url": "ftp://x"}, "Only HTTPS URLs"),
    (
        ("messages", 0, "content", 1),
        {"type": "tool_use", "id": "a", "name": "b", "input": {}},
        "only be in `assistant`",
    ),
    (("messages", 1, "content", 2), RESULT, "only be in `user`"),
    (("messages", 1, "content", 0, "signature"), GONE, "signature: Field required"),
    (("messages", 1, "content", 0, "signature"), "abc", "Invalid `signature` in `thinking` block"),
    (("messages", 1, "content", 0, "signature"), sealed("gemini"), "Invalid `signature` in `thinking` block"),
    (("messages", 1, "content", 0, "thinking"), "Ha.", "Invalid `signature` in `thinking` block"),
    (("messages", 1, "content", 0), {"type": "redacted_thinking", "data": SEAL}, "Invalid `data`"),
    (("messages", 1, "content", 0), GONE, "Expected `thinking` or `redacted_thinking`, but found `tool_use`"),
    (("messages", 1, "content", 1, "input"), "{}", "input: "),
    (("messages", 1, "content", 1, "id"), "call:1", "id: "),
    (("messages", 1, "content", 2), {"type": "tool_use", "id": "call_1", "name": "b", "input": {}}, "must be unique"),
    (
        ("messages", 1, "content", 2),
        {"type": "tool_use", "id": "call_2", "name": "b", "input": {}},
        "without `tool_result`",
    ),
    (("messages", 2), GONE, "without `tool_result` blocks immediately after: call_1"),
    (("messages", 2), USER_TEXT, "without `tool_result` blocks immediately after: call_1"),
    (("messages", 2, "content"), [{"type": "text", "text": "So"}, RESULT], "without `tool_result` blocks"),
    (("messages", 2, "content", 0, "tool_use_id"), "call_9", "unexpected `tool_use_id`"),
    (("messages", 2, "content", 1), RESULT, "each tool_use must have a single result"),
    (("messages", 2, "content", 0, "content"), [{"type": "text", "text": ""}], "must be non-empty"),
    (("system",), [{"type": "text", "text": ""}], "system.0: "),
    (("tools",), [], "must define tools"),
    (("tools", 0, "input_schema"), {}, "input_schema.type: Field required"),
    (("tools", 0, "input_schema", "type"), "string", "input_schema.type: "),
    (("tools", 0, "function"), {}, "Extra inputs"),
    (("tools", 1), {"name": "get_tide", "input_schema": {"type": "object"}}, "Tool names must be unique"),
    (("tool_choice",), {"type": "tool", "name": "other"}, "not found in provided tools"),
    (("tool_choice",), {"type": "tool", "name": "get_tide"}, "Thinking may not be enabled when tool_choice forces"),
    (("tool_choice",), "auto", "tool_choice: "),
    (("thinking", "budget_tokens"), 1023, "thinking.budget_tokens: "),
    (("thinking", "budget_tokens"), 4000, "must be greater than `thinking.budget_tokens`"),
    (("temperature",), 0.5, "`temperature` may only be set to 1"),
    (("temperature",), 1.5, "temperature: "),
    (("top_p",), 0.5, "`top_p` must be"),
    (("top_k",), 5, "`top_k` must be unset"),
    (("stop_sequences",), [" "], "must contain non-whitespace"),
]


@pytest.mark.parametrize("dialect", ["messages", "invoke"])
@pytest.mark.parametrize(("path", "value", "words"), MESSAGES)
def test_messages_refuses(dialect: str, path: Path, value: object, words: str) -> None:
    assert words in refusal(dialect, path, value).message


@pytest.mark.parametrize("kind", ["image", "document"])
def test_bedrock_fetches_nothing_for_messages(kind: str) -> None:
    block = {"type": kind, "source": {"type": "url", "url": "https://example.com/a"}}
    shown = {"type": "tool_result", "tool_use_id": "call_1", "content": [block]}
    for path, value in ((("messages", 0, "content", 1), block), (("messages", 2, "content", 0), shown)):
        assert "Input should be 'base64'" in refusal("invoke", path, value).message
        assert ask("messages", changed(tooled("messages"), path, value)).dialect == "messages"


def test_messages_needs_its_version_and_bedrock_another_in_the_body() -> None:
    with pytest.raises(BadAsk, match="anthropic-version: header is required"):
        ask("messages", plain("messages"), [])
    with pytest.raises(BadAsk, match='"2099-01-01" is not a valid version'):
        ask("messages", plain("messages"), [(b"anthropic-version", b"2099-01-01")])
    assert refusal("invoke", ("anthropic_version",), "2023-06-01").param == "anthropic_version"
    assert "Extra inputs" in refusal("invoke", ("model",), "m").message
    assert "Extra inputs" in refusal("invoke", ("stream",), True).message
    assert refusal("messages", ("model",), GONE).message == "model: Field required"


def test_messages_takes_a_prefill_that_does_not_end_in_blanks() -> None:
    body = plain("messages")
    body["messages"].append({"role": "assistant", "content": "It is"})
    assert ask("messages", body).dialect == "messages"
    body["messages"][1]["content"] = "It is "
    with pytest.raises(BadAsk, match="trailing whitespace"):
        ask("messages", body)
    body["messages"][1]["content"] = ""
    assert ask("messages", body).dialect == "messages"
    body |= {"thinking": {"type": "enabled", "budget_tokens": 2000}}
    body["messages"][1]["content"] = "It is"
    with pytest.raises(BadAsk, match="Expected `thinking`"):
        ask("messages", body)


def test_messages_joins_turns_of_one_role_and_takes_thoughts_and_documents_of_every_kind() -> None:
    body = tooled("messages") | {"thinking": {"type": "adaptive"}}
    first = {"type": "redacted_thinking", "data": sealed("messages")}
    body["messages"][1]["content"].insert(0, first)
    pdf = {"type": "base64", "media_type": "application/pdf", "data": PNG}
    sources: list[dict[str, Any]] = [
        pdf,
        {"type": "url", "url": "https://example.org/a.pdf"},
        {"type": "text", "media_type": "text/plain", "data": "x"},
        {"type": "content", "content": [{"type": "text", "text": "x"}]},
    ]
    held = [{"type": "document", "source": source, "title": "T"} for source in sources]
    body["messages"] += [{"role": "user", "content": held}, USER_TEXT]
    assert ask("messages", body).prompt_tokens > ask("messages", tooled("messages")).prompt_tokens


CONVERSE: list[Case] = [
    (("messages",), [], "must start with a user message"),
    (("messages", 0, "role"), "assistant", "must start with a user message"),
    (("messages", 2, "role"), "assistant", "must alternate"),
    (("messages", 0, "content"), [], "is empty. Add a ContentBlock"),
    (("messages", 0, "content", 0, "text"), " ", "is blank"),
    (("messages", 0, "content", 0), {}, "Invalid number of parameters set for tagged union"),
    (("messages", 0, "content", 0), {"text": "x", "cachePoint": {"type": "default"}}, "tagged union"),
    (
        ("messages", 0, "content", 0),
        {"type": "text", "text": "x"},
        "Unknown parameter in input: messages.0.content.0.type",
    ),
    (("messages", 0, "content", 1, "image", "format"), "tiff", "failed to satisfy constraint"),
    (("messages", 0, "content", 1, "image", "source", "bytes"), "?", "failed to satisfy constraint"),
    (("messages", 0, "content", 1, "image", "source"), {}, "tagged union"),
    (
        ("messages", 1, "content", 2),
        {"image": {"format": "png", "source": {"bytes": PNG}}},
        "not valid for image blocks",
    ),
    (("messages", 1, "content", 1, "toolUse", "input"), "{}", "Provide a json object"),
    (("messages", 1, "content", 1, "toolUse", "toolUseId"), "a b", "failed to satisfy constraint"),
    (("messages", 1, "content", 2), {"toolUse": {"toolUseId": "call_1", "name": "a", "input": {}}}, "duplicate Ids"),
    (("messages", 1, "content", 2), {"toolUse": {"toolUseId": "c", "name": "a", "input": {}}}, "following Ids: c"),
    (("messages", 2), GONE, "Expected toolResult blocks at messages.2.content for the following Ids: call_1"),
    (("messages", 2, "content", 0, "toolResult", "toolUseId"), "other", "exceeds the number of toolUse blocks"),
    (
        ("messages", 2, "content", 1),
        {"toolResult": {"toolUseId": "call_1", "content": []}},
        "contain duplicate Ids: call_1",
    ),
    (("messages", 2, "content", 0, "toolResult", "content", 0), {"json": [1]}, "Provide a json object"),
    (
        ("messages", 1, "content", 0, "reasoningContent", "reasoningText", "signature"),
        sealed("messages", "Hm."),
        "Invalid `signature`",
    ),
    (
        ("messages", 1, "content", 0, "reasoningContent", "reasoningText", "signature"),
        GONE,
        "signature: Field required",
    ),
    (("messages", 1, "content", 0, "reasoningContent"), {"redactedContent": PNG}, "Invalid `data`"),
    (("toolConfig",), GONE, "The toolConfig field must be defined"),
    (("toolConfig", "tools"), [], "failed to satisfy constraint"),
    (("toolConfig", "tools", 0, "toolSpec", "description"), "", "failed to satisfy constraint"),
    (("toolConfig", "tools", 0, "toolSpec", "inputSchema", "json"), {}, "json.type must be one of"),
    (
        ("toolConfig", "tools", 1),
        {"toolSpec": {"name": "get_tide", "inputSchema": {"json": {"type": "object"}}}},
        "already",
    ),
    (("toolConfig", "toolChoice"), {"tool": {"name": "other"}}, "must be one of the tools"),
    (("toolConfig", "toolChoice"), {"auto": {}, "any": {}}, "tagged union"),
    (("inferenceConfig",), {"maxTokens": 0}, "inferenceConfig.maxTokens"),
    (("inferenceConfig",), {"topK": 1}, "Unknown parameter in input: inferenceConfig.topK"),
    (("inferenceConfig",), {"temperature": 2}, "inferenceConfig.temperature"),
    (("system", 0, "text"), "", "system.0.text"),
    (("system", 0), {}, "tagged union"),
    (("additionalModelRequestFields",), "x", "Provide a json object"),
    (("additionalModelRequestFields",), {"thinking": {"type": "enabled"}}, "budget_tokens"),
    (("max_tokens",), 1, "Unknown parameter in input: max_tokens"),
]


@pytest.mark.parametrize(("path", "value", "words"), CONVERSE)
def test_converse_refuses(path: Path, value: object, words: str) -> None:
    refused = refusal("converse", path, value)
    assert words in refused.message
    assert (refused.status, refused.code) == (400, "ValidationException")


def test_converse_holds_thinking_to_the_limit_on_tokens() -> None:
    body = plain("converse") | {
        "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 2000}}
    }
    assert ask("converse", body | {"inferenceConfig": {"maxTokens": 4000}}).dialect == "converse"
    with pytest.raises(BadAsk, match="must be greater than"):
        ask("converse", body | {"inferenceConfig": {"maxTokens": 1000}})


def test_converse_takes_documents_beside_a_text_under_a_proper_name() -> None:
    body = plain("converse")
    document: dict[str, Any] = {"format": "pdf", "name": "My file (2)", "source": {"bytes": PNG}}
    body["messages"][0]["content"].append({"document": document})
    assert ask("converse", body).dialect == "converse"
    document["name"] = "file.pdf"
    with pytest.raises(BadAsk, match="alphanumeric"):
        ask("converse", body)
    document["name"] = "file"
    del body["messages"][0]["content"][0]
    with pytest.raises(BadAsk, match="text block is required"):
        ask("converse", body)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("system",), [{"text": "ok"}]),
        (("system",), [{"text": ""}]),
        (("system",), "text"),
        (("messages", 0, "content", 0), {"text": "a", "toolUse": {}}),
        (("messages", 0, "content", 0), {}),
        (("messages", 0, "content", 0), {"text": 3}),
        (("messages", 0, "content", 0), {"words": "a"}),
        (("messages", 0), {"role": "user"}),
        (("messages", 0, "extra"), 1),
        (("inferenceConfig",), {"maxTokens": 5, "temperature": 0.5, "topP": 1.0, "stopSequences": ["x"]}),
        (("inferenceConfig",), {"maxTokens": 0}),
        (("inferenceConfig",), {"maxTokens": "5"}),
        (("inferenceConfig",), {"stopSequences": [""]}),
        (("toolConfig",), {"tools": []}),
        (("toolConfig",), {}),
        (("toolConfig", "toolChoice"), {"any": {}}),
        (("toolConfig", "toolChoice"), {"tool": {}}),
        (("messages", 1, "content", 1, "toolUse"), {"toolUseId": "", "name": "x", "input": {}}),
        (("messages", 1, "content", 1, "toolUse"), {"toolUseId": "a", "name": "x"}),
        (("messages", 2, "content", 0, "toolResult"), {"toolUseId": "call_1"}),
        (("messages", 2, "content", 0, "toolResult"), {"toolUseId": "call_1", "content": [{"json": {"a": 1}}]}),
        (("additionalModelRequestFields",), {"top_k": 5}),
        (("requestMetadata",), {"a": "b"}),
        (("requestMetadata",), {"a": 1}),
        (("performanceConfig",), {"latency": "optimized"}),
        (("stream",), True),
    ],
)
def test_converse_takes_the_shapes_that_botocore_takes_and_no_others(path: Path, value: object) -> None:
    session = botocore.session.get_session()
    shape = session.get_service_model("bedrock-runtime").operation_model("ConverseStream").input_shape
    body = changed(tooled("converse"), path, value)
    wrong = ParamValidator().validate(body | {"modelId": "mock"}, shape).has_errors()
    try:
        ask("converse", body)
    except BadAsk:
        assert wrong
    else:
        assert not wrong


RESPONSES: list[Case] = [
    (("input",), GONE, "Missing required parameter: 'input'"),
    (("model",), GONE, "Missing required parameter: 'model'"),
    (("stop",), ["x"], "Unknown parameter: 'stop'"),
    (("input", 0, "content", 0, "type"), "text", "input[0].content[0].type"),
    (("input", 0, "content", 1, "image_url"), {"url": "https://x"}, "input[0].content[1].image_url"),
    (("input", 0, "content", 1, "image_url"), "data:image/png;base64,?", "Expected a valid URL"),
    (("input", 0, "content", 1, "image_url"), GONE, "Missing required parameter: 'input[0].content[1].image_url'"),
    (("input", 0, "content", 1), {"type": "input_file", "file_data": "x", "filename": "a"}, "data URL"),
    (("input", 0, "content", 1), {"type": "input_file", "file_data": f"data:a/b;base64,{PNG}"}, "filename"),
    (("input", 0, "content", 1), {"type": "input_file", "file_url": "x"}, "valid URL"),
    (("input", 0, "content", 1), {"type": "input_file"}, "file_id"),
    (("input", 0, "role"), "tool", "input[0].role"),
    (("input", 0, "id"), "x_1", "Expected an ID that begins with 'msg'"),
    (("input", 0), {"type": "item_reference", "id": "msg_1"}, "Item with id 'msg_1' not found"),
    (("input", 0), {"type": "tool_use"}, "Invalid value: 'tool_use'"),
    (("input", 0), {"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}, "content[0].type"),
    (("input", 1, "encrypted_content"), SEAL, "could not be verified"),
    (("input", 1, "encrypted_content"), GONE, "Item with id 'rs_1' not found"),
    (("input", 1, "summary"), GONE, "Missing required parameter: 'input[1].summary'"),
    (("input", 1, "id"), "thought", "Expected an ID that begins with 'rs'"),
    (("input", 2, "id"), "call_1", "Expected an ID that begins with 'fc'"),
    (("input", 2, "arguments"), {}, "Invalid type for 'input[2].arguments'"),
    (("input", 2), GONE, "without its required following item"),
    (("input", 3, "call_id"), "call_2", "No tool call found for function call output with call_id call_2"),
    (("input", 3), GONE, "No tool output found for function call call_1"),
    (("input", 3, "output"), 3, "input[3].output"),
    (
        ("input", 3),
        {"type": "function_call", "call_id": "call_1", "name": "a", "arguments": ""},
        "Duplicate call_id found in input: call_1",
    ),
    (("tools", 0), {"type": "function", "function": {"name": "a"}}, "tools[0]"),
    (("tools", 0, "type"), "retrieval", "Invalid value: 'retrieval'"),
    (("tool_choice",), {"type": "function", "name": "other"}, "not found in 'tools'"),
    (("tool_choice",), "any", "tool_choice"),
    (("max_output_tokens",), 15, "Expected a value >= 16"),
    (("temperature",), 3, "temperature"),
    (("include",), ["everything"], "include"),
    (("previous_response_id",), "resp_1", "not found"),
    (("conversation",), "conv_1", "not found"),
    (("background",), True, "not supported"),
    (("response_format",), {"type": "json_object"}, "Unknown parameter: 'response_format'"),
    (("text",), {"format": {"type": "json_schema", "json_schema": {}}}, "text.format"),
]


@pytest.mark.parametrize(("path", "value", "words"), RESPONSES)
def test_responses_refuses(path: Path, value: object, words: str) -> None:
    assert words in refusal("responses", path, value).message


def test_responses_takes_texts_custom_tools_hosted_tools_and_answers_of_its_own() -> None:
    said = {"role": "assistant", "id": "msg_1", "type": "message", "status": "completed"}
    parts = [{"type": "output_text", "text": "Hi", "annotations": []}, {"type": "refusal", "refusal": "No"}]
    body = tooled("responses")
    body["input"] += [
        said | {"content": parts},
        {"type": "custom_tool_call", "call_id": "c", "name": "sh", "input": "ls"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "a.txt"}]},
        {"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]},
    ]
    body["tools"] += [{"type": "custom", "name": "sh"}, {"type": "web_search"}]
    assert ask("responses", body).tools == ("get_tide", "sh")
    assert ask("responses", {"model": "m", "input": "Hi there"}).prompt_tokens == 2
    with pytest.raises(BadAsk, match="must be specified with 'tools'"):
        ask("responses", {"model": "m", "input": "Hi", "tool_choice": "required"})


GEMINI: list[Case] = [
    (("contents",), [], "contents is not specified"),
    (("model_name",), "x", 'Unknown name "modelName": Cannot find field'),
    (("contents", 0, "role"), "assistant", "Please use a valid role: user, model."),
    (("contents", 0, "parts"), [], "must not be empty"),
    (("contents", 0, "parts", 0, "type"), "text", "Unknown name \"type\" at 'contents[0].parts[0]'"),
    (("contents", 0, "parts", 0), {}, "must have one initialized field"),
    (("contents", 0, "parts", 0, "functionCall"), {"name": "a"}, "already set"),
    (("contents", 0, "parts", 0, "text"), 3, "Invalid value at 'contents[0].parts[0].text'"),
    (("contents", 0, "parts", 1, "inlineData", "data"), "?", "inlineData.data"),
    (("contents", 0, "parts", 1, "inlineData", "mimeType"), GONE, "mimeType: required"),
    (("contents", 1, "role"), "user", "function call turn comes immediately after a user turn"),
    (("contents", 1, "parts", 0, "thoughtSignature"), SEAL, "Thought signature is not valid"),
    (("contents", 1, "parts", 0, "functionCall", "args"), "{}", "functionCall.args"),
    (("contents", 2, "role"), "model", "not allowed in a model turn"),
    (("contents", 2), GONE, "number of function response parts is equal"),
    (("contents", 2, "parts", 0, "functionResponse", "name"), "other", "does not match any function call"),
    (("contents", 2, "parts", 0, "functionResponse", "response"), "3 m", "functionResponse.response"),
    (("contents", 1), {"role": "model", "parts": [{"text": "x"}]}, "comes immediately after a function call turn"),
    (("systemInstruction",), "Be brief.", "systemInstruction"),
    (("tools", 0, "functionDeclarations", 0, "parameters", "additionalProperties"), False, "additionalProperties"),
    (("tools", 0, "functionDeclarations", 0, "parameters", "type"), "STRING", "should be of type OBJECT"),
    (("tools", 0, "functionDeclarations", 0, "parametersJsonSchema"), {}, "mutually exclusive"),
    (("tools", 0, "functionDeclarations", 1), {"name": "get_tide"}, "Duplicate function declaration"),
    (("toolConfig", "functionCallingConfig", "mode"), "AUTO", "mode is ANY"),
    (("toolConfig", "functionCallingConfig", "allowedFunctionNames"), ["x"], "not among the function declarations"),
    (("generationConfig",), {"max_tokens": 1}, 'Unknown name "maxTokens"'),
    (("generationConfig",), {"stopSequences": list("abcdef")}, "stopSequences"),
    (("generationConfig",), {"responseSchema": {"type": "OBJECT"}}, "needs application/json"),
    (("generationConfig",), {"logprobs": 3}, "responseLogprobs"),
    (("generationConfig",), {"thinkingConfig": {"thinkingBudget": 1, "thinkingLevel": "low"}}, "only one of"),
    (
        ("generationConfig",),
        {"responseMimeType": "application/json", "responseSchema": {"type": "OBJECT"}, "responseJsonSchema": {}},
        "mutually exclusive",
    ),
    (("safetySettings",), [{"category": "X", "threshold": "OFF"}], "safetySettings"),
]


@pytest.mark.parametrize("dialect", ["gemini", "gemini_array"])
@pytest.mark.parametrize(("path", "value", "words"), GEMINI)
def test_gemini_refuses(dialect: str, path: Path, value: object, words: str) -> None:
    refused = refusal(dialect, path, value)
    assert words in refused.message
    assert refused.code == "INVALID_ARGUMENT"


def test_gemini_takes_names_with_underscores_nulls_and_what_stands_for_a_signature() -> None:
    body = tooled("gemini")
    body["system_instruction"] = body.pop("systemInstruction")
    body["generation_config"] = {"max_output_tokens": 5, "temperature": None}
    body["contents"][1]["parts"][0]["thought_signature"] = "skip_thought_signature_validator"
    del body["contents"][1]["parts"][0]["thoughtSignature"]
    body["contents"][1]["parts"][0]["functionCall"]["args"] = {"some_name": 1}
    body["contents"][2]["parts"][0]["functionResponse"]["response"] = {"a": 1, "b": 2}
    assert ask("gemini", body).tools == ("get_tide",)


OLLAMA: list[Case] = [
    (("model",), GONE, "model is required"),
    (("messages",), [], "messages are required"),
    (("messages", 0, "role"), "developer", 'invalid role: "developer"'),
    (("messages", 1, "content"), [{"type": "text", "text": "x"}], "cannot unmarshal ChatRequest.messages[1].content"),
    (("messages", 1, "images"), ["data:image/png;base64," + PNG], "cannot unmarshal ChatRequest.messages[1].images"),
    (("messages", 1, "images"), [""], "image: unknown format"),
    (("messages", 2, "tool_calls", 0, "function", "arguments"), "{}", "function.arguments"),
    (("tools", 0), {"name": "a"}, "tools[0]"),
    (("tools", 0, "type"), "custom", "of type function"),
    (("options",), {"stop": "x"}, "options.stop"),
    (("options",), {"temperature": "hot"}, "options.temperature"),
    (("think",), "much", "invalid think value"),
    (("format",), "xml", "invalid format"),
]


@pytest.mark.parametrize(("path", "value", "words"), OLLAMA)
def test_ollama_refuses(path: Path, value: object, words: str) -> None:
    assert words in refusal("ollama", path, value).message


def test_ollama_does_not_mind_members_that_it_does_not_know() -> None:
    assert (
        ask("ollama", tooled("ollama") | {"top_k": 1, "options": {"num_predict": 5, "unheard": 1}}).dialect == "ollama"
    )


CALL = {"id": "call_1", "type": "function", "function": {"name": "a", "arguments": "{}"}}
CHAT: list[Case] = [
    (("messages", 0, "role"), "model", "Invalid enum value 'model'"),
    (("messages", 1, "content", 0, "type"), "input_text", "Invalid value 'input_text'"),
    (("messages", 1, "content", 1, "image_url"), "https://x", "Expected `object`"),
    (("messages", 1, "content", 1, "image_url", "url"), "data:image/png;base64,?", "Expected a valid URL"),
    (("messages", 1, "content", 1, "image_url", "url"), "aGk=", "Expected a valid URL"),
    (("messages", 1, "content", 1), {"type": "input_audio", "input_audio": {"data": "?", "format": "wav"}}, "Base64"),
    (("messages", 1, "content", 1), {"type": "file", "file": {"file_data": "x"}}, "Expected a file_id"),
    (("messages", 1, "content", 1), {"type": "refusal", "refusal": "x"}, "not supported in messages of this role"),
    (("messages", 1, "tool_calls"), [CALL], "Unknown parameter: 'messages[1].tool_calls'"),
    (("messages", 2, "tool_calls"), [], "empty array"),
    (("messages", 2, "tool_calls", 1), CALL, "Duplicate value for 'tool_call_id'"),
    (("messages", 2, "tool_calls", 0, "function", "arguments"), {}, "Expected `str`, got `object`"),
    (("messages", 2, "tool_calls", 0, "type"), GONE, "missing required field `type`"),
    (("messages", 2), {"role": "assistant", "content": "x"}, "must be a response to a preceding message"),
    (("messages", 3), GONE, "did not have response messages: call_1"),
    (("messages", 3), {"role": "user", "content": "x"}, "did not have response messages: call_1"),
    (("messages", 3, "tool_call_id"), "call_2", "'tool_call_id' of 'call_2' not found"),
    (("messages", 3, "tool_call_id"), GONE, "Missing parameter 'tool_call_id'"),
    (("tools", 0), {"type": "function", "name": "a"}, "missing required field `function`"),
    (("tools",), [], "Invalid 'tools': empty array"),
    (("tools",), [{"type": "function", "function": {"name": "a"}}] * 129, "array too long"),
    (("tools",), None, "only allowed when 'tools' are specified"),
    (("tool_choice",), {"type": "function", "function": {"name": "other"}}, "Tool choice 'other' not found"),
    (("tool_choice",), {"type": "function", "name": "get_tide"}, "Missing required parameter: 'tool_choice.function'"),
    (("tool_choice",), "any", "tool_choice"),
    (("response_format",), {"type": "json_schema"}, "Missing required parameter: 'response_format.json_schema'"),
    (("response_format",), {"type": "json"}, "Invalid enum value 'json'"),
]


@pytest.mark.parametrize(("path", "value", "words"), CHAT)
def test_chat_refuses(path: Path, value: object, words: str) -> None:
    assert words in refusal("chat", path, value).message


def test_chat_takes_custom_tools_sounds_files_and_refusals() -> None:
    body = tooled("chat")
    body["tools"].append({"type": "custom", "custom": {"name": "sh"}})
    body["tool_choice"] = "required"
    held: list[dict[str, Any]] = [
        {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PNG}"}},
    ]
    call = {"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}}
    body["messages"] += [
        {"role": "user", "content": held},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}], "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "a.txt"},
    ]
    assert ask("chat", body, VERSION).tools == ("get_tide", "sh")
