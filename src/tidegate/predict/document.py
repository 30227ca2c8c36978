"""The two descriptions of a handler: the OpenAPI document clients read, in Cog's form, and the JSON Schema inputs are checked by."""

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from tidegate.predict.outputs import Output
from tidegate.predict.pool import LOCAL, Pool, Schema
from tidegate.predict.signature import Parameter, plain

_TAKEN: Final = frozenset(
    {
        "HTTPValidationError",
        "Input",
        "Output",
        "PredictionRequest",
        "PredictionResponse",
        "Status",
        "ValidationError",
        "WebhookEvent",
    }
)
_STATUSES: Final = ("starting", "processing", "succeeded", "canceled", "failed")
_EVENTS: Final = ("start", "output", "logs", "completed")
_NAMED: Final = frozenset({"properties", "patternProperties"})
"""Where names are the user's, not words of a schema."""
_VALUES: Final = frozenset({"default", "enum", "const", "example", "examples"})
_EXCLUSIVE: Final = (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))
_COMPONENTS: Final = "#/components/schemas/"


def input_schema(parameters: Iterable[Parameter]) -> Schema:
    """Give a JSON Schema (2020-12) of `input`. Shape: all references are local; unknown keys are not refused."""
    parameters = list(parameters)
    pool = Pool()
    schema: Schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Input",
        "type": "object",
        "properties": {each.name: pool.take(each.schema(), each.shape.defs) for each in parameters},
        "required": [each.name for each in parameters if each.required],
    }
    return {**schema, "$defs": pool.parts} if pool.parts else schema


def openapi(parameters: Iterable[Parameter], output: Output, *, streams: bool) -> Schema:
    """Give the OpenAPI document in Cog's form."""
    pool = Pool(_COMPONENTS, _TAKEN)
    given = _output(output, pool)
    wanted = _input(list(parameters), pool)
    components = {**{name: _older(part) for name, part in pool.parts.items()}, **_envelopes()}
    components |= {"Input": wanted, "Output": given}
    return {
        "openapi": "3.0.2",
        "info": {"title": "Tidegate", "version": _version()},
        "paths": _paths(streams=streams),
        "components": {"schemas": dict(sorted(components.items()))},
    }


def _version() -> str:
    try:
        return version("tidegate")
    except PackageNotFoundError:
        return "0"


# --- Input and Output ----------------------------------------------------------------------------------------------


def _input(parameters: list[Parameter], pool: Pool) -> Schema:
    properties = {each.name: _property(each, order, pool) for order, each in enumerate(parameters)}
    schema: Schema = {"title": "Input", "type": "object", "properties": properties}
    required = [each.name for each in parameters if each.required]
    return {**schema, "required": required} if required else schema


def _property(parameter: Parameter, order: int, pool: Pool) -> Schema:
    enumerated = parameter.choices()
    if enumerated:
        schema = _enumerated(parameter, enumerated, pool)
    else:
        taken = pool.take(parameter.bare_schema(), parameter.shape.defs)
        schema = {"title": parameter.name.replace("_", " ").title(), **_older(taken)}
    return _apart(schema | _said(parameter) | {"x-order": order})


def _enumerated(parameter: Parameter, values: tuple[Any, ...], pool: Pool) -> Schema:
    kind = _kind_of(values)
    enumeration = {"title": parameter.name, "description": "An enumeration.", "enum": list(values), **kind}
    reference = pool.take({"$ref": LOCAL + parameter.name}, {parameter.name: enumeration})
    if parameter.shape.family == "list":
        return {"title": parameter.name.replace("_", " ").title(), "type": "array", "items": reference}
    return {"allOf": [reference]}


def _kind_of(values: tuple[Any, ...]) -> Schema:
    words: Mapping[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}
    kinds = {type(value) for value in values}
    if kinds == {int, float}:
        return {"type": "number"}
    (kind,) = kinds if len(kinds) == 1 else (object,)
    return {"type": words[kind]} if kind in words else {}


def _said(parameter: Parameter) -> Schema:
    info = parameter.info
    said: Schema = {}
    if info.description:
        said["description"] = info.description
    if not parameter.required and _is_shown(parameter):
        said["default"] = plain(parameter.default)
    if parameter.takes_null:
        said["nullable"] = True
    if info.deprecated:
        said["deprecated"] = True
    if info.accept:
        said["x-cog-accept"] = info.accept
    return said


def _is_shown(parameter: Parameter) -> bool:
    default = plain(parameter.default)
    return parameter.shape.family not in {"file", "files", "secret"} and isinstance(
        default, str | int | float | bool | list | dict
    )


def _output(output: Output, pool: Pool) -> Schema:
    schema = pool.take(output.schema, output.defs)
    if "$ref" in schema:
        schema = pool.parts[schema["$ref"].removeprefix(_COMPONENTS)]
    return {**_older(schema), "title": "Output"}


def _older(part: Any) -> Any:
    """Turn JSON Schema 2020-12 into what OpenAPI 3.0 has for it."""
    if isinstance(part, list):
        return [_older(each) for each in part]
    if not isinstance(part, dict):
        return part
    schema = {key: _older_member(key, value) for key, value in part.items()}
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if schema.get("required") == []:
        del schema["required"]
    for word, exclusive in _EXCLUSIVE:
        if exclusive in schema:
            schema |= {word: schema[exclusive], exclusive: True}
    if "prefixItems" in schema:
        schema["items"] = {"anyOf": schema.pop("prefixItems")}
    return _apart(_with_nullable(schema))


def _older_member(key: str, value: Any) -> Any:
    if key in _NAMED and isinstance(value, dict):
        return {name: _older(part) for name, part in value.items()}
    return value if key in _VALUES else _older(value)


