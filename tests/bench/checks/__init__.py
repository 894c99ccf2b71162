"""Checks: the node's beside other engines', on the same mandates in the same run.

    python -m tests.bench --only checks --sizes 10000,100000,1000000

The node is measured at each number of mandates, the others at the largest.
Of each: checks in a second one after another, of a mandate of one's own and of
one's firm, with median and 99th percentile; sixteen calls at once; batches; and
every answer compared with the one that follows from how the mandates were made.

What to make of it: libraries, servers and what asks them share the cores, so
that rows of one run compare and runs do not; where other work shares them too,
compare processor time. What each does for a check is printed with it: only the
node leaves an entry of a signed record on disk before it answers.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil

from deploy.local.node import Node, NodeSettings, running
from deploy.local.postgres import SUPERUSER
from services.runtime import mesh, tls
from tests.bench.checks import loading, measuring, ours, revoking, world
from tests.bench.checks.fetching import CERBOS, SPICEDB, Fetched
from tests.bench.checks.measuring import Figures
from tests.integration.node.people import client_of, organisation

SIZES = (10_000, 100_000, 1_000_000)
SECONDS = 2.0
BATCH = 1000
PEER_WITHIN = 600.0
"""Seconds for a peer to load and be measured; most of it goes into SpiceDB's rows."""

SETTLE_WITHIN = 300.0

EDGE = ("envoy", "gateway")
"""What stands before the service, for those who come through the edge."""

HELD_SIZE = 100_000
"""Mandates that cedarpy is measured with when it holds them all: it needs some ten kilobytes for each."""


ALIKE = """
  what a check includes        over the network   caller proved   facts found       answer on record
  Solmu, gRPC and AuthZEN      mutual TLS         yes             yes, newest       on disk, chained and signed
  Solmu, facts in consumer     no                 no              yes, some ms old  on disk a quarter of a second later
  Solmu, without a record      no                 no              yes, some ms old  no: for comparison alone
  Cerbos, handed the facts     without TLS        no              no: at hand       no
  Cerbos, as alike as it gets  TLS                no              yes, newest       in a file, not yet on disk
  SpiceDB                      no: in process     no              yes, newest       no
  cedarpy, casbin              no: in process     no              as it says        no
  CPU us: processor time for a check, one by one, sixteen at once and in batches, of asker, engine and database together
"""


@dataclass(frozen=True)
class Options:
    """What can be chosen."""

    sizes: Sequence[int] = SIZES
    seconds: float = SECONDS
    peers: bool = True


async def measure(state: Path, options: Options) -> None:
    """Prints a table, and the time that a revocation takes."""
    print("checks; direct and represented one after another, us; all rates are checks/s")
    print(
        f"  {'engine':<34} {'mandates':>9} {'direct/s':>8} {'p50':>6} {'p99':>7}  {'repr./s':>8} {'p50':>6} {'p99':>7}"
        f"  {'16 at once':>10} {'batches':>8} {'CPU us':>15} {'asked':>7} {'wrong':>5}"
    )
    async with running(NodeSettings(state=state, edge_port=0)) as node:
        await _own(node, options)
        if options.peers:
            await _peers(node, options, Fetched(state.parent / "peers"))
    print(ALIKE)


async def _own(node: Node, options: Options) -> None:
    laid = 0
    async with (
        client_of(node, organisation(1234567), "mandates.check") as asking,
        client_of(node, organisation(2345678), "mandates.write") as owner,
        ours.straight(node) as service,
        ours.embedded(node) as consumer,
    ):
        for size in options.sizes:
            before = _memory(node), psutil.Process().memory_info().rss
            await asyncio.to_thread(asyncio.run, _lay(node, laid, size))
            token = (await service.head()).consistency_token
            followed = [await ours.seconds_until(one.until, token) for one in (service, consumer)]
            held = _memory(node) - before[0], psutil.Process().memory_info().rss - before[1]
            laid = size
            async with ours.authzen(asking) as authzen:
                for name, engine, batch, others in (
                    ("Solmu, gRPC", service, BATCH, ["authorisations", "postgres"]),
                    ("Solmu, AuthZEN through the edge", authzen, BATCH, ["authorisations", "postgres", *EDGE]),
                    ("Solmu, facts in the consumer", consumer, 0, ["authorisations", "postgres"]),
                    ("Solmu, that without a record", consumer.unrecorded(), 0, []),
                ):
                    figures = await measuring.measure(
                        engine,
                        size,
                        seconds=options.seconds,
                        batch=batch,
                        together=batch > 0,
                        others=[_pid(node, other) for other in others],
                    )
                    _print(name, size, figures)
            print(
                f"    facts known after {followed[0]:.1f} s in the service, {sum(followed):.1f} s in the consumer;"
                f" memory {held[0] / 1e6:+.0f} and {held[1] / 1e6:+.0f} MB",
                flush=True,
            )
        for where, lags in (await revoking.measure(owner, service, consumer)).items():
            print(f"    a revocation is in effect {where} {lags}", flush=True)


