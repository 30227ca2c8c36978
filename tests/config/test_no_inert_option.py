"""No setting without an effect: each is registered here with the test that shows what it changes."""

import ast
from pathlib import Path

import pytest
from config_fields import ALL_FIELDS

TESTS = Path(__file__).parents[1]
HERE = "config/test_options_matter.py::"
DISPATCH = "config/test_options_matter_dispatch.py::"
PROVIDERS = "config/test_options_matter_providers.py::"
PREDICTIONS = "config/test_options_matter_predictions.py::"
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
    "server.request_timeout": f"{DISPATCH}test_server_request_timeout_bounds_a_whole_exchange",
    "server.trusted_proxies[]": f"{DISPATCH}test_server_trusted_proxies_are_who_is_believed_where_a_request_comes_from",
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
    "providers[].api_key_file": f"{DISPATCH}test_providers_api_key_file_holds_the_credential_and_is_read_anew",
    "providers[].auth": f"{PROVIDERS}test_providers_auth_is_how_the_key_is_sent",
    "providers[].api_version": f"{PROVIDERS}test_providers_api_version_is_part_of_what_azure_is_asked",
    "providers[].aws.region": f"{PROVIDERS}test_providers_aws_region_is_what_a_signature_is_for_and_where_requests_go",
    "providers[].aws.profile": f"{PROVIDERS}test_providers_aws_profile_is_whose_credentials_of_amazons_own_files_sign",
    "providers[].aws.access_key_id": f"{PROVIDERS}test_providers_aws_access_key_id_and_secret_access_key_sign",
    "providers[].aws.secret_access_key": f"{PROVIDERS}test_providers_aws_access_key_id_and_secret_access_key_sign",
    "providers[].aws.session_token": f"{PROVIDERS}test_providers_aws_session_token_goes_along_signed",
    "providers[].passthrough": f"{PROVIDERS}test_providers_passthrough_lets_any_request_through",
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
    "providers[].retry.max_attempts": f"{DISPATCH}test_providers_retry_max_attempts_is_how_often_a_target_is_asked",
    "providers[].retry.initial_delay": f"{DISPATCH}test_providers_retry_initial_and_max_delay_bound_the_wait_and_none_outlasts_the_exchange",
    "providers[].retry.max_delay": f"{DISPATCH}test_providers_retry_initial_and_max_delay_bound_the_wait_and_none_outlasts_the_exchange",
    "providers[].retry.max_retry_after": f"{DISPATCH}test_providers_retry_max_retry_after_is_how_long_a_provider_is_waited_for",
    "providers[].retry_budget.burst": f"{DISPATCH}test_providers_retry_budget_burst_ratio_and_rate_per_second_pay_for_attempts_after_the_first",
    "providers[].retry_budget.ratio": f"{DISPATCH}test_providers_retry_budget_burst_ratio_and_rate_per_second_pay_for_attempts_after_the_first",
    "providers[].retry_budget.rate_per_second": f"{DISPATCH}test_providers_retry_budget_burst_ratio_and_rate_per_second_pay_for_attempts_after_the_first",
    "providers[].slots.max_streams": f"{DISPATCH}test_providers_slots_max_streams_bounds_the_streams",
    "providers[].slots.max_queue": f"{DISPATCH}test_providers_slots_max_queue_is_how_many_may_wait",
    "providers[].slots.max_queue_wait": f"{DISPATCH}test_providers_slots_max_queue_wait_is_how_long_each_may_wait",
    "providers[].breaker.failures": f"{DISPATCH}test_providers_breaker_failures_in_a_row_open_it",
    "providers[].breaker.ratio": f"{DISPATCH}test_providers_breaker_ratio_of_failures_opens_it",
    "providers[].breaker.min_calls": f"{DISPATCH}test_providers_breaker_min_calls_is_how_many_a_ratio_is_judged_by",
    "providers[].breaker.window": f"{DISPATCH}test_providers_breaker_window_is_what_is_looked_back_on",
    "providers[].breaker.open_for": f"{DISPATCH}test_providers_breaker_open_for_is_how_long_a_target_is_left_alone",
    "providers[].breaker.probes": f"{DISPATCH}test_providers_breaker_probes_is_how_many_try_at_a_time",
    "providers[].breaker.successes": f"{DISPATCH}test_providers_breaker_successes_close_it",
    "models[].name": f"{HERE}test_models_name_is_what_clients_ask_for",
    "models[].aliases[]": f"{ADMISSION}test_an_alias_is_answered_by_the_model_and_recorded_under_its_name",
    "models[].balance": f"{DISPATCH}test_models_balance_is_how_a_target_is_chosen",
    "models[].sticky_by": f"{DISPATCH}test_models_sticky_by_is_what_sticks",
    "models[].hedge.after": f"{DISPATCH}test_models_hedge_after_is_when_a_second_target_is_asked",
    "models[].targets[].provider": f"{HERE}test_models_targets_provider_is_who_is_asked",
    "models[].targets[].model": f"{HERE}test_models_targets_model_is_the_name_at_the_provider",
    "models[].targets[].weight": f"{DISPATCH}test_models_targets_weight_is_a_targets_part_of_the_requests",
    "models[].targets[].priority": f"{DISPATCH}test_models_targets_priority_is_who_is_asked_first",
    "models[].targets[].max_streams": f"{DISPATCH}test_models_targets_max_streams_bounds_the_streams_of_one_target",
    **{
        f"models[].targets[].timeouts.{name}": f"{DISPATCH}test_models_targets_timeouts_bound_attempts_at_one_target_alone"
        for name in ("connect", "headers", "first_token", "idle", "total", "response")
    },
    "limits.max_connections": f"{DISPATCH}test_limits_max_connections_bounds_the_connections",
    "limits.max_connections_per_ip": f"{DISPATCH}test_limits_max_connections_per_ip_are_those_of_one_address",
    "limits.max_buffered_bytes": f"{DISPATCH}test_limits_max_buffered_bytes_bounds_what_is_held",
    "limits.rate[].by": f"{DISPATCH}test_limits_rate_by_is_whose_use_is_counted",
    "limits.rate[].requests_per_minute": f"{DISPATCH}test_limits_rate_requests_per_minute_bounds_the_requests",
    "limits.rate[].burst": f"{DISPATCH}test_limits_rate_burst_bounds_the_requests_at_once",
    "limits.rate[].tokens_per_minute": f"{DISPATCH}test_limits_rate_tokens_per_minute_bounds_the_tokens",
    "limits.rate[].max_streams": f"{DISPATCH}test_limits_rate_max_streams_bounds_the_streams_at_a_time",
    "providers[].local.handler": f"{PREDICTIONS}test_providers_local_handler_is_what_answers",
    "providers[].local.workers": f"{PREDICTIONS}test_providers_local_workers_is_how_many_processes_there_are",
    "providers[].local.setup_timeout": f"{PREDICTIONS}test_providers_local_setup_timeout_is_how_long_a_setup_may_take",
    "providers[].local.cancel_grace": f"{PREDICTIONS}test_providers_local_cancel_grace_is_how_long_a_cancelled_one_may_go_on",
    "providers[].local.max_output_bytes": f"{PREDICTIONS}test_providers_local_max_output_bytes_bounds_what_a_prediction_gives",
    "providers[].local.env.*": f"{PREDICTIONS}test_providers_local_env_is_what_its_processes_have_in_their_environment",
    "providers[].local.echo": f"{PREDICTIONS}test_providers_local_echo_tells_the_log_what_predictions_print",
    "predictions.history.mode": f"{PREDICTIONS}test_predictions_history_mode_is_whether_who_comes_late_gets_what_was_before",
    "predictions.history.max_events": f"{PREDICTIONS}test_predictions_history_max_events_is_how_many_are_kept",
    "predictions.history.max_bytes": f"{PREDICTIONS}test_predictions_history_max_bytes_bounds_what_is_kept",
    "predictions.retain": f"{PREDICTIONS}test_predictions_retain_is_how_long_one_can_be_asked_for",
    "predictions.max_retained": f"{PREDICTIONS}test_predictions_max_retained_is_how_many_can_be_asked_for",
    "predictions.max_retained_bytes": f"{PREDICTIONS}test_predictions_max_retained_bytes_bounds_what_they_take",
    "predictions.max_body_bytes": f"{PREDICTIONS}test_predictions_max_body_bytes_bounds_a_request_in_place_of_the_servers",
    "predictions.max_subscribers": f"{PREDICTIONS}test_predictions_max_subscribers_is_how_many_may_follow_one",
    "predictions.timeout": f"{PREDICTIONS}test_predictions_timeout_bounds_each_and_a_client_may_ask_for_less",
    "predictions.shutdown": f"{PREDICTIONS}test_predictions_shutdown_opens_the_path_that_stops_the_process",
    "predictions.files.max_bytes": f"{PREDICTIONS}test_predictions_files_max_bytes_bounds_a_file",
    "predictions.files.timeout": f"{PREDICTIONS}test_predictions_files_timeout_bounds_the_fetching",
    "predictions.files.max_redirects": f"{PREDICTIONS}test_predictions_files_max_redirects_is_how_often_another_address_is_gone_to",
    "predictions.files.allow_private": f"{PREDICTIONS}test_predictions_files_allow_private_lets_files_come_from_this_machine",
    "predictions.webhooks.secret": f"{PREDICTIONS}test_predictions_webhooks_secret_signs_them",
    "predictions.webhooks.token": f"{PREDICTIONS}test_predictions_webhooks_token_goes_along",
    "predictions.webhooks.interval": f"{PREDICTIONS}test_predictions_webhooks_interval_is_the_least_time_between_two",
    "predictions.webhooks.timeout": f"{PREDICTIONS}test_predictions_webhooks_timeout_bounds_each_request",
    "predictions.webhooks.max_attempts": f"{PREDICTIONS}test_predictions_webhooks_max_attempts_is_how_often_the_last_one_is_tried",
    "predictions.webhooks.allow_private": f"{PREDICTIONS}test_predictions_webhooks_allow_private_lets_them_go_to_this_machine",
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
