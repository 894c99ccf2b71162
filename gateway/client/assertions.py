"""Client assertions: how a client that is registered for `private_key_jwt` proves itself (RFC 7523, FAPI 2.0).

The certificate of the connection has to be the client's too.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping

import jwt

from gateway.client.profile import Profile, ProfileError

TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

SECONDS = 60
"""Life of an assertion, in seconds: each is used once, at once."""


def of(profile: Profile) -> Mapping[str, str]:
    """A fresh assertion as parameters of a form; none for a profile without a key. Raises ProfileError.

    The key is read each time, so a new one needs no restart.
    """
    if profile.assertion_key is None:
        return {}
    try:
        key = json.loads(profile.assertion_key.read_text(encoding="utf-8"))
        private, headers = jwt.PyJWK(key, key["alg"]), {"kid": key["kid"], "typ": "client-authentication+jwt"}
        now = int(time.time())
        claims = {
            "iss": profile.client_id,
            "sub": profile.client_id,
            "aud": profile.edge,
            "jti": str(uuid.uuid4()),
            "iat": now,
            "exp": now + SECONDS,
        }
        assertion = jwt.encode(claims, private.key, private.algorithm_name, headers=headers)
    except OSError as error:
        raise ProfileError(f"cannot read the assertion key {profile.assertion_key}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError):
        raise ProfileError(f"{profile.assertion_key} is not a private JWK with kid and alg") from None
    return {"client_assertion_type": TYPE, "client_assertion": assertion}
