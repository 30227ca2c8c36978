"""Routes, and the bodies of requests and answers (Cog's HTTP API)."""

import contextlib
import re
import socket
import time

from cog_servers import Site, Wish
from cog_talk import Json, kind_of, later, plain, seen

OK = {"prompt": "hi", "n": 1}


def discovery_names_the_routes(site: Site) -> Json:
    """`GET /` names the routes."""
    found = site.at().call("GET", "/").json
    return {name: found.get(name) for name in sorted(found) if name.endswith("_url") and name != "docs_url"}


def discovery_has_a_version(site: Site) -> Json:
    """`GET /` has `cog_version`."""
    return isinstance(site.at().call("GET", "/").json.get("cog_version"), str)


def docs_that_are_named_exist(site: Site) -> Json:
    """The page that `docs_url` names can be read."""
    path = site.at().call("GET", "/").json.get("docs_url")
    return site.at().call("GET", path).status if path else "not named"


def openapi_describes_inputs(site: Site) -> Json:
    """`/openapi.json` describes the inputs, in order and with their constraints."""
    found = site.at().call("GET", "/openapi.json").json["components"]["schemas"]
    return {"Input": found["Input"], "mode": found.get("mode")}


def openapi_describes_every_constraint(site: Site) -> Json:
    """`/openapi.json` describes every kind of input and constraint."""
    return site.at("strict").call("GET", "/openapi.json").json["components"]["schemas"]["Input"]


def openapi_describes_the_output(site: Site) -> Json:
    """`/openapi.json` describes the output of a generator."""
    return site.at().call("GET", "/openapi.json").json["components"]["schemas"]["Output"]


def openapi_says_who_streams(site: Site) -> Json:
    """`x-cog-streaming` is on the create route of a handler that is opted in, and of no other."""
    paths = [site.at(model).call("GET", "/openapi.json").json["paths"] for model in ("words", "values")]
    return [path["/predictions"]["post"].get("x-cog-streaming", False) for path in paths]


def unknown_path(site: Site) -> Json:
    """An unknown path is 404."""
    answer = site.at().call("GET", "/nope")
    body = answer.json
    return seen(answer) | {"body": {**body, "error": "<text>"} if isinstance(body, dict) else body}


def predictions_are_not_listed(site: Site) -> Json:
    """`GET /predictions` is 405 and says what is allowed."""
    answer = site.at().call("GET", "/predictions")
    return {"status": answer.status, "allow": answer.headers.get("allow")}


def prediction_is_not_deleted(site: Site) -> Json:
    """`DELETE /predictions/{id}` is 405."""
    return site.at().call("DELETE", "/predictions/absent").status


def prediction_can_be_asked_for(site: Site) -> Json:
    """`GET /predictions/{id}` gives a prediction that has finished."""
    talk = site.at()
    talk.put("asked-for", OK)
    return seen(talk.call("GET", "/predictions/asked-for"), "asked-for")


def health_can_be_asked_with_head(site: Site) -> Json:
    """`HEAD /health-check` is 200."""
    answer = site.at().call("HEAD", "/health-check")
    return {"status": answer.status, "type": answer.type}


def options_are_refused(site: Site) -> Json:
    """`OPTIONS` is 405: there is no CORS unless it is asked for."""
    return site.at().call("OPTIONS", "/predictions").status


