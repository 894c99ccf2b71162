"""An accountant's firm acts for a company whose signatories sign jointly."""

from __future__ import annotations

from datetime import datetime, timedelta

from solmu.authorisations.v1 import mandate_service_pb2 as api
from solmu.authorisations.v1 import rights_pb2
from solmu.authorisations.v1.mandate_service_pb2_grpc import MandateServiceStub
from solmu.authorisations.v1.mandates_pb2 import Mandate
from solmu.authorisations.v1.parties_pb2 import TERMS_JOINTLY, ValidityPeriod
from solmu.authorisations.v1.register_records_pb2 import OrganisationRole, RegisterRecord, SignatoryRule
from solmu.types.v1.types_pb2 import NationalIdentifier

from deploy.local.node import Node
from gateway.client import Client
from tests.integration.node.callers import Caller
from tests.integration.node.people import client_of, organisation, person
from tests.journeys.mandates import ALLOWED, DENIED, HELSINKI, Keeper, check, known_as, make_theme

SCOPES = ("mandates.read", "mandates.write")


def role(holder: NationalIdentifier, company: NationalIdentifier, code: str) -> RegisterRecord:
    content = OrganisationRole(holder=known_as(holder), organisation=known_as(company), role=code, terms=TERMS_JOINTLY)
    return RegisterRecord(record_id=f"role {holder.value}", organisation_role=content)


def signing(company: NationalIdentifier) -> RegisterRecord:
    """The chair together with one other member of the board."""
    part = SignatoryRule.Part
    together = SignatoryRule.Alternative(
        parts=[part(roles=["board-chair"], needed=1), part(roles=["board-member"], needed=1)]
    )
    rule = SignatoryRule(organisation=known_as(company), alternatives=[together])
    return RegisterRecord(record_id=f"signing {company.value}", signatory_rule=rule)


async def confirm(client: Client, name: str) -> Mandate:
    stub = client.stub(MandateServiceStub)
    read = await client.call(stub.GetMandate, api.GetMandateRequest(name=name))
    return await client.call(stub.ConfirmMandate, api.ConfirmMandateRequest(name=name, etag=read.etag), attempts=1)


async def test_an_accountants_firm_for_a_company_with_joint_signatories(node: Node):
    company, firm = organisation(5678901), organisation(6789012)
    chair, member, accountant = person(), person(), person()
    last_day = (datetime.now(HELSINKI).date() + timedelta(days=365)).isoformat()
    until = ValidityPeriod(last_day=last_day)
    async with (
        client_of(node, organisation(7890123), "themes.manage", "mandates.check") as office,
        client_of(node, organisation(8901234), "registers.manage", "registers.import") as trade_register,
        client_of(node, firm, *SCOPES) as firms_system,
        client_of(node, chair, *SCOPES) as first,
        client_of(node, member, *SCOPES) as second,
    ):
        theme = await make_theme(office)
        keeper = Keeper(trade_register)
        await keeper.open("organisation_role", "signatory_rule")
        roles = [role(chair, company, "board-chair"), role(member, company, "board-member")]
        await keeper.says(*roles, signing(company))

        # The firm asks for a mandate of the company's; one of its own gives a person the right to represent it.
        stub = firms_system.stub(MandateServiceStub)
        act = Mandate(kind=Mandate.KIND_ACT, principal=known_as(company), theme=theme, validity=until)
        asked = await firms_system.call(stub.CreateMandate, api.CreateMandateRequest(mandate=act))
        represent = Mandate(kind=Mandate.KIND_REPRESENT, delegate=known_as(accountant), theme=theme, validity=until)
        given = await firms_system.call(stub.CreateMandate, api.CreateMandateRequest(mandate=represent))
        assert (asked.state, given.state) == (Mandate.STATE_REQUESTED, Mandate.STATE_ACTIVE)

        # The chair alone is not enough, and nobody counts twice.
        assert (await confirm(first, asked.name)).state == Mandate.STATE_PARTLY_CONFIRMED
        assert (await confirm(first, asked.name)).state == Mandate.STATE_PARTLY_CONFIRMED
        assert (await check(office, theme, accountant, company)).decision == DENIED
        active = await confirm(second, asked.name)
        assert active.state == Mandate.STATE_ACTIVE
        assert {one.basis.partition("/records/")[0] for one in active.confirmations} == {keeper.register}

        # The accountant acts for the company through the firm, and for nobody else.
        answer = await check(office, theme, accountant, company)
        assert (answer.decision, answer.basis) == (ALLOWED, rights_pb2.RIGHT_BASIS_REPRESENTED_MANDATE)
        assert list(answer.mandates) == [given.name, asked.name]
        assert (await check(office, theme, accountant, firm)).decision == DENIED
        assert (await check(office, theme, chair, company)).decision == DENIED, "a signatory alone does not act"
        question = {
            "subject": {"type": "person", "id": given.delegate.name},
            "action": {"name": theme},
            "resource": {"type": "organisation", "id": asked.principal.name},
        }
        caller = Caller(office.profile.edge, office.profile.files, await office.token())
        status, decided = await caller.rest("POST", "/access/v1/evaluation", question)
        assert (status, decided["decision"], decided["context"]["through"]) == (200, True, asked.delegate.name)

        # Any one signatory ends it alone, and it ends for everybody who came through the firm.
        revoke = api.RevokeMandateRequest(name=asked.name)
        ended = await second.call(second.stub(MandateServiceStub).RevokeMandate, revoke, attempts=1)
        after = await check(office, theme, accountant, company, consistency_token=ended.consistency_token)
        assert after.decision == DENIED
        assert (await caller.rest("POST", "/access/v1/evaluation", question))[1]["decision"] is False
