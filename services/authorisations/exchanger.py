"""Token exchange with the tokens, providers and mandates that it needs (RFC 8693). The rules are in `exchange.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.authorisations import exchange
from services.authorisations.clients import Client
from services.authorisations.exchange import Representation, Support
from services.authorisations.grants import Basis
from services.authorisations.identity_providers import IdentityProviders
from services.runtime.errors import Unauthenticated
from services.runtime.identity import TokenVerifier


@dataclass(frozen=True, kw_only=True)
class Question:
    """Whether a party may act in another's name."""

    actor: str
    acr: str
    """How surely the actor is known: a value of `identity_providers.ASSURANCE`, or empty."""
    client_id: str
    """Through which client."""
    wanted: Representation


Mandates = Callable[[Question], Awaitable[Support | None]]
"""The mandate check: on what the right rests, or None where there is none. Raises Fault where it cannot be known."""


class Exchanger:
    """Finds what an exchanged token stands on. `mandates` None: this release judges none, and gives no such tokens."""

    def __init__(
        self,
        *,
        providers: IdentityProviders,
        verifier: TokenVerifier,
        mandates: Mandates | None,
        issuer: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._providers = providers
        self._verifier = verifier
        self._mandates = mandates
        self._issuer = issuer
        self._clock = clock

    async def basis(self, asked: exchange.Asked, client: Client, *, certificate_sha256: str) -> Basis:
        """What a subject token lets this client have. Raises InvalidArgument, as `exchange` says.

        The caller must still see to it that the subject token has not been
        taken back.
        """
        exchange.examine(asked, audience=self._issuer)
        if asked.subject_token_type == exchange.ID_TOKEN:
            return self._person(asked, client)
        return await self._on_behalf(asked, client, certificate_sha256)

    async def in_force(self, claims: Mapping[str, Any]) -> bool:
        """Whether the mandate of a token that this node issued still allows it; true where it rests on none."""
        if "act" not in claims:
            return True
        [detail] = claims["authorization_details"]
        wanted = Representation(principal=claims["sub"], theme=detail["theme"], specifier=detail.get("specifier", ""))
        question = Question(
            actor=claims["act"]["sub"], acr=claims.get("acr", ""), client_id=claims["client_id"], wanted=wanted
        )
        return self._mandates is not None and await self._mandates(question) is not None

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
        try:
            subject = await self._verifier.verify(asked.subject_token, certificate_sha256)
        except Unauthenticated:
            raise exchange.refused() from None
        actor = exchange.actor(subject, client_id=client.client_id)
        question = Question(actor=actor, acr=subject.get("acr", ""), client_id=client.client_id, wanted=wanted)
        support = await self._mandates(question) if self._mandates is not None else None
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
