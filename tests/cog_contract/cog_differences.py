"""Where Tidegate does not do what Cog does: what it does instead, and why."""

from dataclasses import dataclass
from typing import Literal

from cog_talk import Json


@dataclass(frozen=True)
class Difference:
    """One difference. Shape: `expected` is what Tidegate must be seen to do."""

    outcome: Literal["better", "differs"]
    expected: Json
    reason: str


def _better(expected: Json, reason: str) -> Difference:
    return Difference("better", expected, reason)


def _differs(expected: Json, reason: str) -> Difference:
    return Difference("differs", expected, reason)


def _refused(field: str, message: str) -> Json:
    """Give a refusal of one input of the model `strict`."""
    return {"status": 422, "body": [{"loc": ["body", "input", field], "msg": message, "type": "value_error"}]}


_MASKED = "The message does not repeat the value, which may be long, or a secret."
_IN_JSON = "Every error is JSON in one of Cog's two shapes, where Cog has plain text or nothing."
_DETAIL: Json = {"status": 422, "type": "application/json", "keys": ["detail"]}
_FAILED: Json = {"type": "application/json", "keys": ["error", "status"]}
_LOGS = "log: starting 'hi'\nerr: warming up\n"

_TIMES: Json = dict.fromkeys(("created_at", "started_at", "completed_at"), "<time>")

_ROUTES: dict[str, Difference] = {
    "docs_that_are_named_exist": _better("not named", "Cog names a page that is not there."),
    "unknown_path": _better({"status": 404, "type": "application/json", "body": {"error": "<text>"}}, _IN_JSON),
    "prediction_can_be_asked_for": _better(
        {
            "status": 200,
            "type": "application/json",
            "body": {
                **_TIMES,
                "model": "words",
                "input": {"prompt": "hi", "n": 1},
                "id": "asked-for",
                "logs": "log: starting 'hi'\nerr: warming up\nlog: done\n",
                "metrics": {"predict_time": "<seconds>", "prompt_chars": 2, "tokens": 1},
                "output": ["hi-0 "],
                "status": "succeeded",
            },
        },
        "A finished prediction is kept for an hour; Cog forgets it at once.",
    ),
    "http2_without_tls": _differs(False, "HTTP/1.1 only: HTTP/2 is what a proxy in front speaks to clients."),
    "trainings_run_the_model": _differs(
        404, "There are no trainings; Cog runs the predictor, by its own word a fault it keeps."
    ),
    "body_without_content_type": _better(
        {
            "status": 200,
            "type": "application/json",
            "body": {
                "id": "<id>",
                "logs": "log: starting 'x'\nerr: warming up\nlog: done\n",
                "metrics": {"predict_time": "<seconds>", "prompt_chars": 1, "tokens": 3},
                "output": ["x-0 ", "x-1 ", "x-2 "],
                "status": "succeeded",
            },
        },
        "A body is taken for JSON where nothing is said; Cog drops it without a word.",
    ),
    "other_content_type": _better({"status": 415, **_FAILED}, _IN_JSON),
    "malformed_json": _better({"status": 400, **_FAILED}, _IN_JSON),
    "empty_json": _better({"status": 400, **_FAILED}, _IN_JSON),
    "array_as_body": _better(_DETAIL, _IN_JSON),
    "id_of_another_type": _better(_DETAIL, _IN_JSON),
    "context_of_another_type": _better(_DETAIL, _IN_JSON),
    "unknown_webhook_event": _better(_DETAIL, _IN_JSON),
    "long_id": _better(
        {"first": [422, None], "health": "READY", "next": 200}, "In Cog one such request takes a slot for ever."
    ),
    "id_with_nul": _better(
        {"first": [422, None], "health": "READY", "next": 200}, "In Cog one such request takes a slot for ever."
    ),
    "id_that_is_a_path": _better(
        {"status": 422, "escaped": False},
        "An id is a name of 128 characters at most; Cog makes folders wherever it points.",
    ),
}

