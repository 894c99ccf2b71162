"""Mandates of another node: asked there for each call and envelope, which go by the answer."""

import asyncio
import contextlib
import hashlib
import itertools
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from solmu.authorisations.v1 import audit_pb2, checks_pb2, mandate_service_pb2
from solmu.authorisations.v1.parties_pb2 import Party
from solmu.exchange.v1 import (
    access_rights_pb2,
    deliveries_pb2,
    envelopes_pb2,
    exchanges_pb2,
    mandates_pb2,
    peer_frames_pb2,
    policies_pb2,
    services_pb2,
)
from solmu.exchange.v1.statements_pb2 import OnBehalfOf
from solmu.types.v1.types_pb2 import NationalIdentifier

import services.authorisations
from services.exchange import envelope_store, names
from services.exchange.evidence import statements
from services.runtime import identity
from services.runtime.client import Peer
from services.runtime.database import Database
from services.runtime.errors import Fault
from services.runtime.identity import Caller
from services.runtime.server import Tasks
from services.runtime.telemetry import Telemetry
from tests.integration.authorisations.people import asking, give, make_theme
from tests.integration.authorisations.service import PARTIES, assemble, calls_as
from tests.integration.exchange import calls, envelopes, mesh
from tests.integration.exchange.backend import plain
from tests.integration.exchange.calls import CLIENT, CONSUMER, PROVIDER, flowing, head, refused, send, whole

CITY_OWN, COMPANY_OWN = "FI/MUN/1/solmu", "FI/COM/2/solmu"
REGISTERED_AT = "nodes/FI~MUN~1~node"
STREAMED = policies_pb2.ExchangePolicy.BODY_RELEASE_STREAMED
_people = itertools.count(900)


def person() -> NationalIdentifier:
    """Somebody whom no other test knows: an individual number that is set aside for testing."""
    number = f"010180{next(_people)}"
    sign = "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(number) % 31]
    return NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_HETU, value=f"{number[:6]}-{number[6:]}{sign}")


class Authorisations:
    """The city's authorisations service, as its exchange reaches it."""

    def __init__(self, service):
        self.service = service
        self.asked = []

    async def check(self, request):
        self.asked.append(request)

        async def answer():
            identity.set_caller(Caller(service="exchange"))
            return await self.service.checks.Check(request)

        return await asyncio.create_task(answer())


@pytest.fixture(scope="module")
async def pair(nodes):
    """Both nodes with a subsystem of their own; the city lets the company ask for mandates."""
    city, company = nodes
    await calls.host(city, CONSUMER, clients=[CLIENT, "clients/system"])
    book = await city.exchange.catalogue.CreateService(
        services_pb2.CreateServiceRequest(
            parent=names.resource("subsystems", CITY_OWN), service_code="mandates", service=services_pb2.Service()
        )
    )
    await calls.allow(city, f"{CITY_OWN}/mandates", ("POST", "/check"), consumer=COMPANY_OWN)
    yield city, company
    await city.exchange.catalogue.DeleteService(services_pb2.DeleteServiceRequest(name=book.name))


@pytest.fixture(scope="module")
async def authorisations(pair, tmp_path_factory):
    """The authorisations service of the city, on the city's engines."""
    city, _ = pair
    database = await Database.connect(
        city.engines.database("authorisations"),
        files=city.engines.identity("authorisations"),
        size=8,
        telemetry=Telemetry(),
    )
    await database.migrate(Path(services.authorisations.__file__).parent / "migrations")
    service = assemble(database, tmp_path_factory.mktemp("keys"), clock=lambda: datetime.now(UTC))
    before, city.checks = city.checks, Authorisations(service)
    async with Tasks(asyncio.Event()) as tasks:
        tasks.start(service.stream.look())
        tasks.start(service.facts.run())
        yield service
    city.checks = before
    await database.close()


@pytest.fixture
async def service(pair, backend):
    """A service of the company that takes the city's word on mandates."""
    backend.requests.clear()
    backend.begun, backend.answer = 0, plain()
    return await trusting(pair[1], backend, policies_pb2.ExchangePolicy.MandateSource(member="members/FI~MUN~1"))


async def trusting(company, backend, *sources, **content) -> str:
    policy = await calls.policy(company, mandate_sources=sources, mandate_required=True, **content)
    identifier = await calls.service(company, backend.uri, policy=policy)
    await calls.allow(company, identifier)
    return identifier