def _apart(schema: Schema) -> Schema:
    """Let a reference stand alone: what stands beside one is ignored in OpenAPI 3.0."""
    if "$ref" not in schema or len(schema) == 1:
        return schema
    return {**{key: value for key, value in schema.items() if key != "$ref"}, "allOf": [{"$ref": schema["$ref"]}]}


def _with_nullable(schema: Schema) -> Schema:
    kinds = schema.get("type")
    if isinstance(kinds, list) and "null" in kinds:
        return {**schema, "type": next(kind for kind in kinds if kind != "null"), "nullable": True}
    members = schema.get("anyOf")
    if not isinstance(members, list) or {"type": "null"} not in members:
        return schema
    rest = [member for member in members if member != {"type": "null"}]
    others = {key: value for key, value in schema.items() if key != "anyOf"}
    if len(rest) > 1:
        return {**others, "anyOf": rest, "nullable": True}
    return {**others, **({"allOf": rest} if rest and "$ref" in rest[0] else rest[0]), "nullable": True}


# --- what is the same for all --------------------------------------------------------------------------------------


def _envelopes() -> Schema:
    text = {"type": "string"}
    response = {
        name: {"title": name, "type": "string"}
        for name in ("completed_at", "created_at", "error", "id", "logs", "started_at", "status", "version")
    }
    references = {"input": {"$ref": _COMPONENTS + "Input"}, "output": {"$ref": _COMPONENTS + "Output"}}
    location = {"type": "array", "items": {"anyOf": [text, {"type": "integer"}]}}
    details = {"title": "Detail", "type": "array", "items": {"$ref": _COMPONENTS + "ValidationError"}}
    return {
        "PredictionRequest": {"title": "PredictionRequest", "type": "object", "properties": _request()},
        "PredictionResponse": {
            "title": "PredictionResponse",
            "type": "object",
            "properties": {**response, **references, "metrics": {"title": "Metrics", "type": "object"}},
        },
        "Status": _enumeration("Status", _STATUSES),
        "WebhookEvent": _enumeration("WebhookEvent", _EVENTS),
        "HTTPValidationError": {"title": "HTTPValidationError", "type": "object", "properties": {"detail": details}},
        "ValidationError": {
            "title": "ValidationError",
            "type": "object",
            "properties": {"loc": location, "msg": text, "type": text},
            "required": ["loc", "msg", "type"],
        },
    }


def _request() -> Schema:
    return {
        "id": {"title": "Id", "type": "string"},
        "input": {"$ref": _COMPONENTS + "Input"},
        "context": {"title": "Context", "type": "object", "additionalProperties": {"type": "string"}},
        "webhook": {"title": "Webhook", "type": "string", "format": "uri"},
        "webhook_events_filter": {
            "title": "Webhook Events Filter",
            "type": "array",
            "items": {"$ref": _COMPONENTS + "WebhookEvent"},
        },
        "timeout": {
            "title": "Timeout",
            "description": "Seconds after which the prediction ends.",
            "type": "number",
            "minimum": 0,
            "exclusiveMinimum": True,
        },
    }


def _enumeration(title: str, values: Iterable[str]) -> Schema:
    return {"title": title, "description": "An enumeration.", "type": "string", "enum": list(values)}


def _paths(*, streams: bool) -> Schema:
    post: Schema = {
        "summary": "Predict",
        "description": "Run a single prediction on the model",
        "operationId": "predict_predictions_post",
        **_creates(),
    }
    put: Schema = {
        "summary": "Predict Idempotent",
        "description": "Run a single prediction on the model, or give the one that has this id",
        "operationId": "predict_idempotent_predictions__prediction_id__put",
        "parameters": _identified(),
        **_creates(),
    }
    if streams:
        post["x-cog-streaming"] = True
        put["x-cog-streaming"] = True
    get = {
        "summary": "Get a prediction",
        "operationId": "get_prediction_predictions__prediction_id__get",
        "parameters": _identified(),
        "responses": {"200": _answer({"$ref": _COMPONENTS + "PredictionResponse"})},
    }
    cancel = {
        "summary": "Cancel",
        "operationId": "cancel_predictions__prediction_id__cancel_post",
        "parameters": _identified(),
        "responses": {"200": _answer({})},
    }
    return {
        "/": _read("Root", "root__get"),
        "/health-check": _read("Healthcheck", "healthcheck_health_check_get"),
        "/openapi.json": _read("OpenAPI", "openapi_openapi_json_get"),
        "/predictions": {"post": post},
        "/predictions/{prediction_id}": {"put": put, "get": get},
        "/predictions/{prediction_id}/cancel": {"post": cancel},
    }


def _read(summary: str, operation: str) -> Schema:
    return {"get": {"summary": summary, "operationId": operation, "responses": {"200": _answer({})}}}


def _creates() -> Schema:
    body = {"content": {"application/json": {"schema": {"$ref": _COMPONENTS + "PredictionRequest"}}}}
    refusal = {"content": {"application/json": {"schema": {"$ref": _COMPONENTS + "HTTPValidationError"}}}}
    return {
        "requestBody": body,
        "responses": {
            "200": _answer({"$ref": _COMPONENTS + "PredictionResponse"}),
            "422": {**refusal, "description": "Validation Error"},
        },
    }


def _identified() -> list[Schema]:
    return [
        {
            "name": "prediction_id",
            "in": "path",
            "required": True,
            "schema": {"title": "Prediction ID", "type": "string"},
        }
    ]


def _answer(schema: Schema) -> Schema:
    return {"description": "Successful Response", "content": {"application/json": {"schema": schema}}}
