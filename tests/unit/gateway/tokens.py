"""Access tokens and key sets for tests: right ones, and those with one thing wrong."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.unit.gateway.pki import Pair


class Issuer:
    """Signs tokens as the authorisations service does."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.key = ec.generate_private_key(ec.SECP256R1())
        numbers = self.key.public_key().public_numbers()
        public = {"crv": "P-256", "kty": "EC", "x": _b64(numbers.x.to_bytes(32)), "y": _b64(numbers.y.to_bytes(32))}
        thumbprint = hashlib.sha256(json.dumps(public, sort_keys=True, separators=(",", ":")).encode()).digest()
        self.jwk = {**public, "kid": _b64(thumbprint), "use": "sig", "alg": "ES256"}

    @property
    def jwks(self) -> str:
        return json.dumps({"keys": [self.jwk]})

    def token(
        self,
        certificate: Pair,
        *,
        scope: str = "parcels.read parcels.write",
        header: dict[str, Any] | None = None,
        without: tuple[str, ...] = (),
        **claims: Any,
    ) -> str:
        """A token bound to the certificate; `claims`, `header` and `without` make it another one."""
        now = int(time.time())
        digest = certificate.sha256
        payload = {
            "iss": self.origin,
            "aud": self.origin,
            "sub": "organisations/aaaaaaaaaaaaaaaaaaaaaaaaaa",
            "client_id": "alice",
            "scope": scope,
            "iat": now,
            "exp": now + 300,
            "jti": "token-of-a-test",
            "cnf": {"x5t#S256": _b64(bytes.fromhex(digest)), "x5t_hex": digest},
            **claims,
        }
        for name in without:
            del payload[name]
        return jwt.encode(
            payload, self.key, "ES256", headers={"kid": self.jwk["kid"], "typ": "at+jwt", **(header or {})}
        )

    def unsigned(self, certificate: Pair) -> str:
        """A token with `alg` none."""
        return self._by_hand(certificate, "none", lambda _: b"")

    def keyed_with_the_public_key(self, certificate: Pair) -> str:
        """A token with `alg` HS256 whose secret is what everybody knows (CVE-2015-9235)."""
        secret = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return self._by_hand(certificate, "HS256", lambda text: hmac.digest(secret, text, "sha256"))

    def _by_hand(self, certificate: Pair, algorithm: str, sign: Callable[[bytes], bytes]) -> str:
        payload = self.token(certificate).split(".")[1]
        header = _b64(json.dumps({"alg": algorithm, "kid": self.jwk["kid"], "typ": "at+jwt"}).encode())
        text = f"{header}.{payload}"
        return f"{text}.{_b64(sign(text.encode()))}"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
