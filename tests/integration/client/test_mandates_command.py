"""`solmu mandates` as typed, against a node."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy.local.node import Node
from tests.integration.client.test_command import Done, solmu
from tests.integration.node.people import client_of, organisation, person
from tests.journeys.mandates import make_theme

LAST_DAY = (datetime.now(UTC).date() + timedelta(days=90)).isoformat()


@dataclass
class People:
    """A resident, the helper whom she lets act for her, and an office; each a profile and a file with a code."""

    owner: Path
    helper: Path
    office: Path
    owner_code: Path
    helper_code: Path
    theme: str

    async def runs(self, profile: Path, *arguments: str | Path) -> Done:
        """A command of `solmu mandates`."""
        return await solmu("--profile", profile, "mandates", *arguments)

    async def json(self, profile: Path, *arguments: str | Path) -> Any:
        """What a command prints for programs; it has to succeed."""
        done = await solmu("--profile", profile, "--json", "mandates", *arguments)
        assert done.status == 0, done.error
        return [json.loads(line) for line in done.out.splitlines()]

    def question(self) -> tuple[str | Path, ...]:
        return ("--theme", self.theme, "--delegate-from", self.helper_code, "--principal-from", self.owner_code)


@pytest.fixture
async def people(node: Node, tmp_path: Path) -> AsyncIterator[People]:
    owner, helper, scopes = person(), person(), ("mandates.read", "mandates.write")
    owner_code, helper_code = tmp_path / "owner", tmp_path / "helper"
    owner_code.write_text(owner.value + "\n")
    helper_code.write_text(helper.value + "\n")
    async with (
        client_of(node, owner, *scopes) as hers,
        client_of(node, helper, *scopes) as his,
        client_of(node, organisation(3344556), "themes.manage", "mandates.check", "mandates.audit") as office,
    ):
        theme = await make_theme(office)
        owner_profile, helper_profile, office_profile = (
            node.state.clients / each.profile.client_id for each in (hers, his, office)
        )
        yield People(owner_profile, helper_profile, office_profile, owner_code, helper_code, theme)


async def test_a_mandate_is_asked_for_confirmed_checked_and_revoked(people: People):
    ask = ("request", "--theme", people.theme, "--principal-from", people.owner_code, "--last-day", LAST_DAY)
    [tried] = await people.json(people.helper, *ask, "--try")
    assert tried["state"] == "STATE_REQUESTED"
    assert not await people.json(people.helper, "list"), "nothing was asked for yet"
    [asked] = await people.json(people.helper, *ask)
    name = asked["name"]

    denied = await people.runs(people.office, "check", *people.question())
    assert (denied.status, denied.out) == (5, "denied: no right\n")
    [waiting] = await people.json(people.owner, "list", "--side", "confirmer")
    assert waiting["name"] == name
    unread = await people.runs(people.owner, "confirm", name)
    assert (unread.status, "nobody is there to read" in unread.error) == (2, True)
    stale = await people.runs(people.owner, "confirm", name, "--etag", "0")
    assert (stale.status, "ETAG_MISMATCH" in stale.error) == (1, True)
    [confirmed] = await people.json(people.owner, "confirm", name, "--etag", waiting["etag"])
    assert confirmed["state"] == "STATE_ACTIVE"

    allowed = await people.runs(people.office, "check", *people.question())
    assert (allowed.status, allowed.out.split()[:3], name in allowed.out) == (0, ["allowed,", "by", "mandate,"], True)
    [answer] = await people.json(people.office, "check", *people.question())
    assert (answer["decision"], answer["mandates"]) == ("DECISION_ALLOWED", [name])
    listed = (await people.runs(people.helper, "list", "--side", "delegate")).out.splitlines()
    assert listed[0].split() == ["state", "kind", "principal", "delegate", "theme", "last", "day", "mandate"]
    assert listed[1].split()[:2] == ["active", "act"]

    assert (await people.json(people.owner, "revoke", name))[0]["state"] == "STATE_REVOKED"
    assert (await people.runs(people.office, "check", *people.question())).status == 5
    earlier = ("--at", confirmed["confirmTime"])
    assert (await people.runs(people.office, "check", *people.question(), *earlier)).status == 0
    assert (await people.runs(people.office, "check", *people.question(), "--at", "yesterday")).status == 2


async def test_an_explanation_shows_what_each_rule_met(people: People):
    give = ("request", "--theme", people.theme, "--delegate-from", people.helper_code, "--last-day", LAST_DAY)
    [given] = await people.json(people.owner, *give)
    assert given["state"] == "STATE_ACTIVE"
    assert (await people.json(people.helper, "renounce", given["name"]))[0]["state"] == "STATE_RENOUNCED"
    explain = ("explain", *people.question(), "--purpose", "case 3")
    told = await people.runs(people.office, *explain)
    assert told.status == 5
    lines = [line.split() for line in told.out.splitlines()]
    assert ["act", "silent", given["name"], "ended"] in lines
    assert told.out.splitlines()[-1] == "denied: no right"
    done = await solmu("--profile", people.office, "--json", "mandates", *explain)
    steps = json.loads(done.out)["steps"]
    assert [step["rule"] for step in steps][:2] == ["RULE_BLOCK", "RULE_SELF"]
    no_auditor = await people.runs(people.owner, *explain)
    assert (no_auditor.status, "SCOPE" in no_auditor.error) == (1, True)


async def test_a_request_is_refused_and_taken_back(people: People):
    ask = ("request", "--theme", people.theme, "--principal-from", people.owner_code, "--last-day", LAST_DAY)
    [asked] = await people.json(people.helper, *ask)
    assert (await people.json(people.owner, "reject", asked["name"]))[0]["state"] == "STATE_REJECTED"
    [again] = await people.json(people.helper, *ask)
    assert (await people.json(people.helper, "withdraw", again["name"]))[0]["state"] == "STATE_WITHDRAWN"
    assert (await people.json(people.helper, "show", again["name"]))[0]["state"] == "STATE_WITHDRAWN"


@pytest.mark.parametrize(("typed", "state"), [("yes", "STATE_ACTIVE"), ("no", "STATE_REQUESTED")])
async def test_who_confirms_at_a_terminal_reads_the_mandate_first(people: People, typed: str, state: str):
    ask = ("request", "--theme", people.theme, "--principal-from", people.owner_code, "--last-day", LAST_DAY)
    [asked] = await people.json(people.helper, *ask)
    ours, theirs = pty.openpty()
    os.write(ours, f"{typed}\n".encode())
    command = (sys.executable, "-m", "gateway.client.command", "--profile", people.owner)
    process = await asyncio.create_subprocess_exec(
        *map(str, (*command, "mandates", "confirm", asked["name"])), stdin=theirs, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    os.close(ours)
    os.close(theirs)
    assert people.theme in out.decode()
    assert process.returncode == (0 if typed == "yes" else 2)
    assert (await people.json(people.helper, "show", asked["name"]))[0]["state"] == state
