"""A death that a register records, and what it does to a mailbox at the other service."""

from __future__ import annotations

import asyncio

from solmu.authorisations.v1.register_records_pb2 import PersonStatus, RegisterRecord

from deploy.local.node import Node
from tests.integration.node.people import client_of, organisation, person
from tests.journeys.mandates import Keeper, known_as

PATIENCE = 60.0


async def test_a_death_in_a_register_closes_the_mailbox_until_it_is_taken_back(node: Node):
    dying = person()
    async with (
        client_of(node, organisation(1234567), "registers.manage", "registers.import") as register,
        client_of(node, dying, "mailbox.read", "mailbox.write") as hers,
    ):
        mailbox = (await hers.rest("POST", "/v1/mailboxes:open", {}))["name"]
        keeper = Keeper(register)
        await keeper.open("person_status")

        async def until(state: str) -> dict:
            async with asyncio.timeout(PATIENCE):
                while (found := await hers.rest("GET", f"/v1/{mailbox}"))["state"] != state:
                    await asyncio.sleep(0.1)
            return found

        status = PersonStatus(person=known_as(dying), death_day="2026-11-01")
        await keeper.says(RegisterRecord(record_id="1", person_status=status))
        closing = (await until("STATE_CLOSED"))["closing"]
        assert closing["reason"] == "REASON_DEATH"
        assert closing["reference"].startswith(f"{keeper.register}/records/")
        await keeper.says()
        assert "closing" not in await until("STATE_OPEN")
