import pytest

from tidegate.bench.measure import MismeasuredError
from tidegate.bench.wrk import WrkReport, parse_report, render_script

OUTPUT = """Running 1s test @ http://127.0.0.1:8080
  1 threads and 10 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   398.22us   76.31us   2.58ms   93.92%
  24112 requests in 1.10s, 214.15MB read

TIDEGATE-RESULT {"requests":24112,"bytes":224551,"duration_us":1100123,"p50_us":398,"p99_us":760,"connect":0,"read":0,"write":0,"status":0,"timeout":0}
"""


def report(**said: int) -> WrkReport:
    zeros = dict.fromkeys(WrkReport.__struct_fields__, 0)
    return WrkReport(**(zeros | {"requests": 10, "duration_us": 10} | said))


def test_the_report_is_found_below_wrks_own_lines() -> None:
    found = parse_report(OUTPUT)
    assert (found.requests, found.bytes, found.duration_us) == (24112, 224551, 1100123)
    assert (found.p50_us, found.p99_us) == (398, 760)


@pytest.mark.parametrize("output", ["", OUTPUT.partition("TIDEGATE")[0], "TIDEGATE-RESULT {", "TIDEGATE-RESULT {}"])
def test_output_without_a_whole_report_is_not_a_measurement(output: str) -> None:
    with pytest.raises(MismeasuredError, match="wrk"):
        parse_report(output)


@pytest.mark.parametrize("kind", ["connect", "read", "write", "status", "timeout"])
def test_each_kind_of_error_spoils_a_report(kind: str) -> None:
    report().check()
    with pytest.raises(MismeasuredError, match=f"3 {kind}"):
        report(**{kind: 3}).check()


def test_a_report_without_requests_is_not_a_measurement() -> None:
    with pytest.raises(MismeasuredError, match="no request"):
        report(requests=0).check()


def test_the_script_quotes_what_it_is_given() -> None:
    script = render_script('/bench/a "b"/body.json', "tg-key")
    assert r'io.open("/bench/a \"b\"/body.json", "rb")' in script
    assert 'wrk.headers["authorization"] = "Bearer tg-key"' in script
