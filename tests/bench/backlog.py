"""How fast evidence is journaled, logged and stamped, and how fast a backlog of time stamps is worked off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import services.exchange
from services.exchange.evidence_rules import Rules
from services.exchange.journal import Entry, Journal
from services.exchange.keeping import Keeping
from services.exchange.log_keeper import LogKeeper
from services.exchange.stamping import Stamper
from services.runtime.database import Database
from services.runtime.outbox import Outbox
from services.runtime.sealing import FIRST, Vault
from services.runtime.telemetry import Telemetry
from tests import engines
from tests.integration.exchange import trusting

STATEMENTS, CALLERS = 20_000, 64
ARRIVING = 800
"""Statements a second that a node gets which takes part in 400 exchanges a second."""


async def measure(folder: Path) -> None:
    """Journals statements as 64 callers would, without an authority; then brings one, and works off what waits."""
    async with engines.running(folder / "engines") as started, trusting.running(folder / "trust") as mesh:
        database = await Database.connect(
            started.database("exchange"), files=started.identity("exchange"), size=8, telemetry=Telemetry()
        )
        try:
            await database.migrate(Path(services.exchange.__file__).parent / "migrations")
            await _measure(database, mesh)
        finally:
            await database.close()


async def _measure(database: Database, mesh: trusting.Mesh) -> None:
    keeping = Keeping(
        vault=Vault({FIRST: bytes(32)}, current=FIRST), rules_of=lambda _: Rules(), certificate=mesh.certificate
    )
    journal = Journal(database, keep=keeping.keep)
    signer = mesh.signer()
    entries = iter([mesh.entry(signer) for _ in range(STATEMENTS)])
    arriving = await _timed(asyncio.gather(*(_caller(journal, entries) for _ in range(CALLERS))))
    keeper = LogKeeper(database=database, key=lambda: signer)
    logging = await _timed(_until_empty(keeper.append))
    outbox = Outbox(database=database, nats=None, node="solmu", service="exchange", telemetry=Telemetry())  # type: ignore[arg-type]
    stamper = Stamper(
        database=database,
        outbox=outbox,
        time_stamps=mesh.time_stamps(),
        authorities=lambda: mesh.authorities,
        interval=timedelta,
    )
    stamping = await _timed(_until_empty(stamper.stamp))
    size = await database.fetchval(
        "select sum(pg_total_relation_size(name::regclass)) from unnest(array['statement', 'evidence', 'log_node',"
        " 'stamp_batch', 'certificate_status', 'signing_certificate', 'content']) as name"
    )
    rates = [STATEMENTS / seconds for seconds in (arriving, logging, stamping)]
    print(f"evidence of {STATEMENTS} statements, {CALLERS} callers: statements a second (times those of 400 exchanges)")
    for rate, what in zip(
        rates, ("journaled, each waiting for its commit", "logged", "stamped, as a backlog is worked off"), strict=True
    ):
        print(f"  {rate:8.0f} ({rate / ARRIVING:5.1f})  {what}")
    print(f"  {size / STATEMENTS:8.0f} bytes in the database for each, indexes included\n")


async def _caller(journal: Journal, entries: Iterator[Entry]) -> None:
    for entry in entries:
        await journal.append(entry)


async def _until_empty(step: Callable[[], Awaitable[int]]) -> None:
    while await step():
        pass


async def _timed(work: Awaitable[object]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began
