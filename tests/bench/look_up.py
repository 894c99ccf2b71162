"""How long a look-up of 10,000 identity codes takes through the edge, beside one of a single code in the same run.

Nine of ten codes have a mailbox among 100,000; every mailbox found gets its
record of the look-up, which is in the time.
"""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

from solmu.messages.v1 import mailboxes_pb2
from solmu.types.v1.types_pb2 import NationalIdentifier

from deploy.local import demo_clients
from deploy.local.node import Node, NodeSettings, running
from gateway.client import Client, Profile
from services.runtime.database import Database
from services.runtime.ids import new_id
from services.runtime.parties import PartyNames
from services.runtime.telemetry import Telemetry

CODES = 10_000
MAILBOXES = 100_000
ROUNDS = 7
_CHECKS = "0123456789ABCDEFHJKLMNPRSTUVWXY"


def codes(count: int) -> list[NationalIdentifier]:
    """Identity codes of the range kept for tests, each once."""
    found = []
    for number in range(count):
        day, individual = divmod(number, 99)
        born = f"{day % 28 + 1:02}{day // 28 % 12 + 1:02}{day // 336 % 100:02}"
        digits = f"{900 + individual:03}"
        value = f"{born}-{digits}{_CHECKS[int(born + digits) % 31]}"
        found.append(NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_HETU, value=value))
    return found


async def measure(state: Path) -> None:
    """Prints the median and the worst of some look-ups of each size."""
    async with running(NodeSettings(state=state, edge_port=0)) as node:
        await demo_clients.provision(node.state, node=node.settings.node, edge=node.edge)
        await _fill(node)
        print(f"look-up of mailboxes through the edge, {MAILBOXES:,} mailboxes")
        async with Client(Profile.load(node.state.clients / demo_clients.PERMITS.client_id)) as permits:
            for size in (1, CODES):
                seconds = []
                for _ in range(ROUNDS):
                    request = mailboxes_pb2.LookUpMailboxesRequest(
                        unit=f"units/{demo_clients.UNIT}", identifiers=codes(size)
                    )
                    began = time.perf_counter()
                    answer = await permits.call(permits.mailboxes.LookUpMailboxes, request)
                    seconds.append(time.perf_counter() - began)
                reached = sum(result.reachable for result in answer.results)
                print(
                    f"  {size:>6} codes {statistics.median(seconds) * 1000:7.1f} ms median"
                    f" {max(seconds) * 1000:7.1f} ms at worst   {reached:>6} reachable",
                    flush=True,
                )
        print()


async def _fill(node: Node) -> None:
    """Mailboxes straight into the database: of nine tenths of the codes, and of others."""
    state = node.state
    parties = PartyNames(key=(state.secrets / "party.key").read_bytes(), test_mode=True)
    owners = [parties.name_of(code) for index, code in enumerate(codes(CODES)) if index % 10]
    owners += [f"persons/{number:026}" for number in range(MAILBOXES - len(owners))]
    address = f"postgresql://messages@127.0.0.1:{node.ports['postgres']}/messages"
    database = await Database.connect(address, files=state.identity("messages"), size=1, telemetry=Telemetry())
    try:
        await database.execute(
            "insert into mailbox (mailbox_id, party, kind, state, legal_basis, legal_basis_reference, create_time,"
            " data_key) select id, party, 1, 1, 1, '', $3, 'x' from unnest($1::uuid[], $2::text[]) as t (id, party)"
            " on conflict do nothing",
            [new_id() for _ in owners],
            owners,
            datetime.now(UTC),
        )
        await database.execute("analyze mailbox")
    finally:
        await database.close()