async def _lay(node: Node, begin: int, end: int) -> None:
    """Lays mandates, and has PostgreSQL tidy up after it, which would slow down what is measured.

    Run beside this process's own work, which must not wait for so much of it.
    """
    files = node.state.identity("authorisations")
    database = await asyncpg.connect(_address(node, "authorisations", "authorisations"), ssl=tls.client_context(files))
    if begin == 0:
        await loading.lay_theme(database, world.THEME)
    await loading.lay(database, world.mandates(begin, end), theme_id=world.THEME)
    await loading.announce(database)
    await database.close()
    administrator = await _administrator(node, "authorisations")
    await administrator.execute("vacuum analyze mandate", timeout=SETTLE_WITHIN)
    await administrator.execute("checkpoint", timeout=SETTLE_WITHIN)
    await administrator.close()


async def _peers(node: Node, options: Options, fetched: Fetched) -> None:
    await fetched.fetch()
    largest = max(options.sizes)
    proof = node.state.identity(mesh.OPERATOR)
    held = ["--certificate", proof.certificate, "--key", proof.key, "--authorities", proof.authorities]
    held += ["--postgres", _pid(node, "postgres")]
    spicedb = [*held, "--database", await _own_database(node, "spicedb")]
    cerbos = [*held, "--database", await _own_database(node, "cerbos"), "--program", fetched.path(CERBOS)]
    for label, module, needs, size, arguments in (
        ("casbin, holding all", "pycasbin", [], largest, []),
        ("cedarpy, handed the facts", "cedar", [], largest, ["--held", "no"]),
        ("cedarpy, holding all", "cedar", [], min(HELD_SIZE, largest), ["--held", "yes"]),
        ("Cerbos, handed the facts", "cerbos_server", [CERBOS], largest, [*cerbos, "--alike", "no"]),
        ("Cerbos, as alike as it gets", "cerbos_server", [CERBOS], largest, [*cerbos, "--alike", "yes"]),
        ("SpiceDB on PostgreSQL", "spicedb", [SPICEDB], largest, spicedb),
    ):
        if missing := fetched.missing(*needs):
            print(f"  {label:<34} {missing}")
            continue
        await _peer(label, module, size, options, fetched, [str(one) for one in arguments])


async def _peer(
    label: str, module: str, size: int, options: Options, fetched: Fetched, arguments: Sequence[str]
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"tests.bench.checks.peers.{module}", "--size", str(size)),
        *("--seconds", str(options.seconds), "--batch", str(BATCH), *arguments),
        env=fetched.environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, complaint = await asyncio.wait_for(process.communicate(), PEER_WITHIN)
    except TimeoutError:
        process.kill()
        await process.wait()
        print(f"  {label:<34} {size:>9} not within {PEER_WITHIN:.0f} s", flush=True)
        return
    if process.returncode:
        lines = complaint.decode(errors="replace").strip().splitlines()
        print(f"  {label:<34} {size:>9} failed: {lines[-1] if lines else process.returncode}", flush=True)
        return
    _print(label, size, Figures(**json.loads(said.splitlines()[-1])))


def _print(label: str, size: int, figures: Figures) -> None:
    together, batches = (f"{one:.0f}" if one else "-" for one in (figures.together, figures.batches))
    costs = figures.single_cpu, figures.together_cpu, figures.batch_cpu
    work = " ".join(f"{one:.0f}" if one else "-" for one in costs)
    print(
        f"  {label:<34} {size:>9} {figures.direct:8.0f} {figures.p50:6.0f} {figures.p99:7.0f}"
        f"  {figures.represented:8.0f} {figures.represented_p50:6.0f} {figures.represented_p99:7.0f}"
        f"  {together:>10} {batches:>8} {work:>15} {figures.asked:7} {figures.wrong:5}",
        flush=True,
    )
    for note in figures.notes:
        print(f"    {note}", flush=True)


def _memory(node: Node) -> int:
    """Memory of the service's process, in bytes."""
    return int(psutil.Process(_pid(node, "authorisations")).memory_info().rss)


def _pid(node: Node, process: str) -> int:
    pid = node.processes[process].pid
    assert pid is not None
    return pid


def _address(node: Node, role: str, database: str) -> str:
    return f"postgresql://{role}@127.0.0.1:{node.ports['postgres']}/{database}"


async def _own_database(node: Node, name: str) -> str:
    """A database of a peer's own; its address, for the certificate of the operator."""
    administrator = await _administrator(node, "postgres")
    await administrator.execute(f'create database "{name}"')
    await administrator.close()
    return _address(node, SUPERUSER, name)


async def _administrator(node: Node, database: str) -> asyncpg.Connection:
    context = tls.client_context(node.state.identity(mesh.OPERATOR))
    return await asyncpg.connect(_address(node, SUPERUSER, database), ssl=context)