@pytest.fixture
async def mandate(authorisations):
    """Somebody may act for somebody in a theme: the mandate, and the call that rests on it."""
    theme = await make_theme(authorisations)
    principal, delegate = person(), person()
    given = await give(authorisations, theme.name, PARTIES.name_of(principal), PARTIES.name_of(delegate))
    behalf = OnBehalfOf(
        principal=principal, delegate=delegate, theme_uri=theme.uri or f"urn:solmu:theme:{theme.name[7:]}",
        registered_at=REGISTERED_AT,
    )  # fmt: skip
    return given, behalf


async def revoke(authorisations, mandate):
    calls_as(mandate.principal.name)
    return await authorisations.mandates.RevokeMandate(mandate_service_pb2.RevokeMandateRequest(name=mandate.name))


def behalf_of(behalf, service, **given):
    return whole(head(service, on_behalf_of=behalf, **given))


async def test_a_mandate_of_the_consumers_node_allows_and_the_backend_is_told(pair, backend, service, mandate):
    city, company = pair
    given, behalf = mandate
    forged = [("Solmu-Principal", b"FI_HETU somebody else"), ("solmu-anything", b"x"), ("X-Kept", b"1")]
    answered = await send(city, behalf_of(behalf, service, headers=forged))
    assert answered.head.status == 200
    request = backend.requests[-1]
    assert request.header(b"solmu-principal") == f"FI_HETU {behalf.principal.value}".encode()
    assert request.header(b"solmu-delegate") == f"FI_HETU {behalf.delegate.value}".encode()
    assert request.header(b"solmu-theme") == behalf.theme_uri.encode()
    assert request.header(b"solmu-mandates") == given.name.encode()
    assert request.header(b"solmu-basis") == b"MANDATE"
    assert (request.header(b"solmu-anything"), request.header(b"x-kept")) == (None, b"1")
    assert request.header(b"x-road-represented-party") is None
    # Question and answer are an exchange of their own, the other way, proven at both ends and named by the call.
    for node, side in ((company, exchanges_pb2.SIDE_CONSUMER), (city, exchanges_pb2.SIDE_PROVIDER)):
        row = await node.database.fetchrow(
            "select * from exchange where message_id = $1 and side = $2", str(answered.exchange_id), side
        )
        assert (row["consumer"], row["service"]) == (COMPANY_OWN, f"{CITY_OWN}/mandates")
        assert row["outcome"] == exchanges_pb2.Exchange.OUTCOME_ANSWERED
        assert len(await calls.statements(node, row["exchange_id"])) == 2
    # The registering node's record says who relied on it.
    assert city.checks.asked[-1].relying_party == names.resource("subsystems", CONSUMER)


async def test_a_company_is_told_as_x_road_tells_it(pair, backend, service, authorisations):
    theme = await make_theme(authorisations)
    firm = NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_YTUNNUS, value="0201256-6")
    helper = person()
    await give(authorisations, theme.name, PARTIES.name_of(firm), PARTIES.name_of(helper))
    behalf = OnBehalfOf(
        principal=firm, delegate=helper, theme_uri=f"urn:solmu:theme:{theme.name[7:]}", registered_at=REGISTERED_AT
    )
    given = [("X-Road-Represented-Party", b"COM/another")]
    await send(pair[0], behalf_of(behalf, service, headers=given))
    assert backend.requests[-1].header(b"x-road-represented-party") == b"0201256-6"


async def test_a_mandate_allows_no_longer_once_it_is_revoked(pair, backend, service, mandate, authorisations):
    given, behalf = mandate
    assert (await send(pair[0], behalf_of(behalf, service))).head.status == 200
    await revoke(authorisations, given)
    backend.begun = 0
    fault = await refused(pair[0], behalf_of(behalf, service))
    assert (fault.reason, fault.metadata["side"], fault.metadata["denial"]) == (
        "MANDATE_MISSING", "provider", "NO_RIGHT",
    )  # fmt: skip
    assert backend.begun == 0


async def test_a_mandate_that_has_expired_allows_nothing(pair, backend, service, mandate, authorisations):
    _, behalf = mandate
    authorisations.clock.time = datetime.now(UTC) + timedelta(days=700)
    try:
        fault = await refused(pair[0], behalf_of(behalf, service))
    finally:
        authorisations.clock.time = None
    assert (fault.reason, backend.begun) == ("MANDATE_MISSING", 0)


