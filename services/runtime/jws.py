"""Signed tokens and the keys that verify them, read strictly (RFC 7515, 7517, 7519).

PyJWT verifies signatures. What it leaves to its caller is done here, in one
place for every kind of token:

1. three parts of canonical base64url: no padding, no stray characters or bits
   (RFC 7515, section 2);
2. header and claims are JSON objects in which no member stands twice (RFC 7515,
   section 4; RFC 7519, section 4), and no extension is critical (`crit`, `b64`);
3. the key is one of ours, found by `kid`; a key that the token brings along or
   points to (`jwk`, `jku`, `x5c`, `x5u`) is never looked at;
4. the key is for this: `kty`, `crv`, `use`, `key_ops` and `alg` (RFC 7517,
   section 4), public, and large enough (RFC 7518, section 3.3);
5. the token's algorithm is the key's; the token does not choose it.

What remains for the caller: the type in the header, and every claim.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

ES256 = "ES256"
PS256 = "PS256"
EDDSA = "EdDSA"
RS256 = "RS256"

MIN_RSA_BITS = 2048
"""RFC 7518, section 3.3."""

MIN_RSA_EXPONENT = 65537
"""FIPS 186-5, section 5.1; with 1 everybody can sign."""

LAST_INSTANT = 2**36
"""Seconds since 1970, some two thousand years on: times in claims from there on overflow the calendar."""

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+")
_ALGORITHMS: Mapping[tuple[object, object], tuple[str, ...]] = {
    ("EC", "P-256"): (ES256,),
    ("OKP", "Ed25519"): (EDDSA,),
    ("RSA", None): (RS256, PS256),
}
"""What a key of each kind can do; the first where the key does not say (`alg` is optional in a JWK)."""

_ROCA = {
    prime: frozenset(pow(65537, exponent, prime) for exponent in range(prime))
    for prime in (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)
}
"""A weak modulus is a power of 65537 by each of these primes; one in some hundred million others is too."""

_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_JWS = jwt.PyJWS(algorithms=[ES256, PS256, EDDSA, RS256])

Keys = Mapping[str, jwt.PyJWK]
"""Verification keys by key id, each with its one algorithm (`algorithm_name`)."""


class JwsError(ValueError):
    """It is not a signed token, or not by one of the keys. The text does not quote it."""


class JwkError(ValueError):
    """The key is not one, or not for this. The text does not quote it."""


def header(token: str) -> dict[str, Any]:
    """The header of a token whose signature has not been verified. Raises JwsError."""
    if not _COMPACT.fullmatch(token):
        raise JwsError("it is not a JWS in compact form")
    try:
        members = strict_object(jwt.utils.base64url_decode(token.partition(".")[0]))
    except ValueError:
        raise JwsError("its header is not a JSON object with each member once") from None
    if "crit" in members or "b64" in members:
        raise JwsError("it has extensions that must be understood")
    return members


def unverified(token: str) -> bytes:
    """The content of a token, unverified: to find out whose keys are to verify it. Raises JwsError."""
    header(token)
    try:
        content: bytes = jwt.utils.base64url_decode(token.split(".")[1])
    except ValueError:
        raise JwsError("its content is not base64url") from None
    return content


def payload(token: str, keys: Keys) -> bytes:
    """The content of a token, once its signature has been verified with the key that it names. Raises JwsError."""
    members = header(token)
    key_id = members.get("kid")
    if not isinstance(key_id, str) or key_id not in keys:
        raise JwsError("it is signed with an unknown key")
    key = keys[key_id]
    if members.get("alg") != key.algorithm_name:
        raise JwsError("its algorithm is not the key's")
    try:
        content: bytes = _JWS.decode(token, key, algorithms=[key.algorithm_name])
    except (jwt.PyJWTError, ValueError):
        raise JwsError("its signature does not verify") from None
    return content


def claims(token: str, keys: Keys) -> dict[str, Any]:
    """The claims of a JWT, once its signature has been verified. Raises JwsError."""
    try:
        return strict_object(payload(token, keys))
    except JwsError:
        raise
    except ValueError:
        raise JwsError("its claims are not a JSON object with each member once") from None


def key(jwk: object, algorithms: Collection[str]) -> tuple[str, jwt.PyJWK]:
    """The id and the key of a JWK that may verify by one of these algorithms. Raises JwkError."""
    if not isinstance(jwk, dict):
        raise JwkError("it is not an object")
    if not isinstance(jwk.get("kid"), str) or not jwk["kid"]:
        raise JwkError("it has no kid")
    if _PRIVATE & jwk.keys():
        raise JwkError("it is not public")
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise JwkError("it is not for verifying")
    kind = jwk.get("kty"), jwk.get("crv")
    possible = _ALGORITHMS.get(kind, ()) if all(part is None or isinstance(part, str) for part in kind) else ()
    algorithm = jwk.get("alg", possible[0] if possible else None)
    if algorithm not in possible or algorithm not in algorithms:
        raise JwkError("its kty, crv or alg is none that is taken here")
    try:
        read = jwt.PyJWK(jwk, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        raise JwkError("it is malformed") from None
    if kind[0] == "RSA":
        _check_rsa(read.key.public_numbers())
    return jwk["kid"], read


def _check_rsa(numbers: RSAPublicNumbers) -> None:
    if numbers.n.bit_length() < MIN_RSA_BITS:
        raise JwkError(f"it has fewer than {MIN_RSA_BITS} bits")
    if numbers.e < MIN_RSA_EXPONENT:
        raise JwkError("its public exponent is too small")
    if all(numbers.n % prime in powers for prime, powers in _ROCA.items()):
        raise JwkError("it was made by a generator whose keys can be factored (CVE-2017-15361)")


def keys_of(jwks: str | bytes, algorithms: Collection[str]) -> dict[str, jwt.PyJWK]:
    """The keys of a JSON Web Key Set that may verify by these algorithms.

    The others are left out (RFC 7517, section 5). Raises ValueError where it is
    no key set, or two of its keys have one id.
    """
    listed = strict_object(jwks).get("keys")
    if not isinstance(listed, list):
        raise ValueError("it is not a key set")  # noqa: TRY004 - of the content, not of the argument
    found: dict[str, jwt.PyJWK] = {}
    for each in listed:
        try:
            key_id, read = key(each, algorithms)
        except JwkError:
            continue
        if key_id in found:
            raise ValueError("two keys have one kid")
        found[key_id] = read
    return found


def strict_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object in which no member stands twice, at any depth. Raises ValueError."""
    try:
        value = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is too deep") from None
    if not isinstance(value, dict):
        raise ValueError("it is not an object")  # noqa: TRY004 - of the content, not of the argument
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member stands twice")
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
