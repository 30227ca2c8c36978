"""What a handler may give, say and measure (Cog's outputs, logs, metrics and files)."""

from cog_servers import Site, Wish
from cog_talk import Json, Talk, heard, hook, seen

TEXT = "data:text/plain;base64,aGVsbG8="


def _given(site: Site, what: str) -> Json:
    body = site.at("values").post({"what": what}).json
    return {"status": body["status"], "output": body.get("output"), "error": "error" in body}


def output_text(site: Site) -> Json:
    """A text stays a text."""
    return _given(site, "str")


def output_numbers(site: Site) -> Json:
    """Numbers and booleans stay what they are."""
    return [_given(site, what) for what in ("int", "float", "bool")]


def output_nothing(site: Site) -> Json:
    """Nothing is null."""
    return _given(site, "none")


def output_dict(site: Site) -> Json:
    """A dict is an object."""
    return _given(site, "dict")


def output_list_of_one(site: Site) -> Json:
    """A list of one stays a list."""
    return _given(site, "list")


def output_empty_list(site: Site) -> Json:
    """An empty list stays a list."""
    return _given(site, "empty")


def output_tuple(site: Site) -> Json:
    """A tuple is a list."""
    return _given(site, "tuple")


def output_set(site: Site) -> Json:
    """A set is a list."""
    return _given(site, "set")


def output_dataclass(site: Site) -> Json:
    """A dataclass is an object."""
    return _given(site, "dataclass")


def output_enum(site: Site) -> Json:
    """A member of an enumeration is its value."""
    return _given(site, "enum")


def output_datetime(site: Site) -> Json:
    """A time is written as ISO 8601 has it."""
    return _given(site, "datetime")


def output_returned_generator(site: Site) -> Json:
    """A generator that is returned is read."""
    return _given(site, "generator")


def output_map(site: Site) -> Json:
    """An iterator that is no generator."""
    return _given(site, "map")


def output_bytes(site: Site) -> Json:
    """Bytes are no JSON: the prediction fails."""
    return _given(site, "bytes")


def output_object(site: Site) -> Json:
    """An object of an unknown class is no JSON: the prediction fails."""
    return _given(site, "object")


def output_nan(site: Site) -> Json:
    """NaN is no JSON: the prediction fails."""
    return _given(site, "nan")


def output_nan_is_explained(site: Site) -> Json:
    """The error of an output that is NaN says so."""
    error = site.at("values").post({"what": "nan"}).json["error"].lower()
    return "nan" in error or "finite" in error


def output_of_7_mib(site: Site) -> Json:
    """A text of 7 MiB arrives whole."""
    return len(site.at("values").post({"what": "big"}).json["output"])


def output_open_file(site: Site) -> Json:
    """A file object is a data URI."""
    return _given(site, "bytesio")


def output_path_in_a_dict(site: Site) -> Json:
    """A file's path inside an object is a data URI."""
    found = _given(site, "path_inside")
    return {**found, "output": {**found["output"], "p": found["output"]["p"].partition(",")[2]}}


def output_empty_stream(site: Site) -> Json:
    """A generator that yields nothing gives an empty list."""
    return seen(site.at().post({"prompt": "x", "n": 0}))


def exit_is_a_failure(site: Site) -> Json:
    """`sys.exit` in a handler fails the prediction, and the worker goes on."""
    talk = site.at("values")
    before = talk.post({"what": "pid"}).json["output"]
    talk.wait_ready()
    failed = talk.post({"what": "exit"}).json["status"]
    talk.wait_ready()
    return {"status": failed, "same process": talk.post({"what": "pid"}).json.get("output") == before}


def interrupt_is_a_failure(site: Site) -> Json:
    """`KeyboardInterrupt` in a handler fails the prediction."""
    return site.at("values").post({"what": "interrupt"}).json["status"]


def failure_is_200(site: Site) -> Json:
    """A handler that raises gives 200 and `failed`, with the type and text of what it raised."""
    body = seen(site.at().post({"prompt": "hi", "mode": "raise"}))["body"]
    return {"status": body["status"], "error": body["error"], "metrics": body["metrics"]}


def failure_keeps_its_logs(site: Site) -> Json:
    """The answer of a failed prediction has its logs."""
    return site.at().post({"prompt": "hi", "mode": "raise"}).json["logs"]


def failure_keeps_its_output(site: Site) -> Json:
    """The answer of a failed prediction has what it gave until then."""
    return site.at().post({"prompt": "hi", "mode": "raise"}).json.get("output")


