"""What the tests of the authorisations service begin with."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from services.authorisations.clients import Client, Rules
from services.authorisations.grants import Asked

NOW = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
ISSUER = "https://localhost:8443"
PARTY = "organisations/" + "a" * 26
OWNER = "0201256-6"
"""A Finnish business id with a good check digit: the city of Helsinki's."""
CERTIFICATE = "ab" * 32
RULES = Rules(
    known_scopes=frozenset({"clients.manage", "mandates.administer", "messages.read", "messages.send"}),
    trust_domain="spiffe://solmu/",
)


def client(client_id: str = "case-system", **changes: Any) -> Client:
    """A client that may send and read messages."""
    values: dict[str, Any] = {
        "client_id": client_id,
        "display_name": "Case system",
        "party": PARTY,
        "scopes": ("messages.read", "messages.send"),
        "certificate_uri": f"spiffe://solmu/client/{client_id}",
        "create_time": NOW,
        "update_time": NOW,
    }
    return Client(**values | changes)


def asked(**changes: Any) -> Asked:
    """A call to the token endpoint that is in order."""
    values: dict[str, Any] = {
        "grant_type": "client_credentials",
        "scope": "",
        "resource": "",
        "authorization_details": False,
    }
    return Asked(**values | changes)


def key_file(folder: Path, name: str, *, curve: ec.EllipticCurve | None = None) -> Path:
    """A new private key in a file."""
    private = ec.generate_private_key(curve or ec.SECP256R1())
    path = folder / name
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path
