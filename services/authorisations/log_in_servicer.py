"""LogInService: people log in at an identity provider, on behalf of a client."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from solmu.authorisations.v1 import log_in_pb2
from solmu.authorisations.v1.audit_pb2 import AuditRecord
from solmu.authorisations.v1.parties_pb2 import Party
from solmu.types.v1.types_pb2 import Actor

from services.authorisations import log_in_store, log_ins, messages, translate
from services.authorisations.audit_log import AuditLog
from services.authorisations.authentication import Authenticator
from services.authorisations.identity_providers import IdentityProviders, Person, Refused
from services.authorisations.log_ins import LogIn
from services.authorisations.provider_file import Provider
from services.authorisations.relying_party import RelyingParty
from services.runtime import pages
from services.runtime.database import Database

_FINISH = f"{log_in_pb2.DESCRIPTOR.package}.LogInService/FinishLogIn"


class LogInServicer:
    """Answers LogInService. `issuer` is the edge's origin, and says to clients whose answer it is."""

    def __init__(
        self,
        *,
        database: Database,
        authenticator: Authenticator,
        providers: IdentityProviders,
        relying_party: RelyingParty,
        audit: AuditLog,
        issuer: str,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID],
    ) -> None:
        self._database = database
        self._authenticator = authenticator
        self._providers = providers
        self._relying_party = relying_party
        self._audit = audit
        self._issuer = issuer
        self._clock = clock
        self._new_id = new_id

    async def PushLogIn(self, request: log_in_pb2.PushLogInRequest) -> log_in_pb2.PushLogInResponse:
        """Keeps the parameters of a log-in for the browser that will come."""
        client = await self._authenticator.client(translate.shown(request))
        log_in = log_ins.pushed(
            translate.pushed(request),
            client,
            providers=list(self._for_log_in()),
            log_in=self._new_id(),
            now=self._clock(),
        )
        reference = secrets.token_urlsafe(32)
        await log_in_store.push(self._database, log_in, reference=reference)
        lifetime = int(log_ins.REQUEST_LIFETIME.total_seconds())
        return log_in_pb2.PushLogInResponse(request_uri=log_ins.REQUEST_PREFIX + reference, expires_in=lifetime)

    async def StartLogIn(self, request: log_in_pb2.StartLogInRequest) -> log_in_pb2.StartLogInResponse:
        """Sends the browser on to the provider."""
        reference = request.request_uri.removeprefix(log_ins.REQUEST_PREFIX)
        log_in = await log_in_store.waiting(self._database, reference, client_id=request.client_id, now=self._clock())
        if log_in is None:
            raise log_ins.unknown()
        state, secret = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        location = await self._relying_party.begin(self._provider(log_in), log_in, state=state, secret=secret)
        now = self._clock()
        until = now + log_ins.LOG_IN_LIFETIME
        if not await log_in_store.start(
            self._database, log_in.log_in, state=state, browser=secret, now=now, until=until
        ):
            raise log_ins.unknown()
        return log_in_pb2.StartLogInResponse(
            location=location, browser_secret=secret, expire_time=messages.timestamp(until), state=state
        )

    async def FinishLogIn(self, request: log_in_pb2.FinishLogInRequest) -> log_in_pb2.FinishLogInResponse:
        """Takes the browser back and sends it on to the client, with a code or with the error."""
        log_in = await log_in_store.come_back(
            self._database, state=request.state, browser=request.browser_secret, now=self._clock()
        )
        if log_in is None:
            raise log_ins.unknown()
        try:
            person = await self._person(request, log_in)
        except Refused as refusal:
            await self._audit.record([_record(log_in, refusal=refusal.error)])
            location = log_ins.back(log_in, issuer=self._issuer, error=refusal.error)
            return log_in_pb2.FinishLogInResponse(location=location)
        code, until = secrets.token_urlsafe(32), self._clock() + log_ins.CODE_LIFETIME
        async with self._database.transaction() as transaction:
            await log_in_store.finish(transaction, log_in.log_in, person, code=code, until=until)
            await self._audit.record([_record(log_in, party=person.party)], writer=transaction)
        return log_in_pb2.FinishLogInResponse(location=log_ins.back(log_in, issuer=self._issuer, code=code))

    async def ListIdentityProviders(
        self, request: log_in_pb2.ListIdentityProvidersRequest
    ) -> log_in_pb2.ListIdentityProvidersResponse:
        """Lists the providers at which people log in."""
        size, question = pages.size(request.page_size), "identity providers"
        after = pages.key(request.page_token, question=question)
        listed = self._for_log_in()
        names = list(listed)
        first = names.index(after) + 1 if after in listed else 0
        shown = names[first : first + size]
        more = len(names) > first + size
        return log_in_pb2.ListIdentityProvidersResponse(
            identity_providers=[translate.identity_provider(listed[name]) for name in shown],
            next_page_token=pages.token(shown[-1], question=question) if more else "",
        )

    async def _person(self, request: log_in_pb2.FinishLogInRequest, log_in: LogIn) -> Person:
        """Who comes back. Raises Refused."""
        provider, secret = self._for_log_in().get(log_in.provider), request.browser_secret
        if provider is None:  # it was taken out of the settings meanwhile
            raise Refused("access_denied")
        id_token = await self._relying_party.id_token(
            provider, iss=request.iss, code=request.code, error=request.error, secret=secret
        )
        return self._providers.logged_in(
            id_token,
            provider,
            nonce=self._relying_party.nonce(secret),
            acr_values=log_in.acr_values,
            since=self._relying_party.since(log_in),
            now=self._clock(),
        )

    def _provider(self, log_in: LogIn) -> Provider:
        try:
            return self._for_log_in()[log_in.provider]
        except KeyError:
            raise log_ins.unknown() from None

    def _for_log_in(self) -> dict[str, Provider]:
        return {provider.log_in.name: provider for provider in self._providers.for_log_in() if provider.log_in}


def _record(log_in: LogIn, *, party: str = "", refusal: str = "") -> AuditRecord:
    return AuditRecord(
        kind=AuditRecord.KIND_LOG_IN,
        actor=Actor(party=party, client=f"clients/{log_in.client_id}"),
        method=_FINISH,
        resource=log_in.provider,
        parties=[Party(name=party)] if party else [],
        refusal=refusal,
    )
