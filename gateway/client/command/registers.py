"""`registers`: taking in what a register says, from a file."""

from __future__ import annotations

import argparse
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from solmu.authorisations.v1.register_records_pb2 import RegisterRecord
from solmu.authorisations.v1.registers_pb2 import Import, ImportRecordsRequest
from solmu.authorisations.v1.registers_pb2_grpc import RegisterServiceStub

from gateway.client.client import Client
from gateway.client.command.output import Output, UsageError
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
    count = sum(1 for _ in _records(given.file))
    header = ImportRecordsRequest.Header(
        register=given.register,
        mode=Import.MODE_DELTA if given.builds_on else Import.MODE_SNAPSHOT,
        as_of=_instant(given.as_of),
        builds_on=given.builds_on,
        request_id=given.request_id or str(uuid.uuid4()),
    )
    take: Any = client.stub(RegisterServiceStub).ImportRecords
    try:
        out.one(await take(_parts(header, given.file, count), metadata=await client.metadata(), timeout=WITHIN))
    except grpc.RpcError as error:
        raise status.fault_of(error) from None


async def _parts(header: ImportRecordsRequest.Header, file: Path, count: int) -> AsyncIterator[ImportRecordsRequest]:
    yield ImportRecordsRequest(header=header)
    records = _records(file)
    while batch := list(islice(records, BATCH)):
        yield ImportRecordsRequest(batch=ImportRecordsRequest.Batch(records=batch))
    yield ImportRecordsRequest(trailer=ImportRecordsRequest.Trailer(record_count=count))


def _records(file: Path) -> Iterator[RegisterRecord]:
    """The records of a file. Raises UsageError with the line that is none, without what stands in it."""
    with file.open(encoding="utf-8") as lines:
        number = 0
        try:
            for number, line in enumerate(lines, start=1):  # noqa: B007  # of the line that fails
                if line.strip():
                    yield json_format.Parse(line, RegisterRecord())
        except (json_format.ParseError, UnicodeDecodeError):
            raise UsageError(f"{file}: line {number} is no register record; nothing was sent") from None


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