async def test_a_mandate_in_one_theme_allows_nothing_in_another(pair, backend, service, mandate, authorisations):
    _, behalf = mandate
    other = await make_theme(authorisations)
    behalf.theme_uri = f"urn:solmu:theme:{other.name[7:]}"
    assert (await refused(pair[0], behalf_of(behalf, service))).reason == "MANDATE_MISSING"
    behalf.theme_uri = "urn:no:such:theme"
    fault = await refused(pair[0], behalf_of(behalf, service))
    assert (fault.reason, fault.metadata["side"], backend.begun) == ("MANDATE_UNVERIFIABLE", "provider", 0)


async def test_who_is_not_known_surely_enough_may_not_act(pair, backend, service, authorisations):
    theme = await make_theme(authorisations, assurance_level=2)
    principal, delegate = person(), person()
    calls_as(PARTIES.name_of(principal), level="high")
    await authorisations.mandates.CreateMandate(asking(theme.name, delegate=PARTIES.name_of(delegate)))
    behalf = OnBehalfOf(
        principal=principal,
        delegate=delegate,
        theme_uri=f"urn:solmu:theme:{theme.name[7:]}",
        registered_at=REGISTERED_AT,
    )
    for level in ("", "low"):
        behalf.assurance_level = f"http://eidas.europa.eu/LoA/{level}" if level else ""
        fault = await refused(pair[0], behalf_of(behalf, service))
        assert (fault.reason, fault.metadata["denial"]) == ("MANDATE_MISSING", "ASSURANCE_TOO_LOW")
    behalf.assurance_level = "http://eidas.europa.eu/LoA/substantial"
    assert (await send(pair[0], behalf_of(behalf, service))).head.status == 200


async def test_who_stands_behind_a_call_cannot_be_changed_on_the_way(pair, backend, service, mandate, monkeypatch):
    """The proof names another principal than the frame."""
    city, _ = pair
    _, behalf = mandate
    genuine = peer_frames_pb2.ExchangeRequestHead

    def changed(**fields):
        other = OnBehalfOf.FromString(fields["on_behalf_of"])
        other.principal.CopyFrom(person())
        return genuine(**{**fields, "on_behalf_of": other.SerializeToString()})

    monkeypatch.setattr(peer_frames_pb2, "ExchangeRequestHead", changed)
    fault = await refused(city, behalf_of(behalf, service))
    assert (fault.reason, backend.begun) == ("ON_BEHALF_DIGEST_MISMATCH", 0)


async def check_finding_refused(pair, monkeypatch, requests, cause, change):
    """The city's node says on mandates what this change makes of it: nothing goes by it."""
    providing = pair[0].exchange.providing
    genuine = providing._respond

    async def changed(call, answer, policy):
        async for response in genuine(call, answer, policy):
            change(response)
            yield response

    monkeypatch.setattr(providing, "_respond", changed)
    fault = await refused(pair[0], requests)
    assert (fault.reason, fault.metadata["cause"], fault.metadata["side"]) == (
        "MANDATE_UNVERIFIABLE",
        cause,
        "provider",
    )


async def test_a_finding_that_was_tampered_with_counts_for_nothing(
    pair, backend, service, mandate, authorisations, monkeypatch
):
    given, behalf = mandate
    await revoke(authorisations, given)

    def change(response):
        response.head.body = response.head.body.replace(b"NO_RIGHT", b"NONE_HAD")

    await check_finding_refused(pair, monkeypatch, behalf_of(behalf, service), "BODY_DIGEST_MISMATCH", change)
    assert backend.begun == 0


async def test_a_finding_signed_by_another_member_counts_for_nothing(pair, backend, service, mandate, monkeypatch):
    _, company = pair
    _, behalf = mandate

    def change(response):
        statement = statements.parse(response.head.proof.statement)
        ring = company.exchange.ring
        response.head.proof.signature.CopyFrom(ring.sign(statement, ring.signing_key(company.owner)))

    await check_finding_refused(pair, monkeypatch, behalf_of(behalf, service), "SIGNER_NOT_SENDER", change)
    assert backend.begun == 0


@pytest.mark.parametrize(
    "source",
    [
        None,
        policies_pb2.ExchangePolicy.MandateSource(member="members/FI~COM~2"),
        policies_pb2.ExchangePolicy.MandateSource(member="members/FI~MUN~1", theme_uris=["urn:another:theme"]),
    ],
)
async def test_the_word_of_a_node_that_the_policy_does_not_name_is_not_taken(pair, backend, mandate, source):
    city, company = pair
    backend.begun = 0
    identifier = await trusting(company, backend, *([source] if source else []))
    asked = len(city.checks.asked)
    fault = await refused(city, behalf_of(mandate[1], identifier))
    assert (fault.reason, fault.metadata["node"]) == ("MANDATE_SOURCE_UNTRUSTED", REGISTERED_AT)
    assert (backend.begun, len(city.checks.asked)) == (0, asked)


