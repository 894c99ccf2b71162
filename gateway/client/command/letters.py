"""`letters`: the spool, for a print house."""

from __future__ import annotations

import argparse
import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from solmu.messages.v1.letters_pb2 import ClaimLettersRequest, Letter, ReportLettersRequest
from solmu.messages.v1.messages_pb2 import Delivery

from gateway.client.client import Client
from gateway.client.command.output import Output, UsageError, label
from services.runtime import status
from services.runtime.errors import FailedPrecondition

AT_ONCE = 8
"""Letters downloaded beside one another."""

MOST_REPORTS = 1000
"""What one call takes."""

STATES = ("submitted", "printed", "posted", "deposited", "receipt-confirmed", "returned", "unresolved", "failed")


def add(commands: Any) -> None:
    """Adds the commands."""
    group = commands.add_parser("letters", help="print and post letters: for a print house")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    claim = actions.add_parser("claim", help="claim letters that wait, and download them")
    claim.add_argument("folder", type=Path, help="for each letter, LETTER.pdf and the ticket LETTER.json")
    claim.add_argument("-n", "--number", type=int, default=100, help="at most so many (default: 100)")
    claim.add_argument("--lease", type=int, default=3600, metavar="SECONDS", help="for how long (default: an hour)")
    claim.set_defaults(remote=_claim)

    report = actions.add_parser("report", help="report letters; print them once `submitted` has been taken")
    report.add_argument("state", choices=STATES)
    report.add_argument("ticket", type=Path, nargs="+", metavar="LETTER.json")
    report.add_argument("--time", help="when it happened, as 2026-03-02T12:00:00Z (default: now)")
    report.add_argument("--cost", nargs=2, metavar=("AMOUNT", "CURRENCY"), help="of each letter, such as 1.21 EUR")
    report.set_defaults(remote=_report)


async def _claim(client: Client, given: argparse.Namespace, out: Output) -> None:
    given.folder.mkdir(parents=True, exist_ok=True)
    request = ClaimLettersRequest(max_letters=given.number)
    request.lease.FromTimedelta(timedelta(seconds=given.lease))
    letters = (await client.call(client.letters.ClaimLetters, request)).letters
    gate = asyncio.Semaphore(AT_ONCE)

    done = 0

    async def fetch(letter: Letter) -> None:
        nonlocal done
        base = given.folder / letter.name.removeprefix("letters/")
        async with gate:
            await client.download_file(letter.attachment, base.with_suffix(".pdf"), sha256=letter.sha256)
        base.with_suffix(".json").write_text(json_format.MessageToJson(letter), encoding="utf-8")
        done += 1
        bar(done, len(letters))

    with out.bar("letters", str) as bar:
        await asyncio.gather(*(fetch(letter) for letter in letters))
    rows = [
        (letter.name, str(letter.page_count), "1" if letter.options.single_sided else "2", letter.options.cost_centre)
        for letter in letters
    ]
    out.table(("letter", "pages", "sides", "cost centre"), letters, rows)


async def _report(client: Client, given: argparse.Namespace, out: Output) -> None:
    """Prints what was taken, and then says of each other letter why it was not."""
    reports = [_made(file, given) for file in given.ticket]
    letters: list[Letter] = []
    refused: list[str] = []
    for start in range(0, len(reports), MOST_REPORTS):
        request = ReportLettersRequest(reports=reports[start : start + MOST_REPORTS])
        answer = await client.call(client.letters.ReportLetters, request, attempts=5)  # a repeat changes nothing
        reasons = {refusal.index: status.from_status(refusal.status).reason for refusal in answer.refusals}
        letters += [letter for index, letter in enumerate(answer.letters) if index not in reasons]
        refused += [f"{answer.letters[index].name} ({reason})" for index, reason in reasons.items()]
    rows = [(letter.name, label(Delivery.State.Name(letter.state))) for letter in letters]
    out.table(("letter", "state"), letters, rows)
    if refused:
        raise FailedPrecondition("REPORTS_REFUSED", f"not taken, do not print: {', '.join(refused)}")


def _made(file: Path, given: argparse.Namespace) -> ReportLettersRequest.Report:
    try:
        ticket = json_format.Parse(file.read_text(encoding="utf-8"), Letter())
        time = Timestamp()
        if given.time:
            time.FromJsonString(given.time)
        else:
            time.GetCurrentTime()
    except (json_format.ParseError, ValueError) as error:
        raise UsageError(f"{file}: neither a ticket of `letters claim` nor a time as it should be: {error}") from None
    amount, currency = given.cost or ("", "")
    state = Delivery.State.Value(f"STATE_{given.state.upper().replace('-', '_')}")
    return ReportLettersRequest.Report(
        letter=ticket.name, claim=ticket.claim, state=state, time=time, cost=amount, cost_currency=currency
    )
