"""`registers`: taking in what a register says, from a file."""

from __future__ import annotations

import argparse
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from solmu.authorisations.v1.register_records_pb2 import RegisterRecord
from solmu.authorisations.v1.registers_pb2 import Import, ImportRecordsRequest
from solmu.authorisations.v1.registers_pb2_grpc import RegisterServiceStub

from gateway.client.client import Client
from gateway.client.command import lines
from gateway.client.command.output import Output, UsageError
from gateway.client.transfers import Progress
from services.runtime import status

BATCH = 500
"""Records sent in one part."""

WITHIN = 3600.0
"""Seconds for an import, as the contract has it."""


def add(commands: Any) -> None:
    """Adds the commands."""
    group = commands.add_parser("registers", help="registers: take in what they say")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    take = actions.add_parser("import", help="take in a file: all that the register says, or with --builds-on a delta")
    take.add_argument("register", metavar="registers/ID")
    take.add_argument("file", type=Path, help="JSON lines, each a RegisterRecord of the contract")
    take.add_argument("--as-of", help="as of when it speaks, as 2026-03-02T12:00:00Z (default: now)")
    take.add_argument("--builds-on", default="", metavar="registers/ID/imports/ID", help="the import before a delta")
    take.add_argument("--request-id", metavar="UUID", help="of an import that is tried again (default: a new one)")
    take.set_defaults(remote=_import)


async def _import(client: Client, given: argparse.Namespace, out: Output) -> None:
    """Sends nothing of a file of which a line is broken."""
    count = sum(1 for _ in lines.read(given.file, RegisterRecord))
    header = ImportRecordsRequest.Header(
        register=given.register,
        mode=Import.MODE_DELTA if given.builds_on else Import.MODE_SNAPSHOT,
        as_of=_instant(given.as_of),
        builds_on=given.builds_on,
        request_id=given.request_id or str(uuid.uuid4()),
    )
    take: Any = client.stub(RegisterServiceStub).ImportRecords
    try:
        with out.bar("records", str) as bar:
            parts = _parts(header, given.file, count, bar)
            taken = await take(parts, metadata=await client.metadata(), timeout=WITHIN)
    except grpc.RpcError as error:
        raise status.fault_of(error) from None
    out.one(taken)


async def _parts(
    header: ImportRecordsRequest.Header, file: Path, count: int, progress: Progress
) -> AsyncIterator[ImportRecordsRequest]:
    yield ImportRecordsRequest(header=header)
    records, done = lines.read(file, RegisterRecord), 0
    while batch := list(islice(records, BATCH)):
        yield ImportRecordsRequest(batch=ImportRecordsRequest.Batch(records=batch))
        done += len(batch)
        progress(done, count)
    yield ImportRecordsRequest(trailer=ImportRecordsRequest.Trailer(record_count=count))


def _instant(text: str | None) -> Timestamp:
    found = Timestamp()
    if text is None:
        found.FromDatetime(datetime.now(UTC))
        return found
    try:
        found.FromJsonString(text)
    except ValueError:
        raise UsageError("--as-of is no instant, such as 2026-03-02T12:00:00Z") from None
    return found