_VALIDATION: dict[str, Difference] = {
    "every_missing_field_is_named": _differs(
        {
            "status": 422,
            "type": "application/json",
            "body": {
                "detail": [
                    {"loc": ["body", "input", name], "msg": "Field required", "type": "value_error.missing"}
                    for name in ("number", "text")
                ]
            },
        },
        "Errors are sorted by name, as Cog sorts those that are not of missing fields.",
    ),
    "string_that_is_a_number": _better(_refused("text", 'the value is not of type "string"'), _MASKED),
    "number_that_is_a_string": _better(_refused("number", 'the value is not of type "integer"'), _MASKED),
    "number_that_is_a_flag": _better(_refused("number", 'the value is not of type "integer"'), _MASKED),
    "number_with_a_fraction": _better(_refused("number", 'the value is not of type "integer"'), _MASKED),
    "flag_that_is_a_string": _better(_refused("flag", 'the value is not of type "boolean"'), _MASKED),
    "number_below_its_minimum": _better(_refused("number", "the value is less than the minimum of 1"), _MASKED),
    "number_above_its_maximum": _better(_refused("ratio", "the value is greater than the maximum of 1"), _MASKED),
    "text_too_short": _better(_refused("text", "the value is shorter than 2 characters"), _MASKED),
    "text_too_long": _better(_refused("text", "the value is longer than 10 characters"), _MASKED),
    "text_that_does_not_match": _better(_refused("text", 'the value does not match "^[a-z]+$"'), _MASKED),
    "word_that_is_no_choice": _better(_refused("colour", 'the value is not one of "red" or "blue"'), _MASKED),
    "number_that_is_no_choice": _better(_refused("size", "the value is not one of 1, 2 or 4"), _MASKED),
    "item_of_another_type": _better(_refused("items/1", 'the value is not of type "integer"'), _MASKED),
    "null_for_a_value": _better(_refused("flag", 'the value is not of type "boolean"'), _MASKED),
    "null_for_an_optional": _better(
        200, "An optional input may be null; Cog's own schema says so, and its check does not."
    ),
    "whole_number_as_a_float": _better("int", "JSON has one kind of number; a handler that asked for an int gets one."),
    "input_that_is_no_object": _better(
        {
            "status": 422,
            "type": "application/json",
            "body": {
                "detail": [
                    {
                        "loc": ["body", "input", "__root__"],
                        "msg": 'the value is not of type "object"',
                        "type": "value_error",
                    }
                ]
            },
        },
        _MASKED,
    ),
    "refused_value_is_not_repeated": _better(False, _MASKED),
    "invalid_input_under_sse": _better(
        {
            "status": 422,
            "type": "application/json",
            "body": {
                "detail": [
                    {
                        "loc": ["body", "input", "n"],
                        "msg": "the value is less than the minimum of 0",
                        "type": "value_error",
                    },
                    {"loc": ["body", "input", "prompt"], "msg": "Field required", "type": "value_error.missing"},
                ]
            },
        },
        _MASKED,
    ),
    "put_with_another_id": _differs(
        {
            "status": 422,
            "type": "application/json",
            "body": {
                "detail": [
                    {
                        "loc": ["body", "id"],
                        "msg": "the id of the body is not the one of the path",
                        "type": "value_error",
                    }
                ]
            },
        },
        "In other words.",
    ),
    "full_without_a_queue": _differs(
        {
            "status": 409,
            "type": "application/json",
            "body": {"error": "at capacity: all slots of the model are in use", "status": "failed"},
            "retry-after": False,
        },
        "In other words.",
    ),
    "accept_with_no_weight": _better("application/json", "`q=0` means: not this (RFC 9110)."),
    "accept_in_capitals": _better("text/event-stream", "Media types have no case (RFC 9110)."),
    "prefer_async_with_more": _better(202, "`Prefer` is a list (RFC 7240); Cog compares the whole header."),
    "stream_of_a_generator_without_opt_in": _better(200, "A generator streams without being opted in."),
    "full_with_the_usual_queue": _better(200, "There is a bounded queue; a limit of 0 gives Cog's 409."),
    "one_client_after_another": _better(
        [200], "A slot is free when its prediction is answered; with a queue nobody is refused."
    ),
}

_OUTPUTS: dict[str, Difference] = {
    "output_map": _better(
        {"status": "succeeded", "output": ["1", "2"], "error": False},
        "Any iterator is read; in Cog only a generator is.",
    ),
    "metric_values": _better(
        {"object": "TypeError", "none": "accepted"}, "None deletes a metric, as Cog's pages say and Cog does not do."
    ),
    "output_nan_is_explained": _better(True, "The error names what is wrong with the output."),
    "failure_keeps_its_logs": _better(_LOGS, "Cog's synchronous answer has empty logs."),
    "failure_keeps_its_output": _better(["hi-0 ", "hi-1 "], "Cog's synchronous answer drops what there was."),
    "failure_text": _better(
        "ValueError: bad thing before first chunk", "Cog tells through which of its layers the error came."
    ),
    "async_failure_text": _better("ValueError: async boom", "Cog tells through which of its layers the error came."),
    "traceback_is_in_the_servers_log": _better(True, "In Cog a traceback is nowhere."),
    "unended_line_stays_in_its_prediction": _better(
        {"first": "a tail without a newline", "second": "log: starting 'x'\nerr: warming up\nlog: done\n"},
        "In Cog the end of one prediction's logs is the beginning of another's.",
    ),
    "file_of_the_server": _better(False, "A file input is a URL or a data URI, and never a path of the server."),
    "file_that_is_missing": _better(
        {"status": "failed", "output": None},
        "An output that is not there is a failure; Cog leaves it out, and succeeds.",
    ),
    "folders_are_removed": _better(True, "Nothing of a prediction outlives it; Cog leaves three folders of each."),
}

