"""A delegate who is blocked half-way through a session."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from solmu.authorisations.v1 import mandate_service_pb2 as api
from solmu.authorisations.v1.mandate_service_pb2_grpc import MandateServiceStub
from solmu.authorisations.v1.mandates_pb2 import Mandate
from solmu.authorisations.v1.parties_pb2 import ValidityPeriod
from solmu.authorisations.v1.register_records_pb2 import Block, RegisterRecord

from deploy.local.node import Node
from tests.integration.node.callers import Caller
from tests.integration.node.people import client_of, organisation, person
from tests.journeys.mandates import ALLOWED, DENIED, Keeper, check, form, known_as, make_theme, on_behalf


async def test_a_delegate_who_is_blocked_half_way_through_a_session_goes_no_further(node: Node):
    owner, helper = person(), person()
    last_day = (datetime.now(UTC).date() + timedelta(days=30)).isoformat()
    async with (
        client_of(node, organisation(9012345), "themes.manage", "mandates.check") as office,
        client_of(node, organisation(1122334), "registers.manage", "registers.import") as register,
        client_of(node, owner, "mandates.write") as hers,
        client_of(node, helper, "mandates.read") as his,
    ):
        theme, keeper = await make_theme(office), Keeper(register)
        await keeper.open("block")
        mandate = Mandate(
            kind=Mandate.KIND_ACT, delegate=known_as(helper), theme=theme, validity=ValidityPeriod(last_day=last_day)
        )
        request = api.CreateMandateRequest(mandate=mandate)
        given = await hers.call(hers.stub(MandateServiceStub).CreateMandate, request)
        status, granted = await on_behalf(his, principal=given.principal.name, theme=theme)
        assert status == 200
        caller = Caller(office.profile.edge, office.profile.files, await office.token())
        question: dict[str, Any] = {
            "subject": {"type": "person", "id": given.delegate.name},
            "action": {"name": theme},
            "resource": {"type": "person", "id": given.principal.name},
        }

        async def goes_on() -> tuple[bool, bool, bool, int]:
            """What the node says at each of its doors, now."""
            answer = await check(office, theme, helper, owner)
            assert answer.decision in (ALLOWED, DENIED)
            _, decided = await caller.rest("POST", "/access/v1/evaluation", question)
            _, known = await form(his, "/oauth2/introspect", token=granted["access_token"])
            status, _ = await on_behalf(his, principal=given.principal.name, theme=theme)
            return answer.decision == ALLOWED, decided["decision"], known["active"], status

        assert await goes_on() == (True, True, True, 200)
        ban = Block(party=known_as(helper), kind="business-ban", effect=Block.EFFECT_ACTING)
        await keeper.says(RegisterRecord(record_id="ban", block=ban))
        assert await goes_on() == (False, False, False, 400)
        await keeper.says()
        assert await goes_on() == (True, True, True, 200), "the mandate itself was never touched"
