"""`evidence`: listed and saved from a node; containers checked, by whoever has them and without a node."""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from solmu.exchange.v1 import evidence_pb2, evidence_pb2_grpc
from solmu.exchange.v1.evidence_pb2 import Statement
from solmu.exchange.v1.identifiers_pb2 import Requester

from gateway.client.client import Client
from gateway.client.command.output import Output, UsageError, aligned, label, plain
from services.exchange.evidence import container, verifying
from services.exchange.evidence.signatures import BatchPlace
from services.exchange.evidence.statements import MAX_BYTES as MAX_STATEMENT_BYTES
from services.exchange.evidence.verifying import Anchors, Beside, Outcome, Report

PROVEN, FAILED, UNKNOWN = 0, 1, 4
VERDICTS = {
    Outcome.HOLDS: ("proven", PROVEN),
    Outcome.FAILS: ("DOES NOT HOLD", FAILED),
    Outcome.UNKNOWN: ("not proven: something is unknown", UNKNOWN),
}

MAX_ANCHOR_BYTES = 1024 * 1024
"""Length of a file of certificates; larger ones in a folder are something else."""


def add(commands: Any) -> None:
    """Adds the group to the grammar."""
    group = commands.add_parser("evidence", help="the evidence of exchanges: list, get, verify")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="list the statements of a subsystem, latest first")
    _subsystem(listing)
    listing.add_argument("--subject", default="", metavar="NAME", help="only those of this exchange or envelope")
    listing.add_argument("--defective", action="store_true", help="only what was refused because it did not hold")
    listing.add_argument("-n", "--number", type=int, default=50, help="at most so many (default: 50)")
    listing.set_defaults(remote=_list)

    get = actions.add_parser("get", help="save the container of a statement, and what belongs beside it")
    get.add_argument("name", metavar="statements/SHA256")
    _subsystem(get)
    get.add_argument("--to", type=Path, default=Path(), metavar="FOLDER", help="where (default: here)")
    get.add_argument("--pending", action="store_true", help="also without its time stamp")
    get.set_defaults(remote=_get)

    verify = actions.add_parser(
        "verify",
        help="check containers, step by step and offline",
        description="Exit status: 0 all is proven, 1 something does not hold, 4 something is unknown.",
    )
    verify.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a container (.asice)")
    verify.add_argument(
        "--trust",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="certificates of authorities that you trust: a file (PEM or DER), or a folder of them; may be repeated",
    )
    verify.add_argument(
        "--signer",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="certificates that you know to be the sender's, the same way",
    )
    for name in ("head", "body", "trailers"):
        verify.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"the {name}, to hold against the statement")
    verify.add_argument("--statement", type=Path, metavar="FILE", help="of a signature over a batch: the statement")
    verify.add_argument("--place", type=Path, metavar="FILE", help="and its place: count, index and path, as JSON")
    verify.add_argument(
        "--max-status-age",
        type=int,
        default=int(Anchors().max_status_age.total_seconds()),
        metavar="SECONDS",
        help="how old a certificate's status may be when it signs (default: %(default)s)",
    )
    verify.set_defaults(local=_verify)


