"""The schemas that `cog build` would write for the models: Cog's server reads a file, and makes none itself."""

from typing import Any

Json = dict[str, Any]


def _field(kind: str, title: str, order: int, **more: Any) -> Json:
    return {"title": title.capitalize(), "type": kind, "x-order": order, **more}


def _choice(name: str, order: int, default: Any) -> Json:
    return {"allOf": [{"$ref": f"#/components/schemas/{name}"}], "default": default, "x-order": order}


def _enum(name: str, kind: str, values: list[Any]) -> Json:
    return {"description": "An enumeration.", "enum": values, "title": name, "type": kind}


_MODES = ["ok", "raise", "raise_first", "exit", "sick", "sick_raise", "well", "block", "swallow", "count", "tail"]
_STREAM_OF_STRINGS: Json = {
    "items": {"type": "string"},
    "title": "Output",
    "type": "array",
    "x-cog-array-type": "iterator",
}
_STREAM_OF_FILES: Json = {**_STREAM_OF_STRINGS, "items": {"format": "uri", "type": "string"}}
_STRING: Json = {"title": "Output", "type": "string"}
_PACED: Json = {
    "prompt": _field("string", "prompt", 0, default="a"),
    "n": _field("integer", "n", 1, default=3),
    "delay": _field("number", "delay", 2, default=0.05),
}

MODELS: dict[str, tuple[Json, list[str], Json, Json, bool]] = {
    "words": (
        {
            "prompt": _field("string", "prompt", 0, description="Prompt", minLength=1, maxLength=200),
            "n": _field("integer", "n", 1, default=3, minimum=0, maximum=200000),
            "delay": _field("number", "delay", 2, default=0.0, minimum=0, maximum=60),
            "mode": _choice("mode", 3, "ok"),
        },
        ["prompt"],
        {"mode": _enum("mode", "string", _MODES)},
        _STREAM_OF_STRINGS,
        True,
    ),
    "values": ({"what": _field("string", "what", 0, default="str")}, [], {}, {"title": "Output"}, False),
    "strict": (
        {
            "text": _field("string", "text", 0, minLength=2, maxLength=10, pattern="^[a-z]+$"),
            "number": _field("integer", "number", 1, minimum=1, maximum=10),
            "ratio": _field("number", "ratio", 2, default=0.5, minimum=0, maximum=1),
            "flag": _field("boolean", "flag", 3, default=False),
            "colour": _choice("colour", 4, "red"),
            "size": _choice("size", 5, 1),
            "items": _field("array", "items", 6, default=[], items={"type": "integer"}),
            "maybe": _field("string", "maybe", 7, nullable=True),
        },
        ["text", "number"],
        {"colour": _enum("colour", "string", ["red", "blue"]), "size": _enum("size", "integer", [1, 2, 4])},
        {"title": "Output", "type": "object"},
        False,
    ),
    "steps": ({**_PACED, "mode": _field("string", "mode", 3, default="ok")}, [], {}, _STREAM_OF_STRINGS, True),
    "parallel": (_PACED, [], {}, _STREAM_OF_STRINGS, True),
    "bare": ({"n": _field("integer", "n", 0, default=2)}, [], {}, _STREAM_OF_STRINGS, False),
    "single": ({"text": _field("string", "text", 0, default="once")}, [], {}, _STRING, True),
    "slow": ({"text": _field("string", "text", 0)}, ["text"], {}, _STRING, False),
    "broken": ({}, [], {}, _STRING, False),
    "files": (
        {
            "file": _field("string", "file", 0, format="uri", nullable=True),
            "key": _field(
                "string", "key", 1, format="password", nullable=True, writeOnly=True, **{"x-cog-secret": True}
            ),
            "kind": _field("string", "kind", 2, default="read"),
        },
        [],
        {},
        _STREAM_OF_FILES,
        True,
    ),
    "trivial": ({}, [], {}, _STRING, False),
    "pinger": (
        {
            "n": _field("integer", "n", 0, default=10),
            "delay": _field("number", "delay", 1, default=0.0),
            "size": _field("integer", "size", 2, default=10),
        },
        [],
        {},
        _STREAM_OF_STRINGS,
        True,
    ),
}
"""Of each model: its inputs, which are required, its enumerations, its output, and whether it is opted in to SSE."""


def _answered(description: str, schema: Json) -> Json:
    return {"content": {"application/json": {"schema": schema}}, "description": description}


def schema_of(model: str) -> Json:
    """Give the whole document of a model."""
    properties, required, enums, output, streaming = MODELS[model]
    inputs: Json = {"properties": properties, "title": "Input", "type": "object"}
    ref = "#/components/schemas/"
    post: Json = {
        "description": "Run a single prediction on the model",
        "operationId": "predict_predictions_post",
        "requestBody": {"content": {"application/json": {"schema": {"$ref": f"{ref}PredictionRequest"}}}},
        "responses": {
            "200": _answered("Successful Response", {"$ref": f"{ref}PredictionResponse"}),
            "422": _answered("Validation Error", {"$ref": f"{ref}HTTPValidationError"}),
        },
        "summary": "Predict",
    }
    schemas: Json = {
        "Input": inputs | ({"required": required} if required else {}),
        "Output": output,
        "PredictionRequest": {
            "properties": {"id": {"title": "Id", "type": "string"}, "input": {"$ref": f"{ref}Input"}},
            "title": "PredictionRequest",
            "type": "object",
        },
        **_FIXED,
        **enums,
    }
    return {
        "components": {"schemas": schemas},
        "info": {"title": "Cog", "version": "0.23.1"},
        "openapi": "3.0.2",
        "paths": {
            "/": {"get": {"responses": {"200": _answered("Successful Response", {})}}},
            "/health-check": {"get": {"responses": {"200": _answered("Successful Response", {})}}},
            "/predictions": {"post": post | ({"x-cog-streaming": True} if streaming else {})},
            "/predictions/{prediction_id}/cancel": {
                "post": {"responses": {"200": _answered("Successful Response", {})}}
            },
        },
    }


def _texts(*names: str) -> Json:
    return {name: {"title": name, "type": "string"} for name in names}


_FIXED: Json = {
    "HTTPValidationError": {
        "properties": {
            "detail": {"items": {"$ref": "#/components/schemas/ValidationError"}, "title": "Detail", "type": "array"}
        },
        "title": "HTTPValidationError",
        "type": "object",
    },
    "PredictionResponse": {
        "properties": {
            **_texts("completed_at", "created_at", "error", "id", "logs", "started_at", "status", "version"),
            "input": {"$ref": "#/components/schemas/Input"},
            "metrics": {"title": "Metrics", "type": "object"},
            "output": {"$ref": "#/components/schemas/Output"},
        },
        "title": "PredictionResponse",
        "type": "object",
    },
    "Status": _enum("Status", "string", ["starting", "processing", "succeeded", "canceled", "failed"]),
    "ValidationError": {
        "properties": {
            "loc": {"items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "type": "array"},
            "msg": {"type": "string"},
            "type": {"type": "string"},
        },
        "required": ["loc", "msg", "type"],
        "title": "ValidationError",
        "type": "object",
    },
}
