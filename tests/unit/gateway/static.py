"""The rendered files put together into one bootstrap, since `envoy --mode validate` follows no references."""

from __future__ import annotations

from typing import Any

from gateway import envoy
from gateway.envoy import filters, secrets, xds
from gateway.envoy.plan import Json, Plan
from tests.unit.gateway import pki


def bootstrap(plan: Plan, *, jwks: str) -> Json:
    """One static configuration that means the same."""
    files = envoy.render(plan)
    followed = {
        resource["name"]: resource["typed_config"]
        for file in (filters.authentication(plan, jwks), filters.revocation([0xABC, 1]))
        for resource in file["resources"]
    }
    listeners = files[xds.LISTENERS]["resources"]
    for listener in listeners:
        manager = listener["filter_chains"][0]["filters"][-1]["typed_config"]
        [manager["route_config"]] = files[xds.route_file(manager.pop("rds")["route_config_name"])]["resources"]
        for each in manager["http_filters"]:
            if each.pop("config_discovery", None):
                each["typed_config"] = followed[each["name"]]
    clusters = files[xds.CLUSTERS]["resources"]
    static = {"listeners": listeners, "clusters": clusters, "secrets": _secrets()}
    rendered = files[xds.BOOTSTRAP]
    del rendered["dynamic_resources"]
    return {**rendered, "static_resources": _without(static, "sds_config")}


def _secrets() -> list[Json]:
    authority = pki.Authority("validation")
    pair = authority.service("edge")
    files = [
        secrets.certificate(name, chain=pair.certificate_pem, key=pair.key_pem)
        for name in (secrets.EDGE_CERTIFICATE, secrets.UPSTREAM_CERTIFICATE)
    ]
    files.append(secrets.authorities(secrets.CLIENT_AUTHORITIES, trusted=authority.pem, crl=authority.crl()))
    files.append(secrets.authorities(secrets.SERVICE_AUTHORITIES, trusted=authority.pem))
    return [resource for file in files for resource in file["resources"]]


def _without(value: Any, key: str) -> Any:
    """The same without this member, and without the types of resources, which have a place of their own here."""
    if isinstance(value, dict):
        resource = "@type" in value and value["@type"].startswith(_RESOURCES)
        return {
            name: _without(member, key)
            for name, member in value.items()
            if name != key and not (resource and name == "@type")
        }
    if isinstance(value, list):
        return [_without(member, key) for member in value]
    return value


_RESOURCES = tuple(
    f"type.googleapis.com/envoy.{kind}"
    for kind in (
        "config.listener.v3.Listener",
        "config.cluster.v3.Cluster",
        "config.route.v3.RouteConfiguration",
        "extensions.transport_sockets.tls.v3.Secret",
    )
)
