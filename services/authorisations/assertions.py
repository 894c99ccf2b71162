"""Client assertions: JWTs by which clients prove who they are (RFC 7523, section 2.2; FAPI 2.0 Security Profile).

`private_key_jwt` is never alone here: the certificate of the connection must be
the client's too, so neither a stolen key nor a stolen certificate is enough.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from services.runtime import jws
from services.runtime.errors import InvalidArgument

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

ALGORITHMS = (jws.PS256, jws.ES256, jws.EDDSA)
"""FAPI 2.0 Security Profile, section 5.4.1."""

TYPES = ("jwt", "client-authentication+jwt")
"""What `typ` may be where it is given (draft-ietf-oauth-rfc7523bis); no other kind of token is an assertion."""

MAX_LIFETIME = 300
"""Seconds between making and expiry. Each is used once, at once; a longer one would only be worth stealing."""

MAX_AHEAD = 60
"""Seconds that a client's clock may be ahead: FAPI 2.0 has 10 accepted and more than 60 refused."""

MAX_BEHIND = 10
"""Seconds that an assertion may have expired, for clocks that are behind."""

MAX_JTI_CHARACTERS = 255

MAX_KEYS = 16
"""Keys of one client: a few algorithms, in the middle of a rotation."""


class NotProven(ValueError):
    """The assertion proves nothing. Says why, for tests and not for callers."""


@dataclass(frozen=True)
class Used:
    """What of a verified assertion must be remembered so that it works once."""

    jti: str
    until: datetime
    """After this it is refused for its age."""


def subject(assertion: str) -> str:
    """The client that an assertion speaks of, before anything of it is verified. Raises NotProven."""
    try:
        claims = jws.strict_object(jws.unverified(assertion))
    except ValueError as error:
        raise NotProven(str(error)) from None
    name = claims.get("sub")
    if not isinstance(name, str):
        raise NotProven("it has no subject")
    return name


def verify(assertion: str, *, jwks: str, client_id: str, issuer: str, now: datetime) -> Used:
    """Verifies that the client made this assertion for this node, now. Raises NotProven.

    The caller must still refuse one whose `jti` the client has used before.
    """
    # 1. RFC 7515, 5.2: signed with a registered key, by that key's algorithm.
    try:
        kind = jws.header(assertion).get("typ", TYPES[0])
        claims = jws.claims(assertion, jws.keys_of(jwks, ALGORITHMS))
    except ValueError as error:
        raise NotProven(str(error)) from None
    # 2. RFC 8725, 3.11: not a token that was made for something else.
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise NotProven("it is of another type")
    # 3. RFC 7523, 3, items 1 and 2: by the client, about the client.
    if claims.get("iss") != client_id or claims.get("sub") != client_id:
        raise NotProven("issuer and subject are not the client")
    # 4. RFC 7523, 3, item 3; FAPI 2.0, 5.3.2.1: the issuer as a string, and nothing else.
    if claims.get("aud") != issuer:
        raise NotProven("the audience is not the issuer alone")
    # 5. RFC 7523, 3, items 4 to 6: in force, and short.
    at = now.timestamp()
    expires = _instant(claims, "exp")
    if expires is None or expires + MAX_BEHIND <= at:
        raise NotProven("it has expired, or never does")
    made = _instant(claims, "iat")
    if expires > at + MAX_LIFETIME + MAX_AHEAD or (made is not None and expires > made + MAX_LIFETIME):
        raise NotProven("it is good for too long")
    if any(begin is not None and begin > at + MAX_AHEAD for begin in (made, _instant(claims, "nbf"))):
        raise NotProven("it is not good yet")
    # 6. RFC 7523, 3, item 7: has an id by which its reuse is seen.
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 1 <= len(jti) <= MAX_JTI_CHARACTERS or not jti.isprintable():
        raise NotProven("it has no id")
    return Used(jti, datetime.fromtimestamp(expires + MAX_BEHIND, UTC))


def key_set(text: str) -> str:
    """A client's public keys as they are kept. Empty for none. Raises InvalidArgument, KEY_SET_INVALID."""
    if not text:
        return ""
    try:
        keys = jws.strict_object(text).get("keys")
    except ValueError:
        keys = None
    if not isinstance(keys, list) or not 1 <= len(keys) <= MAX_KEYS:
        raise _invalid(f"it is not a JSON Web Key Set of 1 to {MAX_KEYS} keys")
    ids = set()
    for number, each in enumerate(keys):
        try:
            key_id, _ = jws.key(each, ALGORITHMS)
        except jws.JwkError as error:
            raise _invalid(f"keys[{number}]: {error}") from None
        if each.get("use") != "sig" or "alg" not in each:
            raise _invalid(f"keys[{number}]: it does not say its use and alg")
        if key_id in ids:
            raise _invalid(f"keys[{number}]: its kid is another key's too")
        ids.add(key_id)
    return json.dumps({"keys": keys}, separators=(",", ":"))


def _invalid(defect: str) -> InvalidArgument:
    return InvalidArgument("KEY_SET_INVALID", "the key set cannot be taken", violations=[("client.jwks", defect)])


def _instant(claims: dict[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519, section 2), or None where it is left out. Raises NotProven."""
    if name not in claims:
        return None
    value = claims[name]
    if type(value) not in (int, float) or not abs(value) < jws.LAST_INSTANT:
        raise NotProven(f"{name} is not a time")
    return float(value)
