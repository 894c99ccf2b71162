"""TokenService and KeyService: access tokens, and the keys that verify them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime

from solmu.authorisations.v1 import tokens_pb2

from services.authorisations import grants, translate
from services.authorisations.authentication import Authenticator
from services.authorisations.keyring import KeyRing

BEARER = "Bearer"
"""RFC 8705, section 3: a token that is bound to a certificate still travels as a bearer token."""


class TokenServicer:
    """Answers TokenService.

    `issuer` is the edge's origin, also the audience of every token. A token
    costs one query (two where the client proves itself by assertion) and one
    signature; clients are not cached, so a change or a revocation holds from the
    next token on.
    """

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        keys: KeyRing,
        issuer: str,
        clock: Callable[[], datetime],
        new_id: Callable[[], uuid.UUID],
    ) -> None:
        self._authenticator = authenticator
        self._keys = keys
        self._issuer = issuer
        self._clock = clock
        self._new_id = new_id

    async def IssueToken(self, request: tokens_pb2.IssueTokenRequest) -> tokens_pb2.IssueTokenResponse:
        """Issues an access token to a client that is proven."""
        asked = translate.asked(request)
        grants.examine(asked, audience=self._issuer)
        client = await self._authenticator.client(translate.shown(request))
        scopes = grants.client_credentials(asked, client)
        claims = grants.access_token(
            client=client,
            scopes=scopes,
            certificate_sha256=request.certificate.sha256,
            issuer=self._issuer,
            issued_at=int(self._clock().timestamp()),
            token_id=str(self._new_id()),
        )
        return tokens_pb2.IssueTokenResponse(
            access_token=self._keys.sign(claims),
            token_type=BEARER,
            expires_in=grants.TOKEN_LIFETIME,
            scope=claims["scope"],
        )


class KeyServicer:
    """Answers KeyService."""

    def __init__(self, *, keys: KeyRing) -> None:
        self._keys = keys

    async def GetKeySet(self, _: tokens_pb2.GetKeySetRequest) -> tokens_pb2.KeySet:
        """Returns every key that a verifier must accept."""
        return tokens_pb2.KeySet(jwks=await self._keys.key_set())
