"""Certificates, keys and revocation lists, as secrets that Envoy reads by SDS.

The PEM text stands in the file itself: with paths in it a bad certificate that
is put right again would hold up later revocation lists, and a key and its
certificate could not change at the same instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.envoy import xds
from gateway.envoy.plan import Json
from gateway.routes import Door
from services.runtime import mesh

EDGE_CERTIFICATE = "edge_certificate"
"""What the edge shows to clients."""
CLIENT_AUTHORITIES = "client_authorities"
"""Who may vouch for clients, and whom they have revoked."""
UPSTREAM_CERTIFICATE = "upstream_certificate"
"""What the edge shows to the services: the identity `edge`."""
SERVICE_AUTHORITIES = "service_authorities"
"""Who may vouch for services."""

_TLS = "envoy.extensions.transport_sockets.tls.v3"


def certificate(name: str, *, chain: str, key: str) -> Json:
    """File of a certificate chain and its key, both PEM."""
    return _secret(name, tls_certificate={"certificate_chain": _inline(chain), "private_key": _inline(key)})


def authorities(name: str, *, trusted: str, crl: str | None = None) -> Json:
    """File of the authorities to trust and, for clients, their revocation lists, all PEM."""
    context = {"trusted_ca": _inline(trusted)}
    if crl is not None:
        context["crl"] = _inline(crl)
    return _secret(name, validation_context=context)


def downstream_tls(folder: Path, door: Door) -> Json:
    """TLS towards clients: 1.2 or newer, HTTP/2 or 1.1, and for systems a client certificate or no connection.

    Envoy's own choice of cipher suites holds for TLS 1.2: AEAD with ECDHE.
    """
    context: Json = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [_reference(folder, EDGE_CERTIFICATE)],
    }
    if door is Door.SYSTEMS:
        context["validation_context_sds_secret_config"] = _reference(folder, CLIENT_AUTHORITIES)
    return xds.extension(
        "envoy.transport_sockets.tls",
        f"{_TLS}.DownstreamTlsContext",
        require_client_certificate=door is Door.SYSTEMS,
        common_tls_context=context,
    )


def upstream_tls(folder: Path, *, node: str, service: str, protocol: str) -> Json:
    """TLS towards one service, which has to prove that it is this one. `protocol` is its ALPN name."""
    return xds.extension(
        "envoy.transport_sockets.tls",
        f"{_TLS}.UpstreamTlsContext",
        sni=service,
        common_tls_context={
            "alpn_protocols": [protocol],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificate_sds_secret_configs": [_reference(folder, UPSTREAM_CERTIFICATE)],
            "combined_validation_context": {
                "default_validation_context": {
                    "match_typed_subject_alt_names": [
                        {"san_type": "URI", "matcher": {"exact": mesh.service_uri(node, service)}}
                    ]
                },
                "validation_context_sds_secret_config": _reference(folder, SERVICE_AUTHORITIES),
            },
        },
    )


def _secret(name: str, **content: Any) -> Json:
    return xds.resources(xds.typed(f"{_TLS}.Secret", name=name, **content))


def _reference(folder: Path, name: str) -> Json:
    return {"name": name, "sds_config": xds.watched(folder, xds.secret_file(name))}


def _inline(text: str) -> Json:
    return {"inline_string": text}
