"""Access tokens as the node would issue them, and as it never would."""

from __future__ import annotations

import base64
import json
import time
import uuid
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ISSUER = "https://localhost:8443"


class Signer:
    """A signing key with its key id."""

    def __init__(self, key: ec.EllipticCurvePrivateKey | None = None, kid: str = "test", issuer: str = ISSUER) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.kid = kid
        self.issuer = issuer

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """The public key."""
        jwk: dict[str, Any] = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        return jwk | {"kid": self.kid, "use": "sig", "alg": "ES256"} | changes

    def jwks(self) -> str:
        """The key set of this key alone."""
        return json.dumps({"keys": [self.jwk()]})

    def token(self, certificate: str, *, headers: dict[str, Any] | None = None, **changes: Any) -> str:
        """An access token bound to a certificate (SHA-256, hexadecimal); `changes` are claims, None leaves one out."""
        now = int(time.time())
        thumbprint = base64.urlsafe_b64encode(bytes.fromhex(certificate)).decode().rstrip("=")
        claims = {
            "iss": self.issuer,
            "aud": self.issuer,
            "sub": "organisations/aaaaaaaaaaaaaaaaaaaaaaaaaa",
            "client_id": "test",
            "scope": "messages.read messages.send",
            "iat": now,
            "exp": now + 300,
            "jti": str(uuid.uuid4()),
            "cnf": {"x5t#S256": thumbprint, "x5t_hex": certificate},
        }
        claims = {name: value for name, value in (claims | changes).items() if value is not None}
        header = {"typ": "at+jwt", "kid": self.kid} | (headers or {})
        return jwt.encode(claims, self.key, algorithm="ES256", headers=header)

    def public_pem(self) -> bytes:
        """The public key, for tries to use it as a shared secret."""
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def unsigned(token: str) -> str:
    """The same claims under `alg` none, without a signature."""
    claims = token.split(".")[1]
    header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt"}').decode().rstrip("=")
    return f"{header}.{claims}."


def keyed(token: str, secret: bytes) -> str:
    """The same claims signed by HS256 with a public key as the secret (algorithm confusion)."""
    import hashlib
    import hmac

    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).decode().rstrip("=")

    header = part(
        json.dumps({"alg": "HS256", "typ": "at+jwt", "kid": jwt.get_unverified_header(token)["kid"]}).encode()
    )
    signed = f"{header}.{token.split('.')[1]}"
    return f"{signed}.{part(hmac.digest(secret, signed.encode(), hashlib.sha256))}"