async def test_while_the_registering_node_cannot_say_nothing_goes_by_what_it_said(pair, backend, service, mandate):
    city, _ = pair
    _, behalf = mandate
    assert (await send(city, behalf_of(behalf, service))).head.status == 200
    backend.begun = 0
    before, city.checks = city.checks, mesh.Away()
    try:
        fault = await refused(city, behalf_of(behalf, service))
    finally:
        city.checks = before
    assert (fault.reason, fault.code, backend.begun) == ("MANDATE_UNVERIFIABLE", "UNAVAILABLE", 0)
    behalf.registered_at = "nodes/FI~MUN~1~another"
    fault = await refused(city, behalf_of(behalf, service))
    assert (fault.reason, fault.metadata["cause"]) == ("MANDATE_UNVERIFIABLE", "NODE_NOT_SERVING")
    assert backend.begun == 0


async def test_who_has_no_right_to_ask_is_not_told(pair, backend, service, mandate):
    city, _ = pair
    parent = names.service_resource(f"{CITY_OWN}/mandates")
    identity.set_caller(Caller(service="edge", client_id="administration", expires=4e9))
    rights = await city.exchange.rights.ListAccessRights(access_rights_pb2.ListAccessRightsRequest(parent=parent))
    for right in rights.access_rights:
        await city.exchange.rights.DeleteAccessRight(access_rights_pb2.DeleteAccessRightRequest(name=right.name))
    try:
        fault = await refused(city, behalf_of(mandate[1], service))
    finally:
        await calls.allow(city, f"{CITY_OWN}/mandates", ("POST", "/check"), consumer=COMPANY_OWN)
    assert (fault.reason, fault.metadata["cause"], backend.begun) == ("MANDATE_UNVERIFIABLE", "ACCESS_DENIED", 0)


async def test_a_body_that_streams_rests_on_a_mandate_as_well(pair, backend, mandate, authorisations):
    city, company = pair
    given, behalf = mandate
    source = policies_pb2.ExchangePolicy.MandateSource(member="members/FI~MUN~1", theme_uris=[behalf.theme_uri])
    identifier = await trusting(company, backend, source, body_release=STREAMED)
    chunks = [b"some", b"thing"]
    answered = await send(city, flowing(head(identifier, method="POST", on_behalf_of=behalf), chunks))
    assert (answered.head.status, backend.requests[-1].body) == (200, b"something")
    await revoke(authorisations, given)
    backend.begun = 0
    fault = await refused(city, flowing(head(identifier, method="POST", on_behalf_of=behalf), chunks))
    assert (fault.reason, backend.begun) == ("MANDATE_MISSING", 0)


async def test_a_mandate_of_the_providers_own_node_needs_no_source(pair, backend, authorisations, mandate):
    """The company checks what is registered with itself; here the city's book stands in its place."""
    city, company = pair
    _, behalf = mandate
    behalf.ClearField("registered_at")
    identifier = await trusting(company, backend)
    fault = await refused(city, behalf_of(behalf, identifier))
    assert (fault.reason, fault.metadata["cause"]) == ("MANDATE_UNVERIFIABLE", "UNAVAILABLE")
    before, company.checks = company.checks, city.checks
    try:
        assert (await send(city, behalf_of(behalf, identifier))).head.status == 200
    finally:
        company.checks = before


@pytest.mark.parametrize(
    ("code", "given"),
    [("other", {}), ("mandates", {"backend": services_pb2.Service.Backend(uri="http://127.0.0.1:1/")})],
)
async def test_the_node_answers_only_for_what_it_has_and_by_itself(pair, code, given):
    with pytest.raises(Fault) as fault:
        await pair[1].exchange.catalogue.CreateService(
            services_pb2.CreateServiceRequest(
                parent=names.resource("subsystems", COMPANY_OWN),
                service_code=code,
                service=services_pb2.Service(**given),
            )
        )
    assert fault.value.reason == "FIELD_INVALID"


