"""`mandates`: what parties let each other do, and whether one may act for another."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal

from solmu.authorisations.v1 import checks_pb2, rights_pb2
from solmu.authorisations.v1 import mandate_service_pb2 as api
from solmu.authorisations.v1.checks_pb2_grpc import CheckServiceStub
from solmu.authorisations.v1.mandate_service_pb2_grpc import MandateServiceStub
from solmu.authorisations.v1.mandates_pb2 import Mandate
from solmu.authorisations.v1.parties_pb2 import AssuranceLevel, Party, ValidityPeriod
from solmu.types.v1.types_pb2 import NationalIdentifier

from gateway.client.client import Client
from gateway.client.command.output import Output, UsageError, aligned, label

DENIED = 5
"""Exit status of a check that was answered with no."""

KINDS = ("act", "represent", "issue", "issue-represent")
SIDES = ("principal", "delegate", "confirmer")
LEVELS = ("low", "substantial", "high")

ENDINGS: dict[str, tuple[str, Callable[..., Any], str]] = {
    "reject": ("RejectMandate", api.RejectMandateRequest, "refuse a request that you could confirm"),
    "withdraw": ("WithdrawMandate", api.WithdrawMandateRequest, "take a request of yours back"),
    "revoke": ("RevokeMandate", api.RevokeMandateRequest, "end a mandate from the principal's side"),
    "renounce": ("RenounceMandate", api.RenounceMandateRequest, "give up a mandate that you hold"),
}

Side = Literal["principal", "delegate"]


def add(commands: Any) -> None:
    """Adds the commands."""
    group = commands.add_parser("mandates", help="mandates: list, request, confirm, revoke; check who may act for whom")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="list the mandates of the profile's party, newest first")
    listing.add_argument("--side", choices=SIDES, help="only those in which the party is this")
    listing.add_argument("--theme", default="", metavar="themes/ID")
    listing.add_argument("-n", "--number", type=int, default=50, help="at most so many (default: 50)")
    listing.set_defaults(remote=_list)

    show = actions.add_parser("show", help="show a mandate")
    show.add_argument("name", metavar="mandates/ID")
    show.set_defaults(remote=_show)

    request = actions.add_parser("request", help="give or ask for a mandate; the side left out is the profile's party")
    request.add_argument("--theme", required=True, metavar="themes/ID")
    _party(request, "principal", required=False)
    _party(request, "delegate", required=False)
    request.add_argument("--kind", choices=KINDS, default="act", help="default: act")
    request.add_argument("--specifier", default="", help="the one thing that it is for")
    request.add_argument("--first-day", default="", metavar="YYYY-MM-DD", help="default: from now on")
    request.add_argument("--last-day", required=True, metavar="YYYY-MM-DD")
    request.add_argument("--try", dest="validate_only", action="store_true", help="show what it would be; ask nothing")
    request.set_defaults(remote=_request)

    confirm = actions.add_parser("confirm", help="confirm a mandate that you have read")
    confirm.add_argument("name", metavar="mandates/ID")
    confirm.add_argument("--etag", help="of the mandate as it was read; without it, it is shown and you are asked")
    confirm.set_defaults(remote=_confirm)

    for action, (_, _, what) in ENDINGS.items():
        ending = actions.add_parser(action, help=what)
        ending.add_argument("name", metavar="mandates/ID")
        ending.set_defaults(remote=_end)

    check = actions.add_parser("check", help=f"may one act for another? Exit status {DENIED}: no")
    _question(check)
    check.set_defaults(remote=_check)

    explain = actions.add_parser("explain", help="how each rule judges a check (scope mandates.audit)")
    _question(explain)
    explain.add_argument("--purpose", required=True, metavar="CASE", help="why you ask; it goes into the record")
    explain.set_defaults(remote=_explain)


def _party(parser: argparse.ArgumentParser, side: Side, *, required: bool) -> None:
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument(
        f"--{side}", metavar="PARTY", help="persons/ID, organisations/ID, or the business id of an organisation"
    )
    group.add_argument(
        f"--{side}-from", type=Path, metavar="FILE", help=f"a file with the identity code of the {side}, a person"
    )


def _question(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--theme", required=True, metavar="themes/ID")
    _party(parser, "delegate", required=True)
    _party(parser, "principal", required=True)
    parser.add_argument("--specifier", default="", help="the one thing that it is about")
    parser.add_argument("--level", choices=LEVELS, help="how surely the delegate is known")
    parser.add_argument(
        "--at", metavar="TIME", help="the instant to judge, such as 2026-11-21T12:00:00Z (default: now)"
    )


def _named(given: argparse.Namespace, side: Side) -> Party | None:
    """The party of a side. Codes of people come from files: every user of a machine can read its command lines."""
    file: Path | None = getattr(given, f"{side}_from")
    name: str | None = getattr(given, side)
    if file is not None:
        code = file.read_text(encoding="utf-8").strip()
        return Party(identifier=NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_HETU, value=code))
    if name is None:
        return None
    if name.startswith(("persons/", "organisations/")):
        return Party(name=name)
    return Party(identifier=NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_YTUNNUS, value=name))


async def _list(client: Client, given: argparse.Namespace, out: Output) -> None:
    side = f"SIDE_{given.side.upper()}" if given.side else "SIDE_UNSPECIFIED"
    request = api.ListMandatesRequest(
        side=api.ListMandatesRequest.Side.Value(side), theme=given.theme, page_size=min(given.number, 1000)
    )
    found: list[Mandate] = []
    async with aclosing(client.items(client.stub(MandateServiceStub).ListMandates, request)) as listed:
        async for mandate in listed:
            found.append(mandate)
            if len(found) == given.number:
                break
    rows = [
        (
            label(Mandate.State.Name(one.state)),
            label(Mandate.Kind.Name(one.kind), "KIND_"),
            one.principal.name,
            one.delegate.name,
            one.theme,
            one.validity.last_day,
            one.name,
        )
        for one in found
    ]
    out.table(("state", "kind", "principal", "delegate", "theme", "last day", "mandate"), found, rows)


async def _show(client: Client, given: argparse.Namespace, out: Output) -> None:
    out.one(await _read(client, given.name))


async def _read(client: Client, name: str) -> Mandate:
    return await client.call(client.stub(MandateServiceStub).GetMandate, api.GetMandateRequest(name=name))


async def _request(client: Client, given: argparse.Namespace, out: Output) -> None:
    mandate = Mandate(
        kind=Mandate.Kind.Value(f"KIND_{given.kind.upper().replace('-', '_')}"),
        principal=_named(given, "principal"),
        delegate=_named(given, "delegate"),
        theme=given.theme,
        specifier=given.specifier,
        validity=ValidityPeriod(first_day=given.first_day, last_day=given.last_day),
    )
    request = api.CreateMandateRequest(mandate=mandate, validate_only=given.validate_only)
    out.one(await client.call(client.stub(MandateServiceStub).CreateMandate, request))


async def _confirm(client: Client, given: argparse.Namespace, out: Output) -> None:
    etag = given.etag
    if etag is None:
        etag = await _read_by_person(client, given.name, out)
    request = api.ConfirmMandateRequest(name=given.name, etag=etag)
    # The node knows a repeat: who has confirmed confirms no second time.
    out.one(await client.call(client.stub(MandateServiceStub).ConfirmMandate, request, attempts=5))


async def _read_by_person(client: Client, name: str, out: Output) -> str:
    """Shows the mandate and asks at the terminal. Raises UsageError where nobody can read it, or says no."""
    if out.as_json or not sys.stdin.isatty():
        raise UsageError("nobody is there to read the mandate: give --etag, as `solmu mandates show` has it")
    mandate = await _read(client, name)
    out.one(mandate)
    answer = await asyncio.to_thread(input, "Confirm this mandate? Type yes: ")
    if answer.strip().lower() != "yes":
        raise UsageError("not confirmed")
    return mandate.etag


async def _end(client: Client, given: argparse.Namespace, out: Output) -> None:
    method, request, _ = ENDINGS[given.action]
    stub = client.stub(MandateServiceStub)
    out.one(await client.call(getattr(stub, method), request(name=given.name), attempts=5))


def _asked(given: argparse.Namespace) -> checks_pb2.CheckRequest:
    level = f"ASSURANCE_LEVEL_{given.level.upper()}" if given.level else "ASSURANCE_LEVEL_UNSPECIFIED"
    request = checks_pb2.CheckRequest(
        delegate=_named(given, "delegate"),
        principal=_named(given, "principal"),
        theme=given.theme,
        specifier=given.specifier,
        assurance_level=AssuranceLevel.Value(level),
    )
    if given.at:
        try:
            request.at.FromJsonString(given.at)
        except ValueError:
            raise UsageError(f"{given.at} is not an instant such as 2026-11-21T12:00:00Z") from None
    return request


async def _check(client: Client, given: argparse.Namespace, out: Output) -> int:
    answer = await client.call(client.stub(CheckServiceStub).Check, _asked(given), attempts=5)
    return _tell(answer, out)


def _tell(answer: checks_pb2.CheckResponse, out: Output) -> int:
    allowed = answer.decision == checks_pb2.DECISION_ALLOWED
    if out.as_json:
        out.one(answer)
    elif allowed:
        basis = label(rights_pb2.RightBasis.Name(answer.basis), "RIGHT_BASIS_")
        until = f", until {answer.expire_time.ToJsonString()}" if answer.HasField("expire_time") else ""
        print(" ".join((f"allowed, by {basis}{until}", *answer.mandates)))
    else:
        reason = label(checks_pb2.DenialReason.Name(answer.reason), "DENIAL_REASON_")
        needed = label(AssuranceLevel.Name(answer.needed_assurance_level), "ASSURANCE_LEVEL_")
        too_low = answer.reason == checks_pb2.DENIAL_REASON_ASSURANCE_TOO_LOW
        print(f"denied: {reason}{f' (needed: {needed})' if too_low else ''}")
    return 0 if allowed else DENIED


async def _explain(client: Client, given: argparse.Namespace, out: Output) -> int:
    request = checks_pb2.ExplainCheckRequest(check=_asked(given), purpose=given.purpose)
    explained = await client.call(client.stub(CheckServiceStub).ExplainCheck, request, attempts=5)
    if out.as_json:
        out.one(explained)
        return 0 if explained.response.decision == checks_pb2.DECISION_ALLOWED else DENIED
    kind = checks_pb2.CheckStep
    rows = [("rule", "outcome", "what it met", "why it did not count")]
    for step in explained.steps:
        rule, outcome = label(kind.Rule.Name(step.rule), "RULE_"), label(kind.Outcome.Name(step.outcome), "OUTCOME_")
        rows += [
            (
                rule,
                outcome,
                item.name,
                label(kind.Shortfall.Name(item.shortfall), "SHORTFALL_") if item.shortfall else "",
            )
            for item in step.items
        ] or [(rule, outcome, "", "")]
    for line in aligned(rows):
        print(out.cut(line))
    return _tell(explained.response, out)
