"""Inputs that do not fit, and how the answer is asked for (Cog's validation and negotiation)."""

from cog_servers import Site, Wish
from cog_talk import SSE, Json, kind_of, later, seen

OK = {"text": "abc", "number": 2}


def _said(site: Site, **given: Json) -> Json:
    answer = site.at("strict").post({**OK, **given})
    return {"status": answer.status, "body": answer.json["detail"] if answer.status == 422 else answer.json}


def _located(site: Site, **given: Json) -> Json:
    """Give where and of which type each error is, without the words."""
    answer = site.at("strict").post({**OK, **given})
    if answer.status != 422:
        return {"status": answer.status, "failed": answer.json.get("status")}
    return [[error["loc"], error["type"]] for error in answer.json["detail"]]


def every_missing_field_is_named(site: Site) -> Json:
    """All required inputs that are missing are named."""
    return seen(site.at("strict").post({}))


def string_that_is_a_number(site: Site) -> Json:
    """A number for a string is 422."""
    return _said(site, text=5)


def number_that_is_a_string(site: Site) -> Json:
    """A string for a number is 422."""
    return _said(site, number="3")


def number_that_is_a_flag(site: Site) -> Json:
    """A boolean for a number is 422."""
    return _said(site, number=True)


def number_with_a_fraction(site: Site) -> Json:
    """A fraction for an integer is 422."""
    return _said(site, number=1.5)


def flag_that_is_a_string(site: Site) -> Json:
    """A string for a boolean is 422."""
    return _said(site, flag="yes")


def number_below_its_minimum(site: Site) -> Json:
    """A number below its minimum is 422."""
    return _said(site, number=0)


def number_above_its_maximum(site: Site) -> Json:
    """A number above its maximum is 422."""
    return _said(site, ratio=1.5)


def text_too_short(site: Site) -> Json:
    """A text that is too short is 422."""
    return _said(site, text="a")


def text_too_long(site: Site) -> Json:
    """A text that is too long is 422."""
    return _said(site, text="abcdefghijk")


def text_that_does_not_match(site: Site) -> Json:
    """A text that does not match its expression is 422."""
    return _said(site, text="ABC")


def word_that_is_no_choice(site: Site) -> Json:
    """A word that is no choice is 422."""
    return _said(site, colour="green")


def number_that_is_no_choice(site: Site) -> Json:
    """A number that is no choice is 422."""
    return _said(site, size=3)


def item_of_another_type(site: Site) -> Json:
    """An item of another type is 422, and named by its place."""
    return _said(site, items=[1, "x"])


def null_for_a_value(site: Site) -> Json:
    """Null where null is no value is 422."""
    return _said(site, flag=None)


def null_for_an_optional(site: Site) -> Json:
    """Null for an optional input is taken."""
    return _said(site, maybe=None)["status"]


def optional_left_out(site: Site) -> Json:
    """An optional input that is left out is null, and defaults apply."""
    return site.at("strict").post(OK).json["output"]


def whole_number_as_a_float(site: Site) -> Json:
    """`2.0` for an integer is an integer in the handler."""
    return _said(site, number=2.0)["body"].get("output", {}).get("kinds", {}).get("number")


def several_errors_at_once(site: Site) -> Json:
    """All errors are told at once, in the order of their names."""
    return _located(site, text="", number=11, ratio=-1, colour="green")


def input_that_is_no_object(site: Site) -> Json:
    """An input that is no object is told as `__root__`."""
    return seen(site.at("strict").post([1]))


def refused_value_is_not_repeated(site: Site) -> Json:
    """A long value that is refused is repeated in the answer."""
    secret = "sk-" + "x" * 400
    return secret in str(site.at("strict").post({**OK, "text": secret}).json)


def accept_with_a_small_weight(site: Site) -> Json:
    """`text/event-stream;q=0.1` beside JSON asks for a stream."""
    stream = site.at().stream("", {"prompt": "x", "n": 0}, accept=f"application/json, {SSE};q=0.1")
    stream.rest()
    return stream.headers["content-type"]


