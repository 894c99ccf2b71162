"""Envoy's configuration, whole and as such.

The golden files show what is rendered. After a change that is meant, rewrite
them and read the difference: UPDATE_GOLDEN=1 pytest tests/unit/gateway
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from gateway import envoy
from gateway.envoy import filters, secrets, xds
from gateway.envoy.plan import Json, Plan
from gateway.envoy.routes import UNKNOWN
from gateway.routes import Door
from tests.unit.gateway import plans

GOLDEN = Path(__file__).parent / "golden"
PLANS = {"one_machine": plans.ONE_MACHINE, "cluster": plans.CLUSTER}


def rendered(plan: Plan) -> dict[str, Json]:
    """Every file, with a placeholder for what is long, secret, or golden elsewhere."""
    files = envoy.render(plan)
    for each in http_filters(files, Door.SYSTEMS):
        if each["name"] == filters.PROBLEM:
            each["typed_config"]["default_source_code"] = "<problem.lua>"
    files[xds.AUTHENTICATION] = filters.authentication(plan, "<keys>")
    files[xds.REVOCATION] = filters.revocation([0xABC, 1])
    for name in (secrets.EDGE_CERTIFICATE, secrets.UPSTREAM_CERTIFICATE):
        files[xds.secret_file(name)] = secrets.certificate(name, chain="<certificates>", key="<key>")
    for name, crl in ((secrets.CLIENT_AUTHORITIES, "<revocation list>"), (secrets.SERVICE_AUTHORITIES, None)):
        files[xds.secret_file(name)] = secrets.authorities(name, trusted="<certificates>", crl=crl)
    return files


def listener(files: dict[str, Json], door: Door) -> Json:
    listeners: dict[str, Json] = {each["name"]: each for each in files[xds.LISTENERS]["resources"]}
    return listeners[door.value]


def manager(files: dict[str, Json], door: Door) -> Json:
    found: Json = listener(files, door)["filter_chains"][0]["filters"][-1]["typed_config"]
    return found


def http_filters(files: dict[str, Json], door: Door) -> list[Json]:
    found: list[Json] = manager(files, door)["http_filters"]
    return found


def routes(files: dict[str, Json], door: Door) -> list[Json]:
    """Every route of a listener once, that for the unknown last."""
    found = {route["name"]: route for beginning in beginnings(files, door).values() for route in beginning}
    return [*(route for name, route in found.items() if name != UNKNOWN), found[UNKNOWN]]


def beginnings(files: dict[str, Json], door: Door) -> dict[str, list[Json]]:
    """The routes that are tried, by what the path begins with: whole paths of gRPC calls, beginnings of others."""
    [table] = files[xds.route_file(door.value)]["resources"]
    found: dict[str, list[Json]] = {}
    step = {"matcher": table["virtual_hosts"][0]["matcher"]}
    while "matcher" in step:
        tree = step["matcher"]["matcher_tree"]
        for kind in ("exact_match_map", "prefix_match_map"):
            for path, leaf in tree.get(kind, {"map": {}})["map"].items():
                found[path] = leaf["action"]["typed_config"]["routes"]
        step = step["matcher"]["on_no_match"]
    found[""] = step["action"]["typed_config"]["routes"]
    return found


@pytest.mark.parametrize("case", PLANS)
def test_the_configuration_is_the_golden_one(case: str) -> None:
    for name, content in rendered(PLANS[case]).items():
        path = GOLDEN / case / name.replace("/", "_")
        text = json.dumps(content, indent=2) + "\n"
        if os.environ.get("UPDATE_GOLDEN"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.read_text() == text, f"{path.name} has changed"


def test_every_route_demands_scopes_or_is_an_adapter_or_answers_itself() -> None:
    for route in routes(envoy.render(plans.ONE_MACHINE), Door.SYSTEMS):
        settings = route["typed_per_filter_config"]
        if "route" not in route:
            assert route["direct_response"]["status"] == 404
        elif route["route"]["cluster"] == "gateway":
            assert route["match"] in plans.adapters_of(plans.ONE_MACHINE)
        else:
            [policy] = settings[filters.SCOPES]["rbac"]["rules"]["policies"].values()
            [principal] = policy["principals"]
            wanted = route["metadata"]["filter_metadata"]["solmu.edge"]["scopes"].split()
            assert wanted
            assert len(principal["and_ids"]["ids"]) == len(wanted)
            for scope, demand in zip(wanted, principal["and_ids"]["ids"], strict=True):
                assert demand["header"]["name"] == filters.GRANTED
                pattern = demand["header"]["string_match"]["safe_regex"]["regex"]
                for granted in (scope, f"a {scope}", f"{scope} b", f"a.b {scope} c"):
                    assert re.fullmatch(pattern, granted)
                for granted in ("", f"{scope}s", f"x{scope}", scope.replace(".", "x"), f"a,{scope}", scope[:-1]):
                    assert not re.fullmatch(pattern, granted)


def test_only_adapters_without_scopes_and_the_last_route_go_without_token_or_binding() -> None:
    off = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
    scopes = {f"adapter {endpoint.path}": endpoint.scopes for endpoint in plans.ONE_MACHINE.endpoints}
    for route in routes(envoy.render(plans.ONE_MACHINE), Door.SYSTEMS):
        settings = route["typed_per_filter_config"]
        opens = scopes.get(route["name"]) == ()
        assert (settings.get(filters.AUTHENTICATION) == off) == opens
        assert (settings.get(filters.BINDING) == off) == (opens or route["name"] == UNKNOWN)
        assert (settings.get(filters.SCOPES) == off) == (opens or route["name"] == UNKNOWN)
    assert scopes["adapter /access/v1/evaluation"] == ("mandates.check",)


def test_every_route_to_a_service_limits_body_and_time() -> None:
    for route in routes(envoy.render(plans.ONE_MACHINE), Door.SYSTEMS):
        if "route" in route and route["route"]["cluster"] != "gateway":
            assert route["route"]["max_stream_duration"].keys() == {"max_stream_duration", "grpc_timeout_header_max"}
            assert filters.BODY_LIMIT in route["typed_per_filter_config"]


def test_a_streamed_body_is_never_sent_twice() -> None:
    for route in routes(envoy.render(plans.ONE_MACHINE), Door.SYSTEMS):
        if route["name"].endswith(("/UploadContent", "/ImportParcels")):
            assert "retry_policy" not in route["route"]


def test_what_an_instance_that_stops_did_not_take_is_tried_at_another() -> None:
    tried = [each["route"] for each in routes(envoy.render(plans.ONE_MACHINE), Door.SYSTEMS) if "route" in each]
    policies = [route["retry_policy"] for route in tried if "retry_policy" in route]
    assert policies
    for policy in policies:
        assert "cancelled" in policy["retry_on"].split(",")
        assert "previous_hosts" in policy["retry_host_predicate"][0]["name"]


def test_refusing_is_what_happens_where_no_route_says_otherwise() -> None:
    by_name = {each["name"]: each for each in http_filters(envoy.render(plans.ONE_MACHINE), Door.SYSTEMS)}
    assert by_name[filters.SCOPES]["typed_config"]["rules"] == {"action": "ALLOW", "policies": {}}
    assert by_name[filters.BINDING]["typed_config"]["rules"]["action"] == "ALLOW"
    assert by_name[filters.TRANSCODER]["disabled"] is True


def test_every_upstream_but_the_collector_is_proven_by_its_certificate() -> None:
    for cluster in envoy.render(plans.CLUSTER)[xds.CLUSTERS]["resources"]:
        if cluster["name"] == "traces":
            continue
        context: Any = cluster["transport_socket"]["typed_config"]["common_tls_context"]
        [name] = context["combined_validation_context"]["default_validation_context"]["match_typed_subject_alt_names"]
        assert name == {"san_type": "URI", "matcher": {"exact": f"spiffe://city/service/{cluster['name']}"}}


def test_rendering_depends_on_the_plan_alone() -> None:
    assert envoy.render(plans.CLUSTER) == envoy.render(plans.CLUSTER)
