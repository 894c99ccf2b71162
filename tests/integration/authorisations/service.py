"""The authorisations service over a database, without the network in front of it."""

import itertools
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
from solmu.authorisations.v1 import tokens_pb2
from solmu.authorisations.v1.clients_pb2 import Client, CreateClientRequest
from solmu.types.v1.types_pb2 import NationalIdentifier

from services.authorisations.administration_servicer import AdministrationServicer
from services.authorisations.asking import Limits
from services.authorisations.audit_log import AuditLog, Chainer
from services.authorisations.audit_servicer import AuditServicer
from services.authorisations.authentication import Authenticator
from services.authorisations.certificate_servicer import CertificateServicer
from services.authorisations.check_servicer import CheckServicer
from services.authorisations.client_servicer import ClientServicer
from services.authorisations.elsewhere import Elsewhere
from services.authorisations.exchanger import Check, Exchanger
from services.authorisations.fact_stream import FactStream
from services.authorisations.identity_providers import IdentityProviders
from services.authorisations.issuing import Issuing
from services.authorisations.keyring import KeyRing
from services.authorisations.log_in_servicer import LogInServicer
from services.authorisations.mandate_servicer import MandateServicer
from services.authorisations.officers import Officers
from services.authorisations.register_facts import BirthDays, RegisterFacts
from services.authorisations.register_servicer import RegisterServicer
from services.authorisations.relying_party import REDIRECT_PATH, RelyingParty
from services.authorisations.revisions import Revisions
from services.authorisations.theme_servicer import ThemeServicer
from services.authorisations.theme_store import ThemeStore
from services.authorisations.token_servicer import TokenServicer
from services.authorisations.watch_servicer import WatchServicer
from services.runtime import identity
from services.runtime.client import Peer
from services.runtime.database import Database
from services.runtime.facts.cache import FactCache
from services.runtime.facts.wire import rules_in
from services.runtime.identity import TokenVerifier
from services.runtime.ids import new_id as new_uuid
from services.runtime.ids import new_ids
from services.runtime.outbox import Outbox
from services.runtime.parties import PartyNames
from services.runtime.revocations import Revocations
from services.runtime.telemetry import Telemetry
from tests.unit.authorisations.builders import CERTIFICATE, ISSUER, NOW, OWNER, RULES, key_file

BROWSERS = "https://localhost:8444"
PARTIES = PartyNames(key=b"k" * 32, test_mode=True)
HELSINKI = ZoneInfo("Europe/Helsinki")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Service:
    """The servicers over one database."""

    database: Database
    clients: ClientServicer
    certificates: CertificateServicer
    tokens: TokenServicer
    keys: KeyRing
    revocations: Revocations
    mandates: MandateServicer
    themes: ThemeServicer
    checks: CheckServicer
    audit: AuditServicer
    chainer: Chainer
    watch: WatchServicer
    registers: RegisterServicer
    administration: AdministrationServicer
    revisions: Revisions
    stream: FactStream
    facts: FactCache
    log_ins: LogInServicer
    audit_log: AuditLog
    clock: "Clock"

    async def register(self, client_id: str = "", **fields: Any) -> Client:
        """Registers a client, of a new id where none is given."""
        owner = NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_YTUNNUS, value=OWNER)
        values: dict[str, Any] = {"display_name": "Case system", "owner": owner, "scopes": ["messages.send"]}
        request = CreateClientRequest(client_id=client_id or new_id(), client=Client(**values | fields))
        calls_as_operator()
        return await self.clients.CreateClient(request)

    async def issue(self, client: Client, **fields: Any) -> tokens_pb2.IssueTokenResponse:
        """Asks for a token as the edge does for a client that shows its certificate."""
        certificate = tokens_pb2.ClientCertificate(sha256=CERTIFICATE, uri_sans=[client.certificate_uri])
        values: dict[str, Any] = {"grant_type": "client_credentials", "certificate": certificate}
        values["client_id"] = client.name.removeprefix("clients/")
        request = tokens_pb2.IssueTokenRequest(**values | fields)
        return await self.tokens.IssueToken(request)


def new_id() -> str:
    """A client id that no other test uses."""
    return f"system-{next(_numbers):06}"


def ticking(start: datetime) -> Callable[[], datetime]:
    """A clock that is a second later at every look."""
    seconds = itertools.count()
    return lambda: start + timedelta(seconds=next(seconds))


class Clock:
    """A clock that is a millisecond later at every look, and that tests put forward or follow the real one by."""

    def __init__(self, start: datetime | None = None) -> None:
        self.time = start

    def __call__(self) -> datetime:
        if self.time is None:
            return datetime.now(UTC)
        self.time += timedelta(milliseconds=1)
        return self.time


def calls_as_operator() -> None:
    """Has what is called next come from the operator, unless a test has said who calls."""
    try:
        identity.caller()
    except LookupError:
        calls_as("organisations/" + "o" * 26, client="operator")