async def test_a_service_of_the_node_asks_by_the_policy_of_its_own_subsystem(pair, mandate, authorisations):
    """What the company's authorisations service asks for its consumers."""
    _, company = pair
    given, behalf = mandate
    question = mandates_pb2.CheckMandateRequest(on_behalf_of=behalf)
    ask = company.exchange.servicers()[mandates_pb2, "MandateService"].CheckMandate
    with pytest.raises(Fault) as fault:
        await ask(question)
    assert fault.value.reason == "MANDATE_SOURCE_UNTRUSTED"
    source = policies_pb2.ExchangePolicy.MandateSource(member="members/FI~MUN~1")
    await calls.host(company, COMPANY_OWN, policy=await calls.policy(company, mandate_sources=[source]))
    try:
        found = await ask(question)
        assert (found.allowed, list(found.mandates), found.basis) == (True, [given.name], "MANDATE")
        await revoke(authorisations, given)
        found = await ask(question)
        assert (found.allowed, found.denial_reason) == (False, "NO_RIGHT")
    finally:
        await calls.host(company, COMPANY_OWN, policy="")


# The same for consumers of the company's authorisations service


class Exchange:
    """The company's exchange, as its authorisations service reaches it."""

    def __init__(self, company):
        self._servicer = company.exchange.servicers()[mandates_pb2, "MandateService"]

    def stub(self, _):
        return self

    def metadata(self):
        return []

    def faults(self):
        return contextlib.nullcontext()

    async def CheckMandate(self, question, **_):
        return await asyncio.create_task(self._servicer.CheckMandate(question))


@pytest.fixture
async def relying(pair, authorisations, tmp_path):
    """The company's authorisations service, for whose exchange the city's word on mandates counts."""
    _, company = pair
    database = await Database.connect(
        company.engines.database("authorisations"),
        files=company.engines.identity("authorisations"),
        size=4,
        telemetry=Telemetry(),
    )
    await database.migrate(Path(services.authorisations.__file__).parent / "migrations")
    source = policies_pb2.ExchangePolicy.MandateSource(member="members/FI~MUN~1")
    await calls.host(company, COMPANY_OWN, policy=await calls.policy(company, mandate_sources=[source]))
    service = assemble(database, tmp_path, clock=lambda: datetime.now(UTC), exchange=cast("Peer", Exchange(company)))
    async with Tasks(asyncio.Event()) as tasks:
        tasks.start(service.stream.look())
        tasks.start(service.facts.run())
        yield service
    await calls.host(company, COMPANY_OWN, policy="")
    await database.close()


def checking(behalf, **given):
    fields = {
        "principal": Party(identifier=behalf.principal),
        "delegate": Party(identifier=behalf.delegate),
        "theme_uri": behalf.theme_uri,
        "registered_at": behalf.registered_at,
    }
    return checks_pb2.CheckRequest(**{**fields, **given})


async def test_a_check_goes_to_the_node_that_it_names_and_both_records_have_it(pair, relying, authorisations, mandate):
    given, behalf = mandate
    calls_as("organisations/" + "d" * 26)
    answer = await relying.checks.Check(checking(behalf))
    assert (answer.decision, list(answer.mandates)) == (checks_pb2.DECISION_ALLOWED, [given.name])
    assert answer.expire_time == given.validity.end_time
    calls_as(PARTIES.name_of(behalf.principal))
    own = await relying.audit.ListOwnAuditRecords(audit_pb2.ListOwnAuditRecordsRequest())
    [entry] = [one for one in own.records if one.name == answer.audit_record]
    assert (entry.check_request.registered_at, entry.actor.party) == (REGISTERED_AT, "organisations/" + "d" * 26)
    there = await authorisations.audit.ListOwnAuditRecords(audit_pb2.ListOwnAuditRecordsRequest())
    [entry] = [one for one in there.records if one.check_response.decision]
    assert entry.check_request.relying_party == names.resource("subsystems", COMPANY_OWN)
    assert behalf.principal.value not in str(own) + str(there)
    await revoke(authorisations, given)
    calls_as("organisations/" + "d" * 26)
    answer = await relying.checks.Check(checking(behalf))
    assert (answer.decision, answer.reason) == (checks_pb2.DECISION_DENIED, checks_pb2.DENIAL_REASON_NO_RIGHT)


async def test_a_check_of_a_node_that_is_away_is_no_answer(pair, relying, mandate):
    city, company = pair
    _, behalf = mandate
    calls_as("organisations/" + "d" * 26)
    before, city.checks = city.checks, mesh.Away()
    try:
        assert (await reason(relying, checking(behalf))) == "MANDATE_NODE_UNAVAILABLE"
    finally:
        city.checks = before
    await calls.host(company, COMPANY_OWN, policy="")
    assert (await reason(relying, checking(behalf))) == "MANDATE_NODE_UNTRUSTED"


