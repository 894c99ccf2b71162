"""What the embedded node is told about its test identity provider: the file that SOLMU_IDENTITY_PROVIDERS names."""

from __future__ import annotations

import json

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from deploy import files, pki
from deploy.local import demo_clients
from deploy.local.identity_provider.provider import ALGORITHM, ASSURANCE, CODE_CLAIM, key_set
from deploy.local.state import State

NODE = "node"
"""The node's own client id at the provider."""


def signing_key(state: State) -> ec.EllipticCurvePrivateKey:
    """The key that signs id_tokens; made where there is none."""
    if not state.identity_provider_key.exists():
        fresh = ec.generate_private_key(ec.SECP256R1())
        files.write(state.identity_provider_key, fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key = load_pem_private_key(state.identity_provider_key.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def declare(state: State, *, issuer: str) -> None:
    """Writes the file."""
    provider = {
        "issuer": issuer,
        "jwks": key_set(signing_key(state)),
        "algorithms": [ALGORITHM],
        # The demo's portal can also log people in by itself and exchange the id_token (RFC 8693).
        "clients": {demo_clients.PORTAL.client_id: demo_clients.PORTAL.client_id},
        "identifier": {"claim": CODE_CLAIM, "scheme": "FI_HETU"},
        "assurance": {acr: level.upper() for acr, level in ASSURANCE.items()},
        "log_in": {
            "id": "invented-people",
            "display_name": "Invented people",
            "client_id": NODE,
            "authorities": str(state.public / pki.AUTHORITY),
        },
    }
    files.write(state.identity_providers, json.dumps({"identity_providers": [provider]}, indent=2) + "\n")
