"""Checks straight at the service, single and in batches.

The mandates are laid into the database as the service would have written them;
half of the questions have a mandate behind them and half have not, and every
answer is compared with what was laid. Calls come one at a time over mTLS, from
the same cores.
"""

from __future__ import annotations

import ssl
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import grpc
from solmu.authorisations.v1 import checks_pb2, checks_pb2_grpc, themes_pb2
from solmu.authorisations.v1.parties_pb2 import Party

from deploy.local.node import Node, NodeSettings, running
from services.runtime import mesh, tls
from services.runtime.parties import NAME_BYTES
from tests.bench.report import percentile

SIZES = (10_000, 100_000)
SINGLE_SECONDS = 4.0
BATCH = 1000
BATCHES = 10
THEME = "bench"


def _party(kind: str, number: int) -> str:
    digits, text = number, ""
    while len(text) < NAME_BYTES * 8 // 5 + 1:
        digits, digit = divmod(digits, 26)
        text = chr(ord("a") + digit) + text
    return f"{kind}/{text}"


def _question(number: int, size: int) -> tuple[checks_pb2.CheckRequest, bool]:
    """A check, and whether it is allowed: every other one asks the neighbour's customer."""
    place = number * 7919 % size
    allowed = number % 2 == 0
    delegate, principal = _party("persons", place), _party("organisations", place if allowed else (place + 1) % size)
    request = checks_pb2.CheckRequest(
        delegate=Party(name=delegate), principal=Party(name=principal), theme=f"themes/{THEME}"
    )
    return request, allowed


async def measure(state: Path) -> None:
    """Prints a table: checks per second, latencies and wrong answers at each number of mandates."""
    async with running(NodeSettings(state=state, edge_port=0)) as node:
        options = [("grpc.ssl_target_name_override", "authorisations"), ("grpc.max_receive_message_length", 2**24)]
        files = node.state.identity(mesh.GATEWAY)
        target = f"127.0.0.1:{node.ports['authorisations']}"
        credentials = tls.channel_credentials(files)
        async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
            stub = checks_pb2_grpc.CheckServiceStub(channel)
            print("checks, gRPC straight to the service, one call at a time; each is recorded")
            print(f"  {'mandates':>9}  {'checks/s':>8} {'p50 ms':>7} {'p99 ms':>7}  {'in batches of 1000':>18}  wrong")
            laid = 0
            for size in SIZES:
                await _lay(node, laid, size)
                laid = size
                await _print(stub, size)
        print()


async def _print(stub: checks_pb2_grpc.CheckServiceAsyncStub, size: int) -> None:
    wrong, latencies, number = 0, [], 0
    begin = time.perf_counter()
    while time.perf_counter() < begin + SINGLE_SECONDS:
        request, allowed = _question(number, size)
        started = time.perf_counter()
        answer = await stub.Check(request)
        latencies.append(time.perf_counter() - started)
        wrong += (answer.decision == checks_pb2.DECISION_ALLOWED) is not allowed
        number += 1
    begin = time.perf_counter()
    for batch in range(BATCHES):
        questions = [_question(batch * BATCH + place, size) for place in range(BATCH)]
        answers = await stub.BatchCheck(checks_pb2.BatchCheckRequest(checks=[request for request, _ in questions]))
        for (_, allowed), one in zip(questions, answers.results, strict=True):
            wrong += (one.response.decision == checks_pb2.DECISION_ALLOWED) is not allowed
    rate = BATCH * BATCHES / (time.perf_counter() - begin)
    p50, p99 = (percentile(latencies, share) * 1000 for share in (0.5, 0.99))
    single = len(latencies) / SINGLE_SECONDS
    print(f"  {size:>9}  {single:8.0f} {p50:7.2f} {p99:7.2f}  {rate:11.0f} checks/s  {wrong:5}", flush=True)


async def _lay(node: Node, laid: int, size: int) -> None:
    """Makes the mandates from `laid` to `size`."""
    files = node.state.identity("authorisations")
    address = f"postgresql://authorisations@127.0.0.1:{node.ports['postgres']}/authorisations"
    context: ssl.SSLContext = tls.client_context(files)
    connection = await asyncpg.connect(address, ssl=context)
    now = datetime.now(UTC)
    theme = themes_pb2.Theme(longest_terms=[themes_pb2.Theme.LongestTerm(kind=1, months=60)])  # type: ignore[arg-type]
    try:
        await connection.execute(
            "insert into theme values ($1, $1, 'organisations/bench', $2, 2, $3, $3, $3, 1) on conflict do nothing",
            THEME,
            theme.SerializeToString(),
            now,
        )
        numbers = range(laid, size)
        await connection.execute(
            "insert into mandate (mandate_id, kind, principal, delegate, theme_id, specifier, first_day, last_day,"
            " start_time, end_time, stored, rule, confirmers, confirm_until, requested_by, group_id, create_time,"
            " update_time, confirmations, confirm_time, revision, held_from, held_until)"
            " select id, 1, principal, delegate, $4, '', $5::timestamptz::date, $6::timestamptz::date, $5, $6, 4, '[]',"
            " '{}', $6, '{}', id, $5, $5, '[]', $5, 1, $5, $6"
            " from unnest($1::uuid[], $2::text[], $3::text[]) as given (id, principal, delegate)",
            [uuid.uuid4() for _ in numbers],
            [_party("organisations", number) for number in numbers],
            [_party("persons", number) for number in numbers],
            THEME,
            now - timedelta(days=1),
            now + timedelta(days=365),
        )
        await connection.execute("analyze mandate")
    finally:
        await connection.close()