@pytest.mark.parametrize(
    "given",
    [
        {"principal": Party(name="persons/" + "a" * 26)},
        {"through": Party(name="organisations/" + "a" * 26)},
        {"consistency_token": "x"},
        {"relying_party": "subsystems/FI~MUN~1~letters"},
    ],
)
async def test_what_means_nothing_elsewhere_is_not_asked(relying, mandate, given):
    calls_as("organisations/" + "d" * 26)
    assert (await reason(relying, checking(mandate[1], **given))) == "FIELD_INVALID"


async def test_a_batch_asks_this_node_alone(relying, mandate):
    calls_as("organisations/" + "d" * 26)
    request = checks_pb2.BatchCheckRequest(checks=[checking(mandate[1]), checks_pb2.CheckRequest()])
    answer = await relying.checks.BatchCheck(request)
    assert [one.fault.reason for one in answer.results] == ["FIELD_INVALID", "FIELD_INVALID"]


async def reason(service, request):
    with pytest.raises(Fault) as fault:
        await service.checks.Check(request)
    return fault.value.reason


# Envelopes


@pytest.fixture(scope="module")
async def letters(pair):
    """The company takes envelopes of the city."""
    _, company = pair
    await calls.host(company, PROVIDER, clients=["clients/system"])
    identity.set_caller(Caller(service="edge", client_id="administration", expires=4e9))
    right = await company.exchange.rights.CreateAccessRight(
        access_rights_pb2.CreateAccessRightRequest(
            parent=f"{envelopes.COMPANY}/inbox", access_right=access_rights_pb2.AccessRight(subsystem=envelopes.CITY)
        )
    )
    yield
    envelopes.act()
    await envelopes.drain(company)
    await company.exchange.rights.DeleteAccessRight(access_rights_pb2.DeleteAccessRightRequest(name=right.name))


@pytest.fixture
async def inbox(pair, letters):
    """The company takes what is on behalf of somebody, by the city's word on mandates; nothing waits there."""
    envelopes.act()
    await envelopes.drain(pair[1])
    await taking(pair[1], policies_pb2.ExchangePolicy.MandateSource(member="members/FI~MUN~1"))
    yield
    await calls.host(pair[1], PROVIDER, policy="")


async def taking(company, *sources):
    policy = await calls.policy(company, mandate_sources=sources, mandate_required=True)
    await calls.host(company, PROVIDER, policy=policy)


async def post(city, behalf, **given):
    envelopes.act()
    return await envelopes.send(city, on_behalf_of=behalf, **given)


def identifier(sent) -> uuid.UUID:
    return uuid.UUID(sent.name.rpartition("/")[2])


async def check_rejected(pair, sent, reason):
    """The company's signed rejection is evidence at both nodes, and nothing has arrived."""
    city, company = pair
    (recipient,) = await envelopes.until(city, sent, envelopes.REFUSED)
    assert recipient.reason == reason
    for node in pair:
        content = await node.database.fetchval(
            "select content from statement where sha256 = $1", bytes.fromhex(recipient.statement.rpartition("/")[2])
        )
        said = statements.parse(content)
        assert (said.kind, said.lines["reason"]) == (statements.Kind.REJECTION, reason)
        assert f"statements/{said.lines['answers']}" == sent.statement
    await check_not_arrived(company, sent)


async def asked_for(node, sent):
    """How often, as a node knows it, the city was asked for the envelope's mandate."""
    found = "select count(*) from exchange where message_id = $1 and service = $2"
    return await node.database.fetchval(found, str(identifier(sent)), f"{CITY_OWN}/mandates")


async def check_not_arrived(company, sent):
    assert await company.database.fetchval("select count(*) from arrival where envelope_id = $1", identifier(sent)) == 0


