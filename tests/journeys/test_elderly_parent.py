"""An adult child acts for an elderly parent by a confirmed mandate, which is revoked in the middle."""

from __future__ import annotations

from datetime import datetime, timedelta

from solmu.authorisations.v1 import audit_pb2
from solmu.authorisations.v1 import mandate_service_pb2 as api
from solmu.authorisations.v1.audit_pb2_grpc import AuditServiceStub
from solmu.authorisations.v1.mandate_service_pb2_grpc import MandateServiceStub
from solmu.authorisations.v1.mandates_pb2 import Mandate, MandateEvent
from solmu.authorisations.v1.parties_pb2 import ValidityPeriod

from deploy.local.node import Node
from gateway.client import Client, Fault
from tests.integration.node.callers import Caller
from tests.integration.node.people import client_of, organisation, person
from tests.journeys.mandates import ALLOWED, DENIED, HELSINKI, check, form, known_as, make_theme, on_behalf

SCOPES = ("mandates.read", "mandates.write")


async def events(client: Client, mandate: str) -> list[int]:
    request = api.ListMandateEventsRequest(parent=mandate)
    listed = await client.call(client.stub(MandateServiceStub).ListMandateEvents, request)
    return [event.type for event in listed.events]


async def test_an_adult_child_for_an_elderly_parent_until_the_mandate_is_revoked(node: Node):
    old, young, stranger = person(), person(), person()
    async with (
        client_of(node, organisation(4567890), "themes.manage", "mandates.check") as office,
        client_of(node, old, *SCOPES) as father,
        client_of(node, young, *SCOPES) as daughter,
        client_of(node, stranger, *SCOPES) as nobody,
    ):
        theme = await make_theme(office)
        mandates = daughter.stub(MandateServiceStub)

        # She asks for it. Nothing is allowed before he has confirmed what he read.
        last_day = (datetime.now(HELSINKI).date() + timedelta(days=180)).isoformat()
        wanted = Mandate(
            kind=Mandate.KIND_ACT,
            principal=known_as(old),
            theme=theme,
            validity=ValidityPeriod(last_day=last_day),
        )
        asked = await daughter.call(mandates.CreateMandate, api.CreateMandateRequest(mandate=wanted))
        assert asked.state == Mandate.STATE_REQUESTED
        assert (await check(office, theme, young, old)).decision == DENIED
        waiting = await father.call(
            father.stub(MandateServiceStub).ListMandates,
            api.ListMandatesRequest(side=api.ListMandatesRequest.SIDE_CONFIRMER),
        )
        [found] = waiting.mandates
        confirm = api.ConfirmMandateRequest(name=found.name, etag=found.etag)
        try:
            await nobody.call(nobody.stub(MandateServiceStub).ConfirmMandate, confirm, attempts=1)
        except Fault as fault:
            assert fault.reason == "RESOURCE_NOT_FOUND", "a stranger does not even hear that it is there"
        else:
            raise AssertionError("a stranger confirmed it")
        confirmed = await father.call(father.stub(MandateServiceStub).ConfirmMandate, confirm, attempts=1)
        assert confirmed.state == Mandate.STATE_ACTIVE

        # She acts: the office is told yes, and she holds a token in his name.
        answer = await check(office, theme, young, old, consistency_token=confirmed.consistency_token)
        assert (answer.decision, list(answer.mandates)) == (ALLOWED, [found.name])
        status, granted = await on_behalf(daughter, principal=found.principal.name, theme=theme)
        assert status == 200
        token = granted["access_token"]
        _, known = await form(daughter, "/oauth2/introspect", token=token)
        assert (known["active"], known["sub"]) == (True, found.principal.name)

        # In his name she reads what is of this theme, and nothing else of his.
        other = await make_theme(office)
        unrelated = Mandate(
            kind=Mandate.KIND_ACT,
            delegate=known_as(stranger),
            theme=other,
            validity=ValidityPeriod(last_day=last_day),
        )
        father_mandates = father.stub(MandateServiceStub)
        hidden = await father.call(father_mandates.CreateMandate, api.CreateMandateRequest(mandate=unrelated))
        acting = Caller(daughter.profile.edge, daughter.profile.files, token)
        status, listed = await acting.rest("GET", "/v1/mandates")
        assert (status, [one["name"] for one in listed["mandates"]]) == (200, [found.name])
        assert (await acting.rest("GET", f"/v1/{found.name}"))[1]["principal"]["name"] == found.principal.name
        assert (await acting.rest("GET", f"/v1/{hidden.name}"))[1]["reason"] == "RESOURCE_NOT_FOUND"
        assert (await acting.rest("GET", f"/v1/mandates?theme={other}"))[1]["reason"] == "MANDATE_NOT_ENOUGH"
        status, refused = await acting.rest("POST", f"/v1/{hidden.name}:revoke", {})
        assert (status, refused["reason"]) == (403, "MANDATE_NOT_ENOUGH")

        # In the middle of it he revokes the mandate. From that commit on it opens nothing.
        revoke = api.RevokeMandateRequest(name=found.name)
        revoked = await father.call(father.stub(MandateServiceStub).RevokeMandate, revoke, attempts=1)
        after = await check(office, theme, young, old, consistency_token=revoked.consistency_token)
        assert after.decision == DENIED
        _, known = await form(daughter, "/oauth2/introspect", token=token)
        assert known == {"active": False}
        assert (await acting.rest("GET", "/v1/mandates"))[1]["reason"] == "MANDATE_NOT_ENOUGH"
        status, refused = await on_behalf(daughter, principal=found.principal.name, theme=theme)
        assert (status, refused["error"]) == (400, "invalid_authorization_details")
        assert await events(daughter, found.name) == [
            MandateEvent.TYPE_REQUESTED,
            MandateEvent.TYPE_CONFIRMED,
            MandateEvent.TYPE_ACTIVATED,
            MandateEvent.TYPE_REVOKED,
        ]

        # He sees who asked about them: the office, each time.
        own = await father.call(
            father.stub(AuditServiceStub).ListOwnAuditRecords, audit_pb2.ListOwnAuditRecordsRequest()
        )
        checks = [one for one in own.records if one.kind == audit_pb2.AuditRecord.KIND_CHECK]
        by_office = [one for one in checks if one.actor.client == f"clients/{office.profile.client_id}"]
        assert [one.check_response.decision for one in by_office] == [DENIED, ALLOWED, DENIED]
        assert not any(one.check_steps for one in checks)
