"""Token exchange with the tokens, providers and mandates that it needs (RFC 8693). The rules are in `exchange.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from solmu.authorisations.v1 import checks_pb2
from solmu.authorisations.v1.parties_pb2 import AssuranceLevel, Party

from services.authorisations import exchange
from services.authorisations.clients import Client
from services.authorisations.exchange import Representation, Support
from services.authorisations.grants import Basis
from services.authorisations.identity_providers import IdentityProviders
from services.runtime.errors import Fault, Unauthenticated, Unavailable
from services.runtime.identity import ASSURANCE_LEVELS, TokenVerifier

Check = Callable[[checks_pb2.CheckRequest], Awaitable[checks_pb2.CheckResponse]]
"""`CheckService.Check`; raises Fault."""


class Exchanger:
    """Finds what an exchanged token stands on. `check` None: the node judges no mandates, and gives no such tokens."""

    def __init__(
        self,
        *,
        providers: IdentityProviders,
        verifier: TokenVerifier,
        check: Check | None,
        issuer: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._providers = providers
        self._verifier = verifier
        self._check = check
        self._issuer = issuer
        self._clock = clock

    async def basis(self, asked: exchange.Asked, client: Client, *, certificate_sha256: str) -> Basis:
        """What a subject token lets this client have.

        Raises InvalidArgument, as `exchange` says, and Unavailable where it
        cannot be known now whether a mandate holds. The caller must still see to
        it that the subject token has not been taken back.
        """
        exchange.examine(asked, audience=self._issuer)
        if asked.subject_token_type == exchange.ID_TOKEN:
            return self._person(asked, client)
        return await self._on_behalf(asked, client, certificate_sha256)

    async def in_force(self, claims: Mapping[str, Any]) -> bool:
        """Whether what a token of this node rests on still allows it; true where it rests on no mandate."""
        if "act" not in claims:
            return True
        [detail] = claims["authorization_details"]
        specifier = detail.get("specifier", "")
        wanted = Representation(principal=claims["sub"], theme=detail["theme"], specifier=specifier)
        return await self._support(wanted, actor=claims["act"]["sub"], acr=claims.get("acr", "")) is not None

    def _person(self, asked: exchange.Asked, client: Client) -> Basis:
        person = self._providers.person(asked.subject_token, client_id=client.client_id, now=self._clock())
        claims: dict[str, Any] = {"sub": person.party}
        if person.acr:
            claims["acr"] = person.acr
        if person.auth_time is not None:
            claims["auth_time"] = person.auth_time
        return Basis(scopes=frozenset(client.scopes), claims=claims, expires=person.expires)

    async def _on_behalf(self, asked: exchange.Asked, client: Client, certificate_sha256: str) -> Basis:
        wanted = exchange.representation(asked.authorization_details)
        if not client.may_ask_about(wanted.theme):
            raise exchange.unsupported()
        try:
            subject = await self._verifier.verify(asked.subject_token, certificate_sha256)
        except Unauthenticated:
            raise exchange.refused() from None
        actor = exchange.actor(subject, client_id=client.client_id)
        support = await self._support(wanted, actor=actor, acr=subject.get("acr", ""))
        if support is None:
            raise exchange.unsupported()
        ends = [subject["exp"], *([int(support.expires.timestamp())] if support.expires else [])]
        known = {name: subject[name] for name in ("acr", "auth_time") if name in subject}
        return Basis(
            scopes=frozenset(client.scopes) & frozenset(subject["scope"].split()),
            claims=known | exchange.on_behalf(wanted, support, actor=actor),
            expires=min(ends),
            origin=subject["jti"],
        )

    async def _support(self, wanted: Representation, *, actor: str, acr: str) -> Support | None:
        """On what the right to act rests, or None where there is none. `acr` says how surely the actor is known."""
        if self._check is None or actor == wanted.principal:
            return None
        level = AssuranceLevel.ValueType(ASSURANCE_LEVELS.get(acr, AssuranceLevel.ASSURANCE_LEVEL_UNSPECIFIED))
        try:
            answer = await self._check(
                checks_pb2.CheckRequest(
                    delegate=Party(name=actor),
                    principal=Party(name=wanted.principal),
                    theme=wanted.theme,
                    specifier=wanted.specifier,
                    assurance_level=level,
                )
            )
        except Unavailable:
            raise
        except Fault:  # such as a theme that is not there: nothing in it is allowed
            return None
        # The check compares no level where it is given none; who is not known at all is not known surely enough.
        # Levels are of persons: an organisation's system is known by its certificate.
        unsure = actor.startswith("persons/") and level < answer.needed_assurance_level
        if answer.decision != checks_pb2.DECISION_ALLOWED or unsure:
            return None
        return Support(
            mandates=tuple(answer.mandates),
            through=answer.through.name,
            expires=answer.expire_time.ToDatetime(UTC) if answer.HasField("expire_time") else None,
            consistency_token=answer.consistency_token,
        )
