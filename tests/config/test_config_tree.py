from pathlib import Path

import pytest
from config_files import GOOD, read, refused, told

from tidegate.config import ConfigError, load


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("", 1, "the file is empty; expected at least providers and models"),
        ("# only a comment\n", 1, "the file is empty; expected at least providers and models"),
        ("server:\n  port: 'x\n", 3, "not YAML: while scanning a quoted scalar, found unexpected end of stream"),
        ("server:\n\t- x\n", 2, "not YAML: "),
        ("server: {}\n---\nops: {}\n", 2, "not YAML: "),
        ("server: {}\nserver: a: b\n", 2, "not YAML: "),
        ("server: {}\nops: *nowhere\n", 2, "not YAML: "),
        ("server: {}\nops: \x07\n", 2, "a control character is not text"),
        ("server: {}\nops: \ufffe\n", 0, "not YAML: a character that YAML does not allow"),
        (f"server: {{}}\nops: {'[' * 200_000}", 2, "nested deeper than 32 levels"),
        ("server: {}\nops: &a [*a]\n", 2, "nested deeper than 32 levels"),
        ("ops: &a {<<: *a}\n", 1, "nested deeper than 32 levels"),
        (f"server: {{}}\nops: [{'1,' * 150_000}]", 2, "more than 100000 values, with anchors written out"),
    ],
)
def test_a_file_without_a_structure_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, problem: str
) -> None:
    (mistake,) = refused(tmp_path, text)
    assert mistake.line == line
    assert mistake.path == ""
    assert mistake.problem.startswith(problem)


def test_a_few_anchors_cannot_grow_into_billions_of_values(tmp_path: Path) -> None:
    laughs = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    laughs += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    (mistake,) = refused(tmp_path, "\n".join(laughs))
    assert mistake.problem == "more than 100000 values, with anchors written out"


def test_a_file_above_a_mebibyte_is_refused_unread(tmp_path: Path) -> None:
    (mistake,) = refused(tmp_path, GOOD + "#" * 1024 * 1024)
    assert str(mistake) == f"{tmp_path}/tidegate.yaml: larger than 1MiB"


def test_a_file_of_a_mebibyte_is_read(tmp_path: Path) -> None:
    text = GOOD + "#" * (1024 * 1024 - len(GOOD))
    assert read(tmp_path, text).config.models[0].name == "gpt"


@pytest.mark.parametrize(
    ("name", "problem"), [("nowhere.yaml", "No such file"), (".", "Is a directory"), ("\0", "not a file name")]
)
def test_a_file_that_cannot_be_read_is_told_by_its_name(name: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(name, {})
    (mistake,) = caught.value.mistakes
    assert mistake.file == name
    assert mistake.problem.startswith(f"cannot be read: {problem}")


def test_text_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"server: {}\n# caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        load(str(file), {})
    assert str(caught.value) == f"{file}:2: not UTF-8 text"


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufeff" + GOOD).config.models[0].name == "gpt"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("port: 1\n  port: 2", "tidegate.yaml:7: server.port: set twice, first on line 6"),
        ("1: x", "tidegate.yaml:6: server: expected a key that is text; put the key in quotes"),
        ("true: x", "tidegate.yaml:6: server: expected a key that is text; put the key in quotes"),
        ("? [a]\n  : x", "tidegate.yaml:6: server: expected a key that is text; put the key in quotes"),
        ("host: !secret x", "tidegate.yaml:6: server.host: a tag (!...) has no meaning here"),
        ("host: !!binary aGk=", "tidegate.yaml:6: server.host: a tag (!...) has no meaning here"),
        ("tls: !!set {a}", "tidegate.yaml:6: server.tls: a tag (!...) has no meaning here"),
        ("tls: !x [a]", "tidegate.yaml:6: server.tls: a tag (!...) has no meaning here"),
        ("<<: 5", "tidegate.yaml:6: server: expected a mapping, or a list of them, after <<"),
        ("host: ${", "tidegate.yaml:6: server.host: expected ${VAR} or ${VAR:-default} after a dollar sign; write $$ for a plain $"),
        ("host: ${1X}", "tidegate.yaml:6: server.host: expected ${VAR} or ${VAR:-default} after a dollar sign; write $$ for a plain $"),
    ],
)  # fmt: skip
def test_what_the_schema_never_sees_is_refused_with_line_and_path(tmp_path: Path, line: str, expected: str) -> None:
    assert told(tmp_path, refused(tmp_path, f"{GOOD}server:\n  {line}\n")) == [expected]


