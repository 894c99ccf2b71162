"""Starts the authorisations service: `python -m services.authorisations`."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from services.authorisations import declared, log_in_store, relying_party, revision_store, token_store
from services.authorisations.acting import Acting
from services.authorisations.administration_servicer import AdministrationServicer
from services.authorisations.asking import Limits
from services.authorisations.audit_log import AuditLog, Chainer
from services.authorisations.audit_servicer import AuditServicer
from services.authorisations.authentication import Authenticator
from services.authorisations.certificate_servicer import CertificateServicer
from services.authorisations.check_servicer import CheckServicer
from services.authorisations.client_servicer import ClientServicer
from services.authorisations.clients import Rules
from services.authorisations.elsewhere import Elsewhere
from services.authorisations.exchanger import Exchanger
from services.authorisations.fact_stream import FactStream
from services.authorisations.identity_providers import IdentityProviders
from services.authorisations.issuing import Issuing
from services.authorisations.keyring import KeyRing
from services.authorisations.log_in_servicer import LogInServicer
from services.authorisations.mandate_servicer import MandateServicer
from services.authorisations.officers import Officers
from services.authorisations.register_facts import BirthDays, RegisterFacts
from services.authorisations.register_servicer import RegisterServicer
from services.authorisations.relying_party import RelyingParty
from services.authorisations.revisions import Revisions
from services.authorisations.settings import Settings
from services.authorisations.surface import surface
from services.authorisations.theme_servicer import ThemeServicer
from services.authorisations.theme_store import ThemeStore
from services.authorisations.token_servicer import KeyServicer, TokenServicer
from services.authorisations.watch_servicer import WatchServicer
from services.runtime import config, contracts, start_checks
from services.runtime.client import Peer
from services.runtime.config import ConfigError
from services.runtime.facts.cache import FactCache
from services.runtime.facts.wire import rules_in
from services.runtime.foundation import Foundation, lay
from services.runtime.identity import TokenVerifier
from services.runtime.ids import new_id, new_ids
from services.runtime.parties import PartyNames
from services.runtime.server import run


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)


def _exchange(settings: Settings, foundation: Foundation, stack: AsyncExitStack) -> Peer | None:
    """The exchange of this node, where there is one."""
    if settings.exchange is None:
        return None
    peer = Peer(name="exchange", address=settings.exchange, files=settings.tls, telemetry=foundation.telemetry)
    stack.push_async_callback(peer.close)
    return peer


async def main(stop: asyncio.Event, stack: AsyncExitStack) -> None:
    """Wires the service and serves until it is told to stop."""
    settings = config.read(Settings)
    party_key = await settings.party_key.opened(settings.root_key)
    parties = PartyNames(key=party_key, test_mode=settings.test_mode)
    rules = Rules(known_scopes=contracts.scopes(), trust_domain=f"spiffe://{settings.node}/")
    keys = KeyRing(folder=settings.token_keys, clock=now)
    providers = IdentityProviders(settings.identity_providers, parties=parties, embedded=settings.embedded)
    if providers.for_log_in() and not settings.browser_origin:
        raise ConfigError(["SOLMU_BROWSER_ORIGIN is not set, and an identity provider has log_in"])
    declarations = declared.read(settings.clients, parties=parties, rules=rules, now=now()) if settings.clients else []
    foundation = await lay(
        "authorisations",
        settings,
        stop=stop,
        stack=stack,
        fetch_keys=lambda _: keys.key_set,
    )
    await start_checks.check_key(foundation.database, "SOLMU_PARTY_KEY", party_key)
    if settings.life:
        await revision_store.begin_life(foundation.database, settings.life)
    audit = AuditLog(database=foundation.database, clock=now, new_ids=new_ids, trace=foundation.outbox.trace)
    await declared.apply(foundation.database, declarations, audit=audit)
    foundation.tasks.start(keys.follow())
    foundation.tasks.start(providers.follow())
    clients = ClientServicer(
        database=foundation.database,
        outbox=foundation.outbox,
        revocations=foundation.revocations,
        parties=parties,
        rules=rules,
        audit=audit,
        clock=now,
    )
    foundation.tasks.start(token_store.sweep(foundation.database, clock=now))
    foundation.tasks.start(log_in_store.sweep(foundation.database, clock=now))
    revisions = Revisions(database=foundation.database, outbox=foundation.outbox, audit=audit, clock=now)
    theme_store = ThemeStore(rules_in)
    registers = RegisterFacts(BirthDays(party_key), settings.zone)
    issuing = Issuing(themes=theme_store, registers=registers, zone=settings.zone, new_id=new_id)
    mandates = MandateServicer(
        database=foundation.database, revisions=revisions, issuing=issuing, audit=audit, parties=parties, clock=now
    )
    themes = ThemeServicer(
        database=foundation.database, revisions=revisions, store=theme_store, registers=registers, clock=now
    )
    stream = FactStream(database=foundation.database, revisions=revisions, themes=theme_store, registers=registers)
    foundation.tasks.start(stream.look())
    facts = FactCache(source=stream)
    foundation.tasks.start(facts.run())
    limits = Limits(database=foundation.database)
    checks = CheckServicer(
        database=foundation.database,
        facts=facts,
        revisions=revisions,
        themes=theme_store,
        limits=limits,
        audit=audit,
        parties=parties,
        elsewhere=Elsewhere(_exchange(settings, foundation, stack)),
        clock=now,
    )
    acting = Acting(facts=facts, latest=lambda: revisions.latest, clock=now)
    verifier = TokenVerifier(issuer=settings.issuer, fetch=keys.key_set)
    authenticator = Authenticator(database=foundation.database, issuer=settings.issuer, clock=now)
    tokens = TokenServicer(
        database=foundation.database,
        outbox=foundation.outbox,
        revocations=foundation.revocations,
        authenticator=authenticator,
        exchanger=Exchanger(
            providers=providers, verifier=verifier, check=checks.Check, issuer=settings.issuer, clock=now
        ),
        verifier=verifier,
        keys=keys,
        audit=audit,
        issuer=settings.issuer,
        clock=now,
        new_id=uuid.uuid4,
    )
    log_ins = LogInServicer(
        database=foundation.database,
        authenticator=authenticator,
        providers=providers,
        relying_party=RelyingParty(
            http=await stack.enter_async_context(relying_party.session()),
            sign=keys.sign,
            redirect_uri=settings.browser_origin + relying_party.REDIRECT_PATH,
            clock=now,
        ),
        audit=audit,
        issuer=settings.issuer,
        clock=now,
        new_id=new_id,
    )
    chainer = Chainer(database=foundation.database, sign=keys.sign, issuer=settings.issuer, clock=now, new_id=new_id)
    foundation.tasks.start(chainer.run())
    foundation.tasks.start(revisions.sweep())
    for service, servicer in surface(
        clients=clients,
        certificates=CertificateServicer(
            database=foundation.database, outbox=foundation.outbox, revocations=foundation.revocations, clock=now
        ),
        tokens=tokens,
        keys=KeyServicer(keys=keys),
        mandates=mandates,
        themes=themes,
        checks=checks,
        audit=AuditServicer(database=foundation.database, audit=audit, parties=parties),
        watch=WatchServicer(
            database=foundation.database, stream=stream, limits=limits, revoked=foundation.revocations.revoked
        ),
        registers=RegisterServicer(
            database=foundation.database,
            revisions=revisions,
            themes=theme_store,
            facts=registers,
            issuing=issuing,
            audit=audit,
            parties=parties,
            clock=now,
            new_id=new_id,
        ),
        administration=AdministrationServicer(
            database=foundation.database,
            revisions=revisions,
            officers=Officers(issuing=issuing, registers=registers, parties=parties, new_id=new_id),
            clock=now,
            new_id=new_id,
        ),
        log_ins=log_ins,
    ):
        foundation.server.add(service, servicer, judge=acting.right)
    await foundation.server.run(stop)


if __name__ == "__main__":
    run(main)