def http2_without_tls(site: Site) -> Json:
    """HTTP/2 without TLS is answered when the client begins with it."""
    with socket.create_connection(("127.0.0.1", site.at().port), 10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        with contextlib.suppress(OSError):
            return connection.recv(9)[3:4] == b"\4"
    return False


def connections_are_kept(site: Site) -> Json:
    """A connection is used again."""
    with socket.create_connection(("127.0.0.1", site.at().port), 10) as connection:
        for _ in range(2):
            connection.sendall(b"GET /health-check HTTP/1.1\r\nhost: localhost\r\n\r\n")
            if not connection.recv(65536).startswith(b"HTTP/1.1 200"):
                return False
            time.sleep(0.2)
            connection.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                connection.recv(65536)
            connection.settimeout(10)
    return True


def trainings_run_the_model(site: Site) -> Json:
    """`POST /trainings` on a server of predictions runs the model."""
    return site.at("bare").call("POST", "/trainings", {"input": {}}).status


def sync_success(site: Site) -> Json:
    """A prediction answers with its output, logs and metrics."""
    return seen(site.at().post({"prompt": "hi"}))


def generated_id(site: Site) -> Json:
    """A prediction without an id gets one."""
    return bool(re.fullmatch(r"pred_[0-9a-z]+", site.at().post(OK).json["id"]))


def client_id(site: Site) -> Json:
    """A prediction keeps the client's id."""
    return site.at().post(OK, id="abc-1").json["id"]


def unknown_members_are_ignored(site: Site) -> Json:
    """Other members of the request are ignored."""
    return seen(site.at().post(OK, id="other-members", created_at="2026-01-01T00:00:00Z", version="v"), "other-members")


def unknown_inputs_are_dropped(site: Site) -> Json:
    """Inputs that the handler does not have are dropped."""
    return seen(site.at().post({**OK, "zzz": 1}))


def context_reaches_the_handler(site: Site) -> Json:
    """`context` reaches the handler."""
    return site.at("values").post({"what": "context"}, context={"user": "u1"}).json["output"]


def nothing_is_needed(site: Site) -> Json:
    """No body and no content type will do where nothing is required."""
    return seen(site.at("bare").call("POST", "/predictions"))


def body_without_content_type(site: Site) -> Json:
    """A body without a content type is not read."""
    return seen(site.at().call("POST", "/predictions", raw=b'{"input":{"prompt":"x"}}'))


def other_content_type(site: Site) -> Json:
    """A body of another content type is 415."""
    answer = site.at().call("POST", "/predictions", raw=b"{}", headers={"content-type": "text/plain"})
    return kind_of(answer)


def content_type_with_parameters(site: Site) -> Json:
    """A content type may have parameters."""
    headers = {"content-type": "application/json; charset=utf-8"}
    return site.at().call("POST", "/predictions", raw=b'{"input":{"prompt":"x","n":0}}', headers=headers).status


def malformed_json(site: Site) -> Json:
    """Malformed JSON is 400."""
    return kind_of(
        site.at().call("POST", "/predictions", raw=b'{"input":', headers={"content-type": "application/json"})
    )


def empty_json(site: Site) -> Json:
    """An empty body that says it is JSON is 400."""
    return kind_of(site.at().call("POST", "/predictions", raw=b"", headers={"content-type": "application/json"}))


def array_as_body(site: Site) -> Json:
    """An array as the body is 422."""
    return kind_of(site.at().call("POST", "/predictions", []))


def id_of_another_type(site: Site) -> Json:
    """An id that is no string is 422."""
    return kind_of(site.at().call("POST", "/predictions", {"id": 5, "input": OK}))


def context_of_another_type(site: Site) -> Json:
    """A context whose values are no strings is 422."""
    return kind_of(site.at().post(OK, context={"a": 1}))


def unknown_webhook_event(site: Site) -> Json:
    """An unknown word in `webhook_events_filter` is 422."""
    return kind_of(site.at().post(OK, webhook_events_filter=["bogus"]))


def null_input(site: Site) -> Json:
    """An input that is null is an empty one."""
    return seen(site.at().call("POST", "/predictions", {"input": None}))


def no_input(site: Site) -> Json:
    """A request without an input has an empty one."""
    return seen(site.at().call("POST", "/predictions", {}))


def large_body(site: Site) -> Json:
    """A body over 100 MiB is 413."""
    with socket.create_connection(("127.0.0.1", site.at().port), 30) as connection:
        size = 101 * 1024 * 1024
        head = f"POST /predictions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
        answered = later(lambda: connection.recv(65536))
        with contextlib.suppress(OSError):
            connection.sendall(head.encode())
            for _ in range(101):
                if answered.done():
                    break
                connection.sendall(b" " * 1024 * 1024)
        with contextlib.suppress(OSError):
            return int(answered.result(30).split()[1])
    return "reset"


def body_of_90_mib(site: Site) -> Json:
    """A body of 90 MiB is read."""
    answer = site.at().post({"prompt": "x" * (90 * 1024 * 1024)})
    return {"status": answer.status, "loc": answer.json["detail"][0]["loc"]}


def long_id(site: Site) -> Json:
    """An id of 300 characters is refused, and the server goes on."""
    with site.fresh(Wish()) as running:
        first = running.talk.post(OK, id="a" * 300)
        ready = running.talk.wait_health("READY", timeout_s=2)
        return {
            "first": [first.status, first.json.get("status")],
            "health": ready,
            "next": running.talk.post(OK).status,
        }


def id_with_nul(site: Site) -> Json:
    """An id with a NUL is refused, and the server goes on."""
    with site.fresh(Wish()) as running:
        first = running.talk.post(OK, id="a\0b")
        ready = running.talk.wait_health("READY", timeout_s=2)
        return {
            "first": [first.status, first.json.get("status")],
            "health": ready,
            "next": running.talk.post(OK).status,
        }


def id_that_is_a_path(site: Site) -> Json:
    """An id that is a path makes no folder outside those of the server."""
    with site.fresh(Wish()) as running:
        answer = running.talk.post(OK, id=f"../../..{running.folder}/escaped")
        return {"status": answer.status, "escaped": (running.folder / "escaped").exists()}


def no_error_has_a_traceback(site: Site) -> Json:
    """No answer shows a traceback."""
    return "Traceback" in str(plain(site.at().post({"prompt": "x", "mode": "raise"}).json))