def test_anchors_and_merge_keys_are_written_out(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        providers:
          - {name: a, kind: mock, timeouts: &slow {idle: 50s, connect: 1s}, connections: &few {max: 3}}
          - {name: b, kind: mock, timeouts: {connect: 2s, <<: *slow}, connections: *few}
          - {name: c, kind: mock, timeouts: {<<: [{idle: 7s}, *slow]}}
        models:
          - {name: m, targets: [{provider: a}]}
        """,
    ).config
    _, b, c = config.providers
    assert (b.timeouts.connect_s, b.timeouts.idle_s, b.connections.max) == (2.0, 50.0, 3)
    assert (c.timeouts.connect_s, c.timeouts.idle_s) == (1.0, 7.0)


def test_a_key_that_replaces_a_merged_one_is_not_set_twice_and_the_merged_value_is_not_read(tmp_path: Path) -> None:
    text = GOOD + "server: {tls: &t {cert: '${NOWHERE:-}', key: ''}}\nops: {listen: ''}\n"
    assert read(tmp_path, text).config.server.tls.cert == ""
    text = GOOD + "server: {<<: {host: '${NOWHERE}'}, host: 127.0.0.9}\n"
    assert read(tmp_path, text).config.server.host == "127.0.0.9"


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("${KEY}", "sk-1"),
        ("'${KEY}'", "sk-1"),
        ("a-${KEY}-${KEY}", "a-sk-1-sk-1"),
        ("${NONE:-sk-2}", "sk-2"),
        ("${EMPTY:-sk-3}", "sk-3"),
        ("${KEY:-sk-4}", "sk-1"),
        ("$$KEY", "$KEY"),
        ("$KEY", "$KEY"),
        ("$${KEY}", "${KEY}"),
        ("$$${KEY}", "$sk-1"),
        ("${NONE:-a$$b}", "a$b"),
        ("${ODD}", "a}: [b"),
        ("${NUMBER}", "12345"),
    ],
)
def test_variables_stand_for_their_values(tmp_path: Path, written: str, key: str) -> None:
    environ = {"KEY": "sk-1", "EMPTY": "", "ODD": "a}: [b", "NUMBER": "12345"}
    text = f"{GOOD}observe: {{}}\n".replace("api_key: sk-1", "headers: {x-a: HERE}, base_url: 'http://127.0.0.1'")
    text = text.replace("HERE", written if written.startswith("'") else f'"{written}"')
    assert read(tmp_path, text, environ).config.providers[0].headers["x-a"] == key


def test_a_variable_is_expanded_before_its_type_is_judged(tmp_path: Path) -> None:
    text = GOOD + "server: {port: '${PORT:-8099}', header_timeout: '${WAIT}', on_client_disconnect: '${POLICY}'}\n"
    server = read(tmp_path, text, {"WAIT": "7s", "POLICY": "finish"}).config.server
    assert (server.port, server.header_timeout_s, server.on_client_disconnect) == (8099, 7.0, "finish")


def test_what_a_variable_holds_never_becomes_structure(tmp_path: Path) -> None:
    text = GOOD + "server: {host: '${HOST}'}\nobserve: ${LOG}\n"
    mistakes = refused(tmp_path, text, {"HOST": "h, port: 1", "LOG": "{log: json}"})
    assert [(mistake.path, mistake.line) for mistake in mistakes] == [("server.host", 5), ("observe", 6)]


def test_every_missing_variable_is_named(tmp_path: Path) -> None:
    text = GOOD.replace("sk-1", "'${A_KEY}${B_KEY}'") + "server:\n  port: ${A_PORT}\nunknown: ${DEEP}\n"
    lines = told(tmp_path, refused(tmp_path, text))
    assert lines[:3] == [
        "tidegate.yaml:2: providers[0].api_key: the environment variable A_KEY is not set; set it, or give a default: ${A_KEY:-...}",
        "tidegate.yaml:2: providers[0].api_key: the environment variable B_KEY is not set; set it, or give a default: ${B_KEY:-...}",
        "tidegate.yaml:6: server.port: the environment variable A_PORT is not set; set it, or give a default: ${A_PORT:-...}",
    ]  # fmt: skip
    assert any("the environment variable DEEP is not set" in line for line in lines)
    assert len(lines) == 5


def test_a_variable_without_quotes_between_braces_is_told_to_want_them(tmp_path: Path) -> None:
    (mistake,) = refused(tmp_path, GOOD.replace("sk-1", "${KEY}"), {"KEY": "sk-1"})
    assert (mistake.line, mistake.hint) == (2, "inside { } and [ ], write '${VAR}' with its quotes")