async def test_an_envelope_on_behalf_is_handed_out_with_who_acts_for_whom_and_why(
    pair, inbox, mandate, authorisations, caplog
):
    city, company = pair
    given, behalf = mandate
    caplog.set_level("DEBUG")
    begun = datetime.now(UTC)
    sent = await post(city, behalf)
    (delivery,) = await envelopes.receive(company)
    shown = delivery.on_behalf_of
    assert (shown.principal, shown.delegate, shown.theme_uri) == (behalf.principal, behalf.delegate, behalf.theme_uri)
    assert (list(delivery.mandates), delivery.mandate_basis) == ([given.name], "MANDATE")
    assert begun <= delivery.mandate_judge_time.ToDatetime(UTC) <= datetime.now(UTC)
    # The statement holds the salted digest at both ends; nobody is named in it, at rest, in lists or in logs.
    assert len(shown.salt) == 32
    digest = hashlib.sha256(shown.SerializeToString(deterministic=True)).hexdigest()
    code = behalf.principal.value.encode()
    for node in pair:
        content = await node.database.fetchval(
            "select content from statement where sha256 = $1", bytes.fromhex(sent.statement.rpartition("/")[2])
        )
        assert statements.parse(content).lines["on-behalf-of-sha256"] == digest
        sealed = await node.database.fetchval(
            "select on_behalf_of from envelope_content where envelope_id = $1", identifier(sent)
        )
        assert code not in content + sealed
    listed = await company.exchange.asynchronous.deliveries.GetDelivery(
        deliveries_pb2.GetDeliveryRequest(name=delivery.name)
    )
    assert not sent.HasField("on_behalf_of")
    assert not listed.HasField("on_behalf_of")
    assert behalf.principal.value not in caplog.text
    # The question is an exchange of its own, named by the envelope; the registering node's record says for whom.
    assert [await asked_for(node, sent) for node in pair] == [1, 1]
    assert city.checks.asked[-1].relying_party == names.resource("subsystems", CONSUMER)
    await envelopes.acknowledge(company, delivery)
    await envelopes.until(city, sent, envelopes.ACKNOWLEDGED)


async def test_an_envelope_sent_twice_is_one_but_not_on_behalf_of_another(pair, inbox, mandate, authorisations):
    city, company = pair
    _, behalf = mandate
    key = str(uuid.uuid4())
    sent = await post(city, behalf, message_id=key)
    assert (await post(city, behalf, message_id=key)).name == sent.name
    other = OnBehalfOf()
    other.CopyFrom(behalf)
    other.principal.CopyFrom(person())
    with pytest.raises(Fault, match="MESSAGE_ID_REUSED"):
        await post(city, other, message_id=key)
    await envelopes.acknowledge(company, *await envelopes.receive(company))


async def test_an_envelope_whose_mandate_was_revoked_on_the_way_is_rejected(
    pair, inbox, mandate, authorisations, monkeypatch
):
    city, _ = pair
    given, behalf = mandate
    with envelopes.unreachable(city, monkeypatch):
        sent = await post(city, behalf)
        await revoke(authorisations, given)
    envelopes.act()
    await check_rejected(pair, sent, "MANDATE_MISSING")


async def bring_again(company, begun):
    """Has the company's node be brought again, and hand out again, what was sent to it since."""
    start = Timestamp()
    start.FromDatetime(begun - timedelta(seconds=1))
    await company.exchange.asynchronous.deliveries.ReplayDeliveries(
        deliveries_pb2.ReplayDeliveriesRequest(parent="subsystems/-", start_time=start)
    )


async def test_an_envelope_brought_again_stands_on_what_was_found_when_it_came(pair, inbox, mandate, authorisations):
    city, company = pair
    given, behalf = mandate
    begun = datetime.now(UTC)
    sent = await post(city, behalf)
    (first,) = await envelopes.receive(company)
    await envelopes.acknowledge(company, first)
    await envelopes.until(city, sent, envelopes.ACKNOWLEDGED)
    await revoke(authorisations, given)
    envelopes.act()
    await bring_again(company, begun)
    await envelopes.until(city, sent, envelopes.ACKNOWLEDGED)
    again = deliveries_pb2.Delivery()
    while again.name != first.name:  # others come again as well
        (again,) = await envelopes.receive(company)
        await envelopes.acknowledge(company, again)
    assert (again.replayed, list(again.mandates)) == (True, [given.name])
    assert (again.mandate_judge_time, again.on_behalf_of) == (first.mandate_judge_time, first.on_behalf_of)
    assert await asked_for(company, sent) == 1


async def test_an_envelope_that_was_rejected_and_is_brought_again_ends_as_it_had(pair, inbox, mandate, authorisations):
    city, company = pair
    _, behalf = mandate
    behalf.delegate.CopyFrom(person())
    begun = datetime.now(UTC)
    sent = await post(city, behalf)
    (before,) = await envelopes.until(city, sent, envelopes.REFUSED)
    await bring_again(company, begun)
    (after,) = await envelopes.until(city, sent, envelopes.REFUSED)
    assert (after.statement, after.settle_time) == (before.statement, before.settle_time)
    assert after.attempts > before.attempts
    await check_not_arrived(company, sent)


