"""Static analysis of the edge as a whole node renders it: every public method of the contracts."""

from __future__ import annotations

from gateway import envoy
from gateway.envoy import filters, xds
from gateway.envoy.routes import UNKNOWN
from tests.unit.gateway.test_envoy_accepts import of_the_node
from tests.unit.gateway.test_rendering import http_filters, routes

PLAN = of_the_node()
ORDER = [
    filters.FLOOD,
    filters.REVOCATION,
    filters.AUTHENTICATION,
    filters.BODY_LIMIT,
    filters.PROBLEM,
    filters.TRANSCODER,
    filters.BINDING,
    filters.SCOPES,
    "router",
]


def test_every_listener_demands_a_client_certificate() -> None:
    for listener in envoy.render(PLAN)[xds.LISTENERS]["resources"]:
        assert "default_filter_chain" not in listener
        for chain in listener["filter_chains"]:
            tls = chain["transport_socket"]["typed_config"]
            assert tls["require_client_certificate"] is True
            assert tls["common_tls_context"]["validation_context_sds_secret_config"]["name"] == "client_authorities"


def test_the_filters_stand_in_the_documented_order() -> None:
    assert [each["name"] for each in http_filters(envoy.render(PLAN))] == ORDER


def test_no_route_leads_to_a_service_without_a_scope() -> None:
    open_paths = {endpoint.path for endpoint in PLAN.endpoints}
    for route in routes(envoy.render(PLAN)):
        settings = route["typed_per_filter_config"]
        assert filters.FLOOD not in settings
        assert filters.REVOCATION not in settings
        if "direct_response" in route:
            assert route["direct_response"]["status"] == 404
            assert route["name"] == UNKNOWN or filters.SCOPES not in settings
        elif route["route"]["cluster"] == "gateway":
            assert route["match"]["path"] in open_paths
        else:
            [policy] = settings[filters.SCOPES]["rbac"]["rules"]["policies"].values()
            assert policy["principals"][0]["and_ids"]["ids"]
            assert filters.BINDING not in settings
            assert filters.AUTHENTICATION not in settings
