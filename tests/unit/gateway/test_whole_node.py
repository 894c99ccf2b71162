"""Static analysis of the edge as a whole node renders it: every public method of the contracts."""

from __future__ import annotations

from gateway import envoy
from gateway.adapters import documentation, log_in, oauth
from gateway.envoy import filters, xds
from gateway.envoy.plan import Json
from gateway.envoy.routes import CALL, OTHERS, UNKNOWN
from gateway.routes import Door
from tests.unit.gateway import plans
from tests.unit.gateway.test_envoy_accepts import of_the_node
from tests.unit.gateway.test_rendering import beginnings, http_filters, listener, manager, routes

PLAN = of_the_node()
FILES = envoy.render(PLAN)
ORDER = {
    Door.SYSTEMS: [
        filters.REQUEST_ID,
        filters.RATE,
        filters.REVOCATION,
        filters.AUTHENTICATION,
        filters.BODY_LIMIT,
        filters.PROBLEM,
        filters.TRANSCODER,
        filters.BINDING,
        filters.SCOPES,
        "router",
    ],
    Door.BROWSERS: [filters.RATE, filters.BODY_LIMIT, "router"],
}
FOR_BROWSERS = {
    *(endpoint.path for endpoint in documentation.ENDPOINTS),
    log_in.AUTHORIZATION_PATH,
    log_in.CALLBACK_PATH,
    oauth.KEYS_PATH,
    oauth.METADATA_PATH,
}
"""All that strangers reach. What is added here is open to the world."""


def _tls(each: Json) -> Json:
    assert "default_filter_chain" not in each
    [chain] = each["filter_chains"]
    found: Json = chain["transport_socket"]["typed_config"]
    return found


def test_every_listener_but_that_of_browsers_demands_a_client_certificate() -> None:
    listeners = FILES[xds.LISTENERS]["resources"]
    assert [each["name"] for each in listeners] == [Door.SYSTEMS.value, Door.BROWSERS.value]
    tls = _tls(listener(FILES, Door.SYSTEMS))
    assert tls["require_client_certificate"] is True
    assert tls["common_tls_context"]["validation_context_sds_secret_config"]["name"] == "client_authorities"
    assert _tls(listener(FILES, Door.BROWSERS))["require_client_certificate"] is False


def test_a_node_without_a_port_for_browsers_has_one_listener() -> None:
    assert [each["name"] for each in envoy.render(plans.ONE_MACHINE)[xds.LISTENERS]["resources"]] == ["edge"]


def test_the_filters_stand_in_the_documented_order() -> None:
    for door, order in ORDER.items():
        assert [each["name"] for each in http_filters(FILES, door)] == order


def test_no_route_leads_to_a_service_without_a_scope() -> None:
    open_paths = plans.adapters_of(PLAN)
    for route in routes(FILES, Door.SYSTEMS):
        settings = route["typed_per_filter_config"]
        assert filters.RATE not in settings
        assert filters.REVOCATION not in settings
        if "direct_response" in route:
            assert route["direct_response"]["status"] == 404
            assert route["name"] == UNKNOWN or filters.SCOPES not in settings
        elif route["route"]["cluster"] == "gateway":
            assert route["match"] in open_paths
        else:
            [policy] = settings[filters.SCOPES]["rbac"]["rules"]["policies"].values()
            assert policy["principals"][0]["and_ids"]["ids"]
            assert filters.BINDING not in settings
            assert filters.AUTHENTICATION not in settings


def test_what_a_path_may_mean_is_tried_wherever_the_path_is_looked_up() -> None:
    table = beginnings(FILES, Door.SYSTEMS)
    for route in PLAN.routes:
        assert [each["name"] for each in table[route.path]] == [f"{route.service}/{route.method}", UNKNOWN]
    endpoints = [endpoint for endpoint in PLAN.endpoints if Door.SYSTEMS in endpoint.doors]
    meant = [(f"adapter {endpoint.path}", endpoint.prefix) for endpoint in endpoints] + [
        (f"{route.service}/{route.method} {binding.verb} {binding.template}", binding.prefix)
        for route in PLAN.routes
        for binding in route.rest
    ]
    calls = {route.path for route in PLAN.routes}
    for beginning in table.keys() - calls:
        tried = [name for name, prefix in meant if beginning.startswith(prefix)]
        assert [each["name"] for each in table[beginning]] == [*tried, f"{CALL[1:]} of others", UNKNOWN]
    assert {prefix for _, prefix in meant} == table.keys() - calls - {""}


def test_grpc_methods_of_other_members_go_to_the_exchange_under_the_policy_of_its_call() -> None:
    table = beginnings(FILES, Door.SYSTEMS)
    [call, _], [others, _] = table[CALL], table[""]
    assert others["match"] == {"prefix": "/", "grpc": {}, "headers": [{"name": OTHERS, "present_match": True}]}
    assert {key: others[key] for key in others.keys() - {"name", "match"}} == {
        key: call[key] for key in call.keys() - {"name", "match"}
    }
    assert others["route"]["cluster"] == "exchange"


def test_a_look_up_tries_few_routes() -> None:
    assert max(len(tried) for tried in beginnings(FILES, Door.SYSTEMS).values()) < len(PLAN.routes) / 2


def test_browsers_reach_log_in_metadata_and_documentation_and_nothing_else() -> None:
    *reached, last = routes(FILES, Door.BROWSERS)
    assert {route["match"]["path"] for route in reached} == FOR_BROWSERS
    for route in reached:
        assert route["match"].keys() == {"path"}
        assert route["route"]["cluster"] == "gateway"
        assert route["typed_per_filter_config"].keys() == {filters.BODY_LIMIT}
    assert (last["name"], last["match"], last["direct_response"]) == (UNKNOWN, {"prefix": "/"}, {"status": 404})


def test_nobody_is_a_client_by_what_a_browser_says() -> None:
    of_browsers = manager(FILES, Door.BROWSERS)
    assert of_browsers["forward_client_cert_details"] == "SANITIZE"
    assert "set_current_client_cert_details" not in of_browsers
    assert (
        of_browsers["early_header_mutation_extensions"]
        == manager(FILES, Door.SYSTEMS)["early_header_mutation_extensions"]
    )


def test_browsers_are_told_to_come_by_https_only_unless_the_name_is_every_machines_own() -> None:
    [table] = envoy.render(plans.CLUSTER)[xds.route_file(Door.BROWSERS.value)]["resources"]
    [header] = table["response_headers_to_add"]
    assert header["header"]["key"] == "strict-transport-security"
    [table] = FILES[xds.route_file(Door.BROWSERS.value)]["resources"]
    assert "response_headers_to_add" not in table