async def test_an_envelope_in_another_theme_or_by_somebody_else_is_rejected(pair, inbox, mandate, authorisations):
    _, behalf = mandate
    elsewhere, stranger = OnBehalfOf(), OnBehalfOf()
    elsewhere.CopyFrom(behalf)
    elsewhere.theme_uri = f"urn:solmu:theme:{(await make_theme(authorisations)).name[7:]}"
    stranger.CopyFrom(behalf)
    stranger.delegate.CopyFrom(person())
    for wrong in (elsewhere, stranger):
        await check_rejected(pair, await post(pair[0], wrong), "MANDATE_MISSING")


async def test_an_envelope_on_nobodys_behalf_is_rejected_where_a_mandate_is_required(pair, inbox):
    envelopes.act()
    await check_rejected(pair, await envelopes.send(pair[0]), "MANDATE_MISSING")


async def test_an_envelope_by_the_word_of_a_node_that_does_not_count_is_rejected_and_nobody_asked(pair, inbox, mandate):
    city, company = pair
    await taking(company)
    sent = await post(city, mandate[1])
    await check_rejected(pair, sent, "MANDATE_SOURCE_UNTRUSTED")
    assert await asked_for(company, sent) == 0


async def failed_with(city, sent, reason):
    """The recipient, once bringing it has failed so."""
    for _ in range(600):
        (recipient,) = await envelopes.recipients(city, sent)
        if recipient.last_failure == reason:
            return recipient
        await asyncio.sleep(0.05)
    raise AssertionError(f"{recipient}")


async def test_an_envelope_waits_while_its_mandate_cannot_be_checked_and_comes_when_it_can(
    pair, inbox, mandate, authorisations
):
    city, company = pair
    before, city.checks = city.checks, mesh.Away()
    try:
        sent = await post(city, mandate[1])
        late = await post(city, mandate[1])
        for each in (sent, late):
            recipient = await failed_with(city, each, "MANDATE_UNVERIFIABLE")
            assert recipient.state == envelopes_pb2.DELIVERY_STATE_QUEUED
            assert recipient.HasField("next_attempt_time")
            await check_not_arrived(company, each)
        await city.database.execute(
            "update envelope set expire_time = clock_timestamp() - interval '2 minutes' where envelope_id = $1",
            identifier(late),
        )
        await envelopes.until(city, late, envelopes_pb2.DELIVERY_STATE_EXPIRED)
    finally:
        city.checks = before
    (delivery,) = await envelopes.receive(company, within=120)
    assert (delivery.message_id, delivery.attempt) == (sent.message_id, 1)
    await envelopes.acknowledge(company, delivery)
    await check_not_arrived(company, late)


@pytest.mark.parametrize("changed", ["another", "nobody"])
async def test_who_stands_behind_an_envelope_cannot_be_changed_on_the_way(
    pair, inbox, mandate, authorisations, monkeypatch, changed
):
    city, company = pair
    genuine = peer_frames_pb2.BroughtEnvelope

    def change(**fields):
        other = OnBehalfOf.FromString(fields["on_behalf_of"])
        other.principal.CopyFrom(person())
        return genuine(**{**fields, "on_behalf_of": other.SerializeToString() if changed == "another" else b""})

    monkeypatch.setattr(peer_frames_pb2, "BroughtEnvelope", change)
    sent = await post(city, mandate[1])
    (recipient,) = await envelopes.until(city, sent, envelopes.REFUSED)
    assert recipient.reason == "ON_BEHALF_DIGEST_MISMATCH"
    kept = "select reason from refused_proof where sha256 = $1"
    sha256 = bytes.fromhex(sent.statement.rpartition("/")[2])
    assert await company.database.fetchval(kept, sha256) == "ON_BEHALF_DIGEST_MISMATCH"
    await check_not_arrived(company, sent)
    assert await asked_for(company, sent) == 0


async def test_who_stands_behind_an_envelope_is_erased_with_its_body(pair, inbox, mandate, authorisations):
    city, company = pair
    sent = await post(city, mandate[1])
    (delivery,) = await envelopes.receive(company)
    await envelopes.acknowledge(company, delivery)
    await envelopes.until(city, sent, envelopes.ACKNOWLEDGED)
    for node in pair:
        await envelope_store.erase_content(node.database, now=datetime.now(UTC) + timedelta(days=60), limit=1000)
        kept = "select count(*) from envelope_content where envelope_id = $1"
        assert await node.database.fetchval(kept, identifier(sent)) == 0
