"""Keys in a token behind PKCS #11 (OASIS PKCS #11 v2.40): made there, used there, never anywhere else.

A key of a token is a private key like any other to whoever signs with it; what
would take its secret out is refused. `python-pkcs11` is the optional extra
`pkcs11`, and this module is imported where a token is set only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters
from pkcs11.util.rsa import encode_rsa_public_key

from services.exchange.evidence.signatures import MIN_RSA_BITS, Algorithm, PrivateKey
from services.runtime.errors import Unavailable
from services.runtime.keys.session import Session, TokenAway

CURVES = {Algorithm.ECDSA_P256_SHA256: "secp256r1", Algorithm.ECDSA_P384_SHA384: "secp384r1"}

GUARDED = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}


class Token:
    """A token: the library of its maker, its label, and a file with the user's PIN.

    All of it raises Unavailable, KEY_TOKEN_UNAVAILABLE, where the token cannot be used.
    """

    def __init__(self, module: Path, label: str, pin: Path) -> None:
        self.module, self.label, self.pin = module, label, pin
        self._held = Session(module, label, pin)

    def describe(self) -> str:
        """Maker and model, as it says itself."""
        with self._session() as session:
            return f"{session.token.manufacturer_id} {session.token.model}"

    def generate(self, algorithm: Algorithm, key_id: bytes) -> PrivateKey:
        """Makes a key, to be found again by its id."""
        named: dict[str, Any] = {"id": key_id, "label": key_id.hex(), "store": True, "private_template": GUARDED}
        with self._session() as session:
            if algorithm is Algorithm.RSA_PKCS1_SHA256:
                session.generate_keypair(KeyType.RSA, MIN_RSA_BITS, **named)
            else:
                curve = {Attribute.EC_PARAMS: encode_named_curve_parameters(CURVES[algorithm])}
                session.create_domain_parameters(KeyType.EC, curve, local=True).generate_keypair(**named)
        return self.key(key_id)

    def key(self, key_id: bytes) -> PrivateKey:
        """The key of an id."""
        with self._session() as session:
            public = session.get_key(object_class=ObjectClass.PUBLIC_KEY, id=key_id)
            encode = encode_rsa_public_key if public.key_type is KeyType.RSA else encode_ec_public_key
            loaded = load_der_public_key(encode(public))
        if isinstance(loaded, rsa.RSAPublicKey):
            return _TokenRsaKey(self, key_id, loaded)
        assert isinstance(loaded, ec.EllipticCurvePublicKey)
        return _TokenEcKey(self, key_id, loaded)

    def destroy(self, key_id: bytes) -> None:
        """Erases a key."""
        with self._session() as session:
            for each in list(session.get_objects({Attribute.ID: key_id})):
                each.destroy()

    def sign(self, key_id: bytes, content: bytes, mechanism: Mechanism) -> bytes:
        """The token's own form of a signature: of ECDSA r and s, one after the other."""
        with self._session() as session:
            key = session.get_key(object_class=ObjectClass.PRIVATE_KEY, id=key_id)
            return bytes(key.sign(content, mechanism=mechanism))

    def close(self) -> None:
        """Ends the log-in: the next use begins anew."""
        self._held.close()

    @contextmanager
    def _session(self) -> Iterator[Any]:
        try:
            with self._held.use() as session:
                yield session
        except TokenAway:
            raise Unavailable(
                "KEY_TOKEN_UNAVAILABLE", "the token, or its key, cannot be used", token=self.label
            ) from None


class _Secret:
    """What a key of a token does not give away."""

    def private_numbers(self) -> NoReturn:
        raise _refused()

    def private_bytes(self, *_: object, **__: object) -> NoReturn:
        raise _refused()

    def exchange(self, *_: object) -> NoReturn:
        raise _refused()

    def decrypt(self, *_: object) -> NoReturn:
        raise _refused()

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, _: object) -> Any:
        return self


class _TokenEcKey(_Secret, ec.EllipticCurvePrivateKey):
    """An ECDSA key. `sign` takes the digest here: tokens sign what they are given."""

    def __init__(self, token: Token, key_id: bytes, public: ec.EllipticCurvePublicKey) -> None:
        self._token, self._id, self._public = token, key_id, public

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def sign(self, data: Any, signature_algorithm: Any) -> bytes:
        digest = hashes.Hash(signature_algorithm.algorithm)
        digest.update(data)
        value = self._token.sign(self._id, digest.finalize(), Mechanism.ECDSA)
        half = len(value) // 2
        return encode_dss_signature(int.from_bytes(value[:half], "big"), int.from_bytes(value[half:], "big"))


class _TokenRsaKey(_Secret, rsa.RSAPrivateKey):
    """An RSA key, for PKCS #1 v1.5 with SHA-256 alone."""

    def __init__(self, token: Token, key_id: bytes, public: rsa.RSAPublicKey) -> None:
        self._token, self._id, self._public = token, key_id, public

    def public_key(self) -> rsa.RSAPublicKey:
        return self._public

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def sign(self, data: Any, padding: Any, algorithm: Any) -> bytes:
        if padding.name != "EMSA-PKCS1-v1_5" or not isinstance(algorithm, hashes.SHA256):
            raise _refused()
        return self._token.sign(self._id, bytes(data), Mechanism.SHA256_RSA_PKCS)


def _refused() -> TypeError:
    return TypeError("a key of a token signs there, and does nothing else")
