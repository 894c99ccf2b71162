"""Who calls the OAuth endpoints: a client, proven by what it showed.

One procedure for the token, introspection and revocation endpoints: the
certificate of the connection (RFC 8705, section 2.1), and where the client is
registered for it also an assertion (RFC 7523).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from services.authorisations import assertions, store, token_store
from services.authorisations.assertions import NotProven
from services.authorisations.clients import Authentication, Client
from services.runtime.database import Database
from services.runtime.errors import InvalidArgument, Unauthenticated


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What came with a call."""

    client_id: str
    """As sent; may be empty beside an assertion."""
    certificate_uris: tuple[str, ...]
    """The URIs in the client's certificate, as the edge verified it."""
    assertion_type: str
    assertion: str


class Authenticator:
    """Finds and proves clients. `issuer` is whom their assertions must be for."""

    def __init__(self, *, database: Database, issuer: str, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._issuer = issuer
        self._clock = clock

    async def client(self, shown: Shown) -> Client:
        """The client that called.

        Raises InvalidArgument, OAUTH_INVALID_REQUEST, where it does not say who
        it is; Unauthenticated, OAUTH_INVALID_CLIENT, the same for an unknown, a
        revoked and an unproven client. Does not check the certificate itself:
        chain, dates and revocation are the edge's.
        """
        try:
            client = await store.find(self._database, _named(shown))
            await self._prove(client, shown)
        except NotProven:
            raise Unauthenticated(
                "OAUTH_INVALID_CLIENT", "the client is unknown, or what it showed does not prove it"
            ) from None
        assert client is not None
        return client

    async def _prove(self, client: Client | None, shown: Shown) -> None:
        # 1. It is registered, and not revoked.
        if client is None or not client.active:
            raise NotProven("there is no such client")
        # 2. RFC 8705, 2.1.2: the certificate carries the URI that is registered.
        if client.certificate_uri not in shown.certificate_uris:
            raise NotProven("the certificate is another's")
        # 3. RFC 6749, 2.3: it uses the method that it is registered for, and no other.
        if client.authentication is Authentication.TLS:
            if shown.assertion or shown.assertion_type:
                raise NotProven("it is registered for its certificate alone")
            return
        # 4. RFC 7521, 4.2: the assertion is of the type that this is about.
        if shown.assertion_type != assertions.ASSERTION_TYPE or not shown.assertion:
            raise NotProven("it is registered for assertions")
        used = assertions.verify(
            shown.assertion,
            jwks=client.jwks,
            client_id=client.client_id,
            issuer=self._issuer,
            now=self._clock(),
        )
        # 5. RFC 7523, 3, item 7: for the first time. Only what verifies is remembered.
        if not await token_store.use_assertion(self._database, client.client_id, jti=used.jti, until=used.until):
            raise NotProven("it has been used before")


_CLIENT_ID = re.compile(r"[a-z][a-z0-9-]{1,61}[a-z0-9]")


def _named(shown: Shown) -> str:
    """Who the client says it is. RFC 7521, section 4.2: a client id beside an assertion must be the assertion's."""
    if not shown.assertion and not shown.client_id:
        raise InvalidArgument("OAUTH_INVALID_REQUEST", "the client id is missing", parameter="client_id")
    name = assertions.subject(shown.assertion) if shown.assertion else shown.client_id
    if shown.client_id not in ("", name):
        raise NotProven("the assertion is another client's")
    if not _CLIENT_ID.fullmatch(name):
        raise NotProven("no client has such an id")
    return name