def calls_as(party: str, *, client: str = "test-system", level: str = "") -> None:
    """Has what is called next come from a client of this party, a person known as surely as the level of eIDAS says."""
    acr = f"http://eidas.europa.eu/LoA/{level}" if level else ""
    identity.set_caller(identity.Caller(service="edge", client_id=client, party=party, acr=acr))


def assemble(
    database: Database,
    folder: Path,
    *,
    clock: Callable[[], datetime] | None = None,
    providers: Path | None = None,
    check: Check | None = None,
    http: aiohttp.ClientSession | None = None,
    exchange: Peer | None = None,
) -> Service:
    """The service, with one signing key in `folder`, and its own time where none is given.

    `providers` names a file of identity providers; `http` is for log-ins at them;
    `exchange` asks other nodes.
    """
    facts_clock = Clock(None if clock else NOW)
    clock = clock or ticking(NOW)
    key_file(folder, "20260101T000000Z.pem")
    keys = KeyRing(folder=folder, clock=clock)
    revocations = Revocations(database=database)
    # The relay does not run: the tests look at what waits in the outbox.
    outbox = Outbox(database=database, nats=None, node="solmu", service="authorisations", telemetry=Telemetry())  # type: ignore[arg-type]
    audit = AuditLog(database=database, clock=facts_clock, new_ids=new_ids, trace=outbox.trace)
    clients = ClientServicer(
        database=database,
        outbox=outbox,
        revocations=revocations,
        parties=PARTIES,
        rules=RULES,
        audit=audit,
        clock=clock,
    )
    authenticator = Authenticator(database=database, issuer=ISSUER, clock=clock)
    verifier = TokenVerifier(issuer=ISSUER, fetch=keys.key_set, clock=lambda: clock().timestamp())
    trusted = IdentityProviders(providers, parties=PARTIES, embedded=True)
    tokens = TokenServicer(
        database=database,
        outbox=outbox,
        revocations=revocations,
        authenticator=authenticator,
        exchanger=Exchanger(
            providers=trusted,
            verifier=verifier,
            check=check,
            issuer=ISSUER,
            clock=clock,
        ),
        verifier=verifier,
        keys=keys,
        audit=audit,
        issuer=ISSUER,
        clock=clock,
        new_id=uuid.uuid4,
    )
    revisions = Revisions(database=database, outbox=outbox, audit=audit, clock=facts_clock)
    store = ThemeStore(rules_in)
    registers = RegisterFacts(BirthDays(b"k" * 32), HELSINKI)
    issuing = Issuing(themes=store, registers=registers, zone=HELSINKI, new_id=new_uuid)
    mandates = MandateServicer(
        database=database, revisions=revisions, issuing=issuing, audit=audit, parties=PARTIES, clock=facts_clock
    )
    themes = ThemeServicer(database=database, revisions=revisions, store=store, registers=registers, clock=facts_clock)
    stream = FactStream(database=database, revisions=revisions, themes=store, registers=registers)
    facts = FactCache(source=stream)
    limits = Limits(database=database)
    checks = CheckServicer(
        database=database,
        facts=facts,
        revisions=revisions,
        themes=store,
        limits=limits,
        audit=audit,
        parties=PARTIES,
        elsewhere=Elsewhere(exchange),
        clock=facts_clock,
    )
    chainer = Chainer(database=database, sign=keys.sign, issuer=ISSUER, clock=facts_clock, new_id=new_uuid)
    watch = WatchServicer(database=database, stream=stream, limits=limits, revoked=revocations.revoked)
    importing = RegisterServicer(
        database=database,
        revisions=revisions,
        themes=store,
        facts=registers,
        issuing=issuing,
        audit=audit,
        parties=PARTIES,
        clock=facts_clock,
        new_id=new_uuid,
    )
    return Service(
        database,
        clients,
        CertificateServicer(database=database, outbox=outbox, revocations=revocations, clock=clock),
        tokens,
        keys,
        revocations,
        mandates,
        themes,
        checks,
        AuditServicer(database=database, audit=audit, parties=PARTIES),
        chainer,
        watch,
        importing,
        AdministrationServicer(
            database=database,
            revisions=revisions,
            officers=Officers(issuing=issuing, registers=registers, parties=PARTIES, new_id=new_uuid),
            clock=facts_clock,
            new_id=new_uuid,
        ),
        revisions,
        stream,
        facts,
        LogInServicer(
            database=database,
            authenticator=authenticator,
            providers=trusted,
            relying_party=RelyingParty(
                http=http,  # type: ignore[arg-type]  # only log-ins have any
                sign=keys.sign,
                redirect_uri=BROWSERS + REDIRECT_PATH,
                clock=clock,
            ),
            audit=audit,
            issuer=ISSUER,
            clock=clock,
            new_id=new_uuid,
        ),
        audit,
        facts_clock,
    )
