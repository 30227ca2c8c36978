"""No setting without an effect: each is registered here with the test that shows what it changes."""

import ast
from pathlib import Path

import pytest
from config_fields import ALL_FIELDS

TESTS = Path(__file__).parents[1]
HERE = "config/test_options_matter.py::"
ADMISSION = "admission/test_admission.py::"

SHOWN_BY = {
    "server.host": f"{HERE}test_server_host_is_where_it_listens",
    "server.port": f"{HERE}test_server_port_is_where_it_listens",
    "server.tls.cert": f"{HERE}test_server_tls_serves_with_the_certificate_and_its_key_and_not_without",
    "server.tls.key": f"{HERE}test_server_tls_key_must_be_the_certificates",
    "server.max_header_bytes": f"{HERE}test_server_max_header_bytes_bounds_a_head",
    "server.max_body_bytes": f"{HERE}test_server_max_body_bytes_bounds_a_body",
    "server.header_timeout": f"{HERE}test_server_header_timeout_bounds_the_wait_for_a_head",
    "server.body_timeout": f"{HERE}test_server_body_timeout_bounds_the_wait_for_a_body",
    "server.keep_alive": f"{HERE}test_server_keep_alive_bounds_the_wait_for_another_request",
    "server.heartbeat": f"{HERE}test_server_heartbeat_fills_silence",
    "server.slow_client_timeout": f"{HERE}test_server_slow_client_timeout_cuts_a_client_that_takes_nothing",
    "server.on_client_disconnect": f"{HERE}test_server_on_client_disconnect_decides_whether_the_provider_goes_on",
    "server.drain_delay": f"{HERE}test_server_drain_delay_is_how_long_it_still_accepts",
    "server.drain_timeout": "drain/test_drain.py::"
    "test_an_exchange_that_has_no_answer_yet_when_time_is_up_is_refused_with_503",
    "ops.listen": f"{HERE}test_ops_listen_is_where_metrics_are_and_empty_is_nowhere",
    "auth.mode": f"{ADMISSION}test_without_a_known_key_every_route_but_health_answers_401",
    "auth.keys[].id": f"{ADMISSION}test_a_key_opens_the_gateway_in_each_of_the_usual_headers",
    "auth.keys[].sha256": f"{ADMISSION}test_a_key_opens_the_gateway_in_each_of_the_usual_headers",
    "auth.keys[].tenant": "security/test_sentinels.py::"
    "test_a_record_names_the_key_by_its_id_and_the_log_leaves_the_tenant_out",
    "providers[].name": f"{HERE}test_providers_name_is_the_label_of_what_is_counted",
    "providers[].kind": f"{HERE}test_providers_kind_decides_whether_a_models_name_takes_parameters",
    "providers[].base_url": f"{HERE}test_providers_base_url_is_where_requests_go",
    "providers[].api_key": f"{HERE}test_providers_api_key_is_the_credential_that_the_provider_gets",
    "providers[].ca_file": f"{HERE}test_providers_ca_file_is_who_is_trusted",
    "providers[].headers.*": f"{HERE}test_providers_headers_are_added_to_each_request",
    "providers[].timeouts.connect": f"{HERE}test_providers_timeouts_connect_bounds_connecting_with_tls",
    "providers[].timeouts.headers": f"{HERE}test_providers_timeouts_headers_bounds_the_wait_for_a_head",
    "providers[].timeouts.first_token": f"{HERE}test_providers_timeouts_first_token_bounds_the_wait_for_content",
    "providers[].timeouts.idle": f"{HERE}test_providers_timeouts_idle_bounds_silence",
    "providers[].timeouts.total": f"{HERE}test_providers_timeouts_total_bounds_a_stream_that_goes_on",
    "providers[].timeouts.response": f"{HERE}test_providers_timeouts_response_bounds_the_wait_for_a_whole_answer",
    "providers[].connections.max": f"{HERE}test_providers_connections_max_bounds_the_connections",
    "providers[].connections.idle": f"{HERE}test_providers_connections_idle_is_how_long_one_is_kept",
    "models[].name": f"{HERE}test_models_name_is_what_clients_ask_for",
    "models[].targets[].provider": f"{HERE}test_models_targets_provider_is_who_is_asked",
    "models[].targets[].model": f"{HERE}test_models_targets_model_is_the_name_at_the_provider",
    "models[].aliases[]": f"{ADMISSION}test_an_alias_is_answered_by_the_model_and_recorded_under_its_name",
    "observe.log": f"{HERE}test_observe_log_is_the_form_of_a_line",
}


def test_every_setting_is_registered_with_a_test_and_nothing_else_is() -> None:
    assert SHOWN_BY.keys() == set(ALL_FIELDS)


@pytest.mark.parametrize("path", SHOWN_BY)
def test_the_registered_test_is_there_and_is_run(path: str) -> None:
    file, name = SHOWN_BY[path].split("::")
    found = [
        node
        for node in ast.parse((TESTS / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    assert found, f"{file} has no {name}"
    marks = " ".join(map(ast.unparse, found[0].decorator_list))
    assert "skip" not in marks
    assert "xfail" not in marks