_STREAM: dict[str, Difference] = {
    "stream_has_ids": _better(True, "Events have numbers, so that a stream can be resumed."),
    "stream_resumes_by_id": _better(True, "`Last-Event-ID` resumes; Cog's streams cannot be."),
    "stream_of_an_async_generator": _better(
        ["start", "log", "output", "log", "output", "log", "output", "completed"],
        "Cog collects an asynchronous generator, and sends its chunks at the end.",
    ),
    "two_streams_at_once": _better([True, True], "In Cog no two streams run at once from one server."),
    "threads_for_synchronous_handlers": _better("READY", "A synchronous handler may have several threads."),
    "failure_of_an_async_generator": _better(
        {"output": ["a-0 "], "status": "failed"}, "Cog loses the chunks it had collected."
    ),
    "subscriber_after_the_end": _better(
        {"ran again": False, "events": ["start", "output", "completed"]},
        "A finished prediction is replayed; Cog runs the model again.",
    ),
    "subscriber_after_the_ring": _better(
        {"first": ["skipped"], "skipped said": True, "end": "completed"},
        "Who comes late is told how much is gone, and the stream goes on; Cog ends it with an error.",
    ),
}

_LIFECYCLE: dict[str, Difference] = {
    "put_again_sync": _better(
        {"status": 200, "body": "succeeded"}, "A retry of a synchronous PUT waits for the result."
    ),
    "put_again_with_another_input": _better(
        409, "Another input is another prediction; Cog gives the first one's result."
    ),
    "put_again_with_an_invalid_input": _better(409, "It is another input, whatever it says; Cog does not look at it."),
    "put_again_async": _better(
        {
            "status": 202,
            "type": "application/json",
            "body": {
                **_TIMES,
                "model": "words",
                "completed_at": None,
                "id": "again-async",
                "input": {"delay": 0.15, "n": 10, "prompt": "x"},
                "logs": "log: starting 'x'\nerr: warming up\n",
                "metrics": {"prompt_chars": 1, "tokens": 2},
                "output": ["x-0 ", "x-1 "],
                "status": "processing",
            },
        },
        "With the model, and the times that Cog's schema has and its answers do not.",
    ),
    "cancel_that_is_swallowed": _better(
        {"status": "canceled", "output": None}, "What a handler gives after it was cancelled is not told."
    ),
    "put_after_the_end": _better(
        {"statuses": [200, 200], "ran again": False}, "PUT is idempotent after the end too; Cog runs the model again."
    ),
    "post_of_an_id_in_flight_with_a_slot_free": _better(
        409, "In Cog two predictions share the id, and their logs mix."
    ),
    "cancelled_keeps_its_logs": _better({"logs": True, "output": True}, "Cog's synchronous answer drops both."),
    "cancel_of_an_async_handler": _better(
        {"status": "canceled", "cleanup": True, "output": True}, "Cog loses the last lines and all chunks."
    ),
    "cancel_of_a_blocking_call": _better(
        {"status": "canceled", "before the call came back": True},
        "After a grace the worker is replaced; Cog waits for the call.",
    ),
    "webhooks_are_throttled": _better(True, "Cog sends a webhook for each chunk, with all output and logs again."),
    "webhook_that_is_no_url": _better(
        422, "A webhook that can never be told is refused; in Cog the log says so later."
    ),
}

_HEALTH: dict[str, Difference] = {
    "prediction_while_starting": _differs(
        {
            "status": 503,
            "type": "application/json",
            "body": {"error": "the model's setup has not finished", "status": "failed"},
        },
        "In other words, and with `Retry-After`.",
    ),
    "stream_while_starting": _better(503, "Cog says that the model cannot stream, since it does not know yet."),
    "setup_without_a_handler": _better(
        "does not start", "A mistake of configuration is told at once, with exit code 2."
    ),
    "setup_that_fails_keeps_its_logs": _better(True, "Cog loses what a failing setup printed."),
    "failed_setup_is_said_to_have_failed": _better(True, "Cog says that setup has not finished."),
    "crash_keeps_the_logs": _better("about to die\n", "Cog's answer has empty logs."),
    "health_after_a_crash": _better("READY", "A worker that died is replaced; in Cog the server has to be restarted."),
    "prediction_after_a_crash": _better(
        200, "A worker that died is replaced; in Cog every request is 409 from then on."
    ),
    "sigterm_during_an_async_prediction": _better(
        "succeeded", "What was accepted is finished within the drain timeout, and told; Cog drops it."
    ),
}

DIFFERENCES: dict[str, Difference] = {**_ROUTES, **_VALIDATION, **_OUTPUTS, **_STREAM, **_LIFECYCLE, **_HEALTH}
