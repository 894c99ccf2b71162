"""An organisation that was offline for a week catches up by itself.

The week passes for everything that looks at a clock in the exchange: retries,
leases, the time of envelopes and statements, retention, the directory's own.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from solmu.exchange.v1 import access_rights_pb2, directory_pb2, policies_pb2
from solmu.exchange.v1.envelopes_pb2 import DeliveryState

from services.exchange import names
from services.exchange.carrying import MAX_BACKOFF
from services.exchange.housekeeping import Housekeeping
from tests.integration.exchange import calls, mesh
from tests.integration.exchange.envelopes import (
    ACKNOWLEDGED,
    CITY,
    COMPANY,
    acknowledge,
    act,
    receive,
    recipients,
    send,
    unreachable,
    until,
)
from tests.integration.exchange.mesh import Node

DAY = timedelta(days=1)


class Travelling(datetime):
    """A clock that can be set ahead."""

    ahead = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # a plain datetime
        return datetime.now(tz) + cls.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Travelling]:
    """The clock by which all of the exchange goes, in this process, until the test is over."""
    monkeypatch.setattr(Travelling, "ahead", timedelta())
    for name, module in list(sys.modules.items()):
        if name.startswith("services.exchange") and getattr(module, "datetime", None) is datetime:
            monkeypatch.setattr(module, "datetime", Travelling)
    return Travelling


@pytest.fixture
async def pair(tmp_path: Path, clock: type[Travelling]) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes that nobody else uses: their week is over for good."""
    async with (
        mesh.node("FI/MUN/1/node", tmp_path / "city") as city,
        mesh.node("FI/COM/2/node", tmp_path / "company") as company,
    ):
        description = await mesh.found(city)
        await mesh.join(company, city, description.fingerprint)
        await mesh.serve(city, city, "FI/MUN/1/letters")
        await mesh.serve(company, city, "FI/COM/2/register")
        await city.refresh()
        for node, own, other in ((city, CITY, COMPANY), (company, COMPANY, CITY)):
            without = policies_pb2.ExchangePolicy.TimeStamping(mode=policies_pb2.ExchangePolicy.TimeStamping.MODE_NONE)
            policy = await calls.policy(node, time_stamping=without)  # this mesh has no authority that stamps time
            await calls.host(node, names.identifier(own, 4), clients=["clients/system"], policy=policy)
            act()
            await node.exchange.rights.CreateAccessRight(
                access_rights_pb2.CreateAccessRightRequest(
                    parent=f"{own}/inbox", access_right=access_rights_pb2.AccessRight(subsystem=other)
                )
            )
        yield city, company


async def tried_again(node: Node, envelope, attempts: int) -> int:
    """The number of tries, once there was one more."""
    for _ in range(400):
        (recipient,) = await recipients(node, envelope)
        if recipient.attempts > attempts:
            return recipient.attempts
        await asyncio.sleep(0.05)
    raise AssertionError(f"{recipient}")


async def test_an_organisation_that_was_offline_for_a_week_catches_up_by_itself(pair, clock, monkeypatch):
    city, company = pair
    fortnight = Timestamp()
    fortnight.FromDatetime(clock.now(UTC) + 14 * DAY)
    with unreachable(city, monkeypatch):
        usual = await send(city, b"for as long as the policy says")
        sent, attempts = [], 0
        for day in range(8):
            sent.append(await send(city, b"day %d" % day, ordering_key="case", expire_time=fortnight))
            attempts = await tried_again(city, sent[0], attempts)
            clock.ahead += DAY
            for node in pair:
                await Housekeeping(database=node.database).once(now=clock.now(UTC))
        assert attempts <= 60, "ever longer pauses, not a try every second"
        (expired,) = await until(city, usual, DeliveryState.DELIVERY_STATE_EXPIRED)
        assert not expired.statement
        await Housekeeping(database=city.database).once(now=clock.now(UTC))
        assert await city.database.fetchval("select count(*) from envelope_content") == len(sent)

    # It is back. The directory that it had has run out of time; the newer one comes with the next look.
    assert company.exchange.meshes.own.directory.expires < clock.now(UTC)
    await mesh.publish(city)
    assert (await company.refresh()).state == directory_pb2.Directory.STATE_CURRENT
    clock.ahead += MAX_BACKOFF  # the longest pause between two tries
    (first,) = await receive(company, lease=Duration(seconds=60))
    assert (first.body, first.attempt) == (b"day 0", 1)

    # It dies before it acknowledges: the first is handed out again, and marked; what follows it waits.
    clock.ahead += timedelta(minutes=2)
    for day in range(8):
        (delivery,) = await receive(company)
        assert (delivery.body, delivery.place) == (b"day %d" % day, day + 1)
        assert delivery.attempt == (2 if day == 0 else 1)
        await acknowledge(company, delivery)
    for each in sent:
        await until(city, each, ACKNOWLEDGED)
    assert await company.database.fetchval("select count(*) from arrival") == len(sent)