def failure_text(site: Site) -> Json:
    """The text of an error is that of what was raised."""
    return site.at().post({"prompt": "hi", "mode": "raise_first"}).json["error"]


def async_failure_text(site: Site) -> Json:
    """The text of an error of an asynchronous handler is that of what was raised."""
    return site.at("steps", slots=8).post({"mode": "raise"}).json["error"]


def traceback_is_in_the_servers_log(site: Site) -> Json:
    """The server's log has the traceback of a failed prediction."""
    with site.fresh(Wish()) as running:
        running.talk.post({"prompt": "hi", "mode": "raise_first"})
        running.talk.wait_ready()
        return running.logs("Traceback")


def logs_of_print_logging_and_threads(site: Site) -> Json:
    """Prints, logging and threads of a handler are in its logs."""
    logs = site.at("values").post({"what": "logs"}).json["logs"]
    return [line in logs for line in ("one line", "err line", "logged", "from a thread")]


def logs_of_native_code(site: Site) -> Json:
    """What native code and subprocesses write is not in a prediction's logs."""
    return site.at("values").post({"what": "native"}).json["logs"]


def unended_line_stays_in_its_prediction(site: Site) -> Json:
    """A line that was not ended is in its prediction's logs, and in no other's."""
    talk = site.at()
    first = talk.post({"prompt": "x", "mode": "tail"}).json["logs"]
    talk.wait_ready()
    second = talk.post({"prompt": "x", "n": 0}).json["logs"]
    return {"first": first, "second": second}


def metric_modes(site: Site) -> Json:
    """Metrics are replaced, incremented, appended, nested by dots, deleted and set as in a mapping."""
    return seen(site.at("values").post({"what": "modes"}))["body"]["metrics"]


def metric_types(site: Site) -> Json:
    """A metric keeps its type, only numbers are incremented, and there are three modes."""
    return site.at("values").post({"what": "typed"}).json["output"]


def _naming(site: Site, *names: str) -> Json:
    talk = site.at("values")
    said = {}
    for name in names:
        talk.wait_ready()
        said[name] = talk.post({"what": f"name:{name}"}).json["output"]
    return said


def metric_names_that_are_reserved(site: Site) -> Json:
    """`predict_time` and `cog.` are reserved."""
    return _naming(site, "reserved", "prefix")


def metric_names_that_are_malformed(site: Site) -> Json:
    """A part of a name begins with a letter, and has single underscores inside only."""
    return _naming(site, "underscore", "trailing", "double", "digit")


def metric_names_that_are_long(site: Site) -> Json:
    """A name has four parts and 128 characters at most."""
    return _naming(site, "long", "longest", "five", "four")


def metric_values(site: Site) -> Json:
    """An object and None are no values."""
    return _naming(site, "object", "none")


def file_as_a_data_uri(site: Site) -> Json:
    """A file comes and goes as a data URI."""
    return site.at("files").post({"file": TEXT}).json["output"]


def file_over_http(site: Site) -> Json:
    """A file is fetched over HTTP."""
    with hook() as files:
        return site.at("files").post({"file": files.url("/in.txt")}).json["output"]


def file_that_cannot_be_fetched(site: Site) -> Json:
    """A file that cannot be fetched fails the prediction."""
    with hook() as files:
        answer = site.at("files").post({"file": files.url("/absent.txt")})
        return [answer.status, answer.json.get("status")]


def file_of_the_server(site: Site) -> Json:
    """A client can name a file of the server, and read it."""
    answer = site.at("files").post({"file": "/etc/passwd"})
    return answer.json.get("status") == "succeeded"


def file_that_is_missing(site: Site) -> Json:
    """An output that is no file."""
    body = site.at("files").post({"kind": "missing"}).json
    return {"status": body["status"], "output": body.get("output")}


def secret_is_hidden(site: Site) -> Json:
    """A secret does not show when it is printed."""
    return site.at("files").post({"file": TEXT, "key": "hunter2"}).json["output"]


def files_in_a_stream(site: Site) -> Json:
    """A stream has files as data URIs."""
    return [event for event in heard(_files(site.at("files"))) if event[0] == "output"]


def _files(talk: Talk) -> list[Json]:
    return talk.stream("", {"file": TEXT}).rest()


def folders_are_removed(site: Site) -> Json:
    """Nothing of a prediction is left in the server's folder for temporary files."""
    with site.fresh(Wish(model="trivial", queue=100)) as running:
        before = running.left
        for _ in range(20):
            running.talk.wait_ready()
            running.talk.post({})
        return running.left - before < 20