def _subsystem(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--subsystem", default="", metavar="subsystems/ID", help="in whose name, where of several")


async def _list(client: Client, given: argparse.Namespace, out: Output) -> None:
    stub: evidence_pb2_grpc.EvidenceServiceAsyncStub = client.stub(evidence_pb2_grpc.EvidenceServiceStub)
    request = evidence_pb2.ListStatementsRequest(
        requester=Requester(subsystem=given.subsystem),
        subject=given.subject,
        defective_only=given.defective,
        page_size=min(given.number, 1000),
    )
    found = []
    async with aclosing(client.items(stub.ListStatements, request)) as items:
        async for statement in items:
            found.append(statement)
            if len(found) == given.number:
                break
    rows = [
        (
            each.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S"),
            label(Statement.Kind.Name(each.kind), "KIND_"),
            "own" if each.own else "received",
            each.defect or label(Statement.TimeStampState.Name(each.time_stamp_state), "TIME_STAMP_STATE_"),
            each.name,
        )
        for each in found
    ]
    out.table(("TIME", "KIND", "WHOSE", "STAMP", "NAME"), found, rows)


async def _get(client: Client, given: argparse.Namespace, out: Output) -> None:
    stub: evidence_pb2_grpc.EvidenceServiceAsyncStub = client.stub(evidence_pb2_grpc.EvidenceServiceStub)
    requester = Requester(subsystem=given.subsystem)
    asked = evidence_pb2.GetStatementRequest(name=given.name, requester=requester)
    statement = await client.call(stub.GetStatement, asked)
    export = evidence_pb2.ExportEvidenceRequest(name=given.name, requester=requester, allow_pending=given.pending)
    content, stem = b"", given.to / given.name.removeprefix("statements/")[:16]
    with out.bar(stem.name) as bar:
        async with aclosing(client.stream(stub.ExportEvidence, export)) as pieces:
            async for piece in pieces:
                content += piece.data
                bar(len(content), 0)
    given.to.mkdir(parents=True, exist_ok=True)
    files = {stem.with_suffix(container.EXTENSION): content}
    if statement.proof.signature.HasField("batch"):
        files[stem.with_suffix(".txt")] = statement.proof.statement
        files[stem.with_suffix(".json")] = json.dumps(plain(statement.proof.signature.batch)).encode()
    for path, held in files.items():
        path.write_bytes(held)
        if out.as_json:
            out.line({"file": str(path), "bytes": len(held)})
        else:
            print(path)


def _verify(given: argparse.Namespace, out: Output) -> int:
    anchors = Anchors(
        authorities=_certificates(given.trust),
        signers=_certificates(given.signer),
        max_status_age=timedelta(seconds=given.max_status_age),
    )
    beside = _beside(given)
    contents = (_bounded(path, container.MAX_BYTES) for path in given.files)
    reports: list[Report] = []
    with out.bar("containers", str) as bar:
        for each in contents:
            reports.append(verifying.verify(each, anchors=anchors, beside=beside))
            bar(len(reports), len(given.files))
    verifying.check_binding(reports)
    for path, report in zip(given.files, reports, strict=True):
        if out.as_json:
            out.line(_plain(path, report))
        else:
            _print(path, report)
    statuses = {VERDICTS[report.outcome][1] for report in reports}
    return FAILED if FAILED in statuses else max(statuses)


def _beside(given: argparse.Namespace) -> Beside:
    contents = {name: getattr(given, name) for name in ("head", "body", "trailers") if getattr(given, name)}
    if (contents or given.statement) and len(given.files) > 1:
        raise UsageError("what lies beside a container belongs to one: name one container only")
    if bool(given.statement) != bool(given.place):
        raise UsageError("--statement and --place go together")
    return Beside(
        statement=_bounded(given.statement, MAX_STATEMENT_BYTES) if given.statement else b"",
        place=_place(given.place) if given.place else None,
        content={name: _digest(path) for name, path in contents.items()},
    )


def _place(path: Path) -> BatchPlace:
    """A `BatchPlace` of the contract, as REST shows it."""
    try:
        found = json.loads(_bounded(path, 64 * 1024))
        nodes = tuple(base64.b64decode(each, validate=True) for each in found.get("path", ()))
        return BatchPlace(int(found["count"]), int(found.get("index", 0)), nodes)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path} does not say a place in a batch: count, index and path as JSON") from None


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return digest, stream.tell()


def _bounded(path: Path, limit: int) -> bytes:
    """A file's content; of a larger one so much that it is seen to be too large."""
    with path.open("rb") as stream:
        return stream.read(limit + 1)


def _certificates(paths: Iterable[Path]) -> Sequence[bytes]:
    """All certificates in the files, and in the files of the folders, as DER."""
    found: list[bytes] = []
    for path in paths:
        for file in sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]:
            content = _bounded(file, MAX_ANCHOR_BYTES)
            try:
                loaded = (
                    x509.load_pem_x509_certificates(content)
                    if b"-----BEGIN" in content
                    else [x509.load_der_x509_certificate(content)]
                )
            except ValueError:
                raise UsageError(f"{file} holds no certificate, in PEM or DER") from None
            found.extend(each.public_bytes(Encoding.DER) for each in loaded)
    return found


def _print(path: Path, report: Report) -> None:
    print(f"{path}: {VERDICTS[report.outcome][0]}")
    rows = [
        (f"  {each.outcome.value}", each.step.value, f"{each.reason}: {each.text}" if each.reason else each.text)
        for each in report.findings
    ]
    for line in aligned(rows):
        print(line)


def _plain(path: Path, report: Report) -> dict[str, Any]:
    """A report for programs."""
    said = report.statement
    return {
        "file": str(path),
        "outcome": report.outcome.name,
        "statement": {"kind": said.kind.value, **said.lines} if said else None,
        "statementSha256": said.sha256.hex() if said else None,
        "provenTime": report.proven_time.isoformat() if report.proven_time else None,
        "findings": [
            {
                "step": each.step.name,
                "outcome": each.outcome.name,
                "reason": each.reason or None,
                "text": each.text,
            }
            for each in report.findings
        ],
    }