def accept_with_no_weight(site: Site) -> Json:
    """`text/event-stream;q=0` asks for a stream."""
    answer = site.at().post({"prompt": "x", "n": 0}, accept=f"application/json, {SSE};q=0")
    return answer.type


def accept_in_capitals(site: Site) -> Json:
    """A media type in capitals asks for a stream."""
    return site.at().post({"prompt": "x", "n": 0}, accept="Text/Event-Stream").type


def accept_anything(site: Site) -> Json:
    """`*/*` gets JSON."""
    return site.at().post({"prompt": "x", "n": 0}, accept="*/*").type


def accept_an_image(site: Site) -> Json:
    """What cannot be given is given as JSON."""
    return site.at().post({"prompt": "x", "n": 0}, accept="image/png").type


def prefer_async(site: Site) -> Json:
    """`Prefer: respond-async` is 202 at once."""
    return seen(site.at().post({"prompt": "x", "n": 0}, prefer="respond-async", id="prefer"), "prefer")


def prefer_async_with_more(site: Site) -> Json:
    """`Prefer: respond-async, handling=lenient` is 202 as well."""
    return site.at().post({"prompt": "x", "n": 0}, prefer="respond-async, handling=lenient").status


def stream_before_prefer(site: Site) -> Json:
    """A stream is given where both are asked for."""
    stream = site.at().stream("", {"prompt": "x", "n": 0}, prefer="respond-async")
    stream.rest()
    return [stream.status, stream.headers["content-type"]]


def stream_of_a_handler_that_has_none(site: Site) -> Json:
    """A handler that is not opted in gets 406."""
    return kind_of(site.at("values").post({}, accept=SSE))


def stream_of_a_generator_without_opt_in(site: Site) -> Json:
    """A generator that nobody opted in gets 406."""
    return site.at("bare").post({}, accept=SSE).status


def generator_without_opt_in_as_json(site: Site) -> Json:
    """A generator that nobody opted in gives its list as JSON."""
    return seen(site.at("bare").post({}))


def put_with_another_id(site: Site) -> Json:
    """PUT with another id in its body is 422."""
    return seen(site.at().put("path-id", {"prompt": "x"}, id="body-id"))


def invalid_input_under_sse(site: Site) -> Json:
    """An invalid input is 422 in JSON, also where a stream is asked for."""
    return seen(site.at().post({"n": -1}, accept=SSE))


def full_without_a_queue(site: Site) -> Json:
    """No slot free and no queue: 409."""
    talk = site.at()
    running = later(lambda: talk.post({"prompt": "x", "n": 2, "delay": 0.3}))
    talk.wait_health("BUSY")
    refused = talk.post({"prompt": "x"})
    running.result(20)
    return seen(refused) | {"retry-after": "retry-after" in refused.headers}


def full_with_the_usual_queue(site: Site) -> Json:
    """No slot free: what the usual settings do."""
    talk = site.at(queue=1000)
    running = later(lambda: talk.post({"prompt": "x", "n": 2, "delay": 0.3}))
    talk.wait_health("BUSY")
    second = talk.post({"prompt": "x", "n": 0})
    running.result(20)
    return second.status


def invalid_while_full(site: Site) -> Json:
    """An invalid input is 422 also where no slot is free."""
    talk = site.at()
    running = later(lambda: talk.post({"prompt": "x", "n": 2, "delay": 0.3}))
    talk.wait_health("BUSY")
    refused = talk.post({})
    running.result(20)
    return seen(refused)


def one_client_after_another(site: Site) -> Json:
    """A client that asks again as soon as it is answered is never refused."""
    talk = site.shared(Wish(model="trivial", queue=1000)).talk
    return sorted({talk.post({}).status for _ in range(300)})
