"""`solmu evidence`: containers checked, by whoever has them and without a node."""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.client.command.output import Output, UsageError, aligned
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
    group = commands.add_parser("evidence", help="check the evidence of exchanges")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
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


def _verify(given: argparse.Namespace, out: Output) -> int:
    anchors = Anchors(
        authorities=_certificates(given.trust),
        signers=_certificates(given.signer),
        max_status_age=timedelta(seconds=given.max_status_age),
    )
    beside = _beside(given)
    contents = (_bounded(path, container.MAX_BYTES) for path in given.files)
    reports = [verifying.verify(each, anchors=anchors, beside=beside) for each in contents]
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
