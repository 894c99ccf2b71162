"""TokenService and KeyService: access tokens from issue to revocation, and the keys that verify them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from solmu.authorisations.v1 import tokens_pb2

from services.authorisations import events, exchange, grants, log_in_store, log_ins, token_store, translate
from services.authorisations.audit_log import AuditLog
from services.authorisations.authentication import Authenticator
from services.authorisations.clients import Client
from services.authorisations.exchange import TOKEN_EXCHANGE
from services.authorisations.exchanger import Exchanger
from services.authorisations.grants import Basis
from services.authorisations.keyring import KeyRing
from services.runtime.database import Database
from services.runtime.errors import Fault, InvalidArgument, Unauthenticated
from services.runtime.identity import TokenVerifier
from services.runtime.outbox import Outbox
from services.runtime.revocations import Revocations

LONGEST = timedelta(seconds=grants.TOKEN_LIFETIME)


class TokenServicer:
    """Answers TokenService.

    `issuer` is the edge's origin, also the audience of every token. A token
    costs one query (two where the client proves itself by assertion), one entry
    of the record and one signature; clients are not cached, so a change or a
    revocation holds from the next token on.
    """

    def __init__(
        self,
        *,
        database: Database,
        outbox: Outbox,
        revocations: Revocations,
        authenticator: Authenticator,
        exchanger: Exchanger,
        verifier: TokenVerifier,
        keys: KeyRing,
        audit: AuditLog,
        issuer: str,
        clock: Callable[[], datetime],
        new_id: Callable[[], uuid.UUID],
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._revocations = revocations
        self._authenticator = authenticator
        self._keys = keys
        self._audit = audit
        self._exchanger = exchanger
        self._verifier = verifier
        self._issuer = issuer
        self._clock = clock
        self._new_id = new_id

    async def IssueToken(self, request: tokens_pb2.IssueTokenRequest) -> tokens_pb2.IssueTokenResponse:
        """Issues an access token to a client that is proven."""
        asked = translate.asked(request)
        grants.examine(asked, audience=self._issuer)
        client = await self._authenticator.client(translate.shown(request))
        try:
            claims = await self._claims(request, asked, client)
        except Fault as refusal:
            await self._audit.record([translate.token_record("IssueToken", client, refusal=refusal.reason)])
            raise
        await self._audit.record([translate.token_record("IssueToken", client, claims)])
        return translate.issued(claims, self._keys.sign(claims), exchanged=asked.grant_type == TOKEN_EXCHANGE)

    async def _claims(
        self, request: tokens_pb2.IssueTokenRequest, asked: grants.Asked, client: Client
    ) -> dict[str, Any]:
        """What a token for this client says. Raises Fault where there is none to be had."""
        certificate, token_id = request.certificate.sha256, self._new_id().urn
        if asked.grant_type == grants.CLIENT_CREDENTIALS:
            basis = grants.client_credentials(client)
        elif asked.grant_type == grants.AUTHORIZATION_CODE:
            basis = await self._redeem(request, client, token_id)
        else:
            asked_of_exchange = translate.exchanged(request)
            basis = await self._exchanger.basis(asked_of_exchange, client, certificate_sha256=certificate)
        claims = grants.access_token(
            client=client,
            basis=basis,
            scopes=grants.scopes(asked, basis),
            certificate_sha256=certificate,
            issuer=self._issuer,
            issued_at=int(self._clock().timestamp()),
            token_id=token_id,
        )
        if basis.origin:
            await self._keep(claims, basis.origin)
        return claims

    async def _redeem(self, request: tokens_pb2.IssueTokenRequest, client: Client, token_id: str) -> Basis:
        """What the code of a log-in is worth, once. Raises InvalidArgument, OAUTH_INVALID_GRANT.

        A code that its client shows again has been seen by somebody else: the
        token of its first use is taken back (RFC 6749, section 4.1.2).
        """
        now = self._clock()
        async with self._database.transaction() as transaction:
            log_in = await log_in_store.by_code(transaction, request.code)
            if log_in is None:
                raise log_ins.refused()
            again = log_in.token_id if log_in.client_id == client.client_id else ""
            if not again:
                uri, verifier = request.redirect_uri, request.code_verifier
                basis = log_ins.redeemed(log_in, client, redirect_uri=uri, code_verifier=verifier, now=now)
                await log_in_store.use(transaction, log_in.log_in, token_id=token_id)
                return basis
        await self._take_back({"jti": again, "sub": log_in.party}, client, until=now + LONGEST)
        raise log_ins.refused()

    async def _keep(self, claims: dict[str, Any], origin: str) -> None:
        """Notes what a token was exchanged from. Raises InvalidArgument where that has been taken back."""
        expires = datetime.fromtimestamp(claims["exp"], UTC)
        async with self._database.transaction() as transaction:
            if not await token_store.keep_exchanged(transaction, claims["jti"], origin=origin, expire_time=expires):
                raise exchange.refused()

    async def IntrospectToken(self, request: tokens_pb2.IntrospectTokenRequest) -> tokens_pb2.IntrospectTokenResponse:
        """Says whether a token of the client that asks is good, and what it holds."""
        client = await self._authenticator.client(translate.shown(request))
        claims = await self._good(request.token)
        # RFC 7662, 2.2 and 4: what is not this client's to know looks like what is not good.
        if (
            claims is None
            or claims["client_id"] != client.client_id
            or await token_store.refused(self._database, claims["jti"])
            or not await self._exchanger.in_force(claims)
        ):
            return tokens_pb2.IntrospectTokenResponse(active=False)
        return tokens_pb2.IntrospectTokenResponse(
            active=True, claims=json.dumps({**claims, "token_type": translate.BEARER})
        )

    async def RevokeToken(self, request: tokens_pb2.RevokeTokenRequest) -> tokens_pb2.RevokeTokenResponse:
        """Takes back a token and all that was exchanged from it: here at once, elsewhere by events."""
        client = await self._authenticator.client(translate.shown(request))
        claims = await self._good(request.token)
        if claims is None:  # RFC 7009, 2.2: what the client wants is the case already
            return tokens_pb2.RevokeTokenResponse()
        if claims["client_id"] != client.client_id:  # RFC 7009, 2.1
            raise InvalidArgument("OAUTH_INVALID_GRANT", "the token was issued to another client")
        await self._take_back(claims, client, until=datetime.fromtimestamp(claims["exp"], UTC))
        return tokens_pb2.RevokeTokenResponse()

    async def _take_back(self, claims: dict[str, Any], client: Client, *, until: datetime) -> None:
        async with self._database.transaction() as transaction:
            refused = await token_store.refuse_token(transaction, claims["jti"], expire_time=until)
            taken = [
                events.token_revoked(token_id, expire_time=until, now=self._clock()) for token_id, until in refused
            ]
            await self._outbox.append(transaction, taken)
            await self._audit.record([translate.token_record("RevokeToken", client, claims)], writer=transaction)
        self._outbox.wake()
        await self._revocations.look()

    async def _good(self, token: str) -> dict[str, Any] | None:
        """The claims of a token of this node that has not expired, or None."""
        try:
            return await self._verifier.claims(token)
        except Unauthenticated:
            return None


class KeyServicer:
    """Answers KeyService."""

    def __init__(self, *, keys: KeyRing) -> None:
        self._keys = keys

    async def GetKeySet(self, _: tokens_pb2.GetKeySetRequest) -> tokens_pb2.KeySet:
        """Returns every key that a verifier must accept."""
        return tokens_pb2.KeySet(jwks=await self._keys.key_set())
