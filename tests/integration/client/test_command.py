"""The command line as typed, against a node."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from deploy.local.node import Node
from gateway.client import command
from gateway.client.command import build_parser, completion
from tests.integration.client import terminal
from tests.integration.client.test_examples import letter
from tests.tokens import Signer

SOLMU = (sys.executable, "-m", "gateway.client.command")


@dataclass
class Done:
    status: int
    out: str
    error: str


async def solmu(*arguments: str | Path, stdin: str = "", **environment: str) -> Done:
    process = await asyncio.create_subprocess_exec(
        *SOLMU,
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    out, error = await process.communicate(stdin.encode())
    return Done(process.returncode or 0, out.decode(), error.decode())


async def test_a_message_is_sent_listed_shown_and_followed(node: Node, tmp_path: Path):
    clients = node.state.clients
    permits, resident = ("--profile", clients / "permits"), ("--profile", clients / "resident")
    opened = json.loads((await solmu(*resident, "--json", "call", "POST", "/v1/mailboxes:open", "{}")).out)
    paper = tmp_path / "paper.pdf"
    paper.write_bytes(b"%PDF-1.4 paper")
    send = (*permits, "messages", "send", "--mailbox", opened["name"], "--title", "A paper", "--key", "cli-1")
    sent = await solmu(*send, "--attach", paper, "--correlation-id", "cli", stdin="It is attached.")
    assert sent.status == 0, sent.error
    name = sent.out.strip()

    listed = await solmu(*permits, "messages", "list", "-n", "1")
    assert listed.out.splitlines()[0].split() == ["sent", "state", "message", "correlation", "id", "title"]
    assert name in listed.out.splitlines()[1]
    shown = json.loads((await solmu(*permits, "--json", "messages", "show", name)).out)
    assert (shown["name"], shown["correlationId"]) == (name, "cli")
    assert "A paper" in (await solmu(*permits, "messages", "show", name)).out

    cursor = tmp_path / "cursor"
    follow = (*permits, "--json", "events", "follow", "--cursor", cursor, "--type", "message.accepted", "-n", "1")
    first, second = json.loads((await solmu(*follow)).out), cursor.read_text().strip()
    assert first["cursor"] == second


async def test_a_client_is_registered_with_its_assertion_keys(node: Node, tmp_path: Path):
    register = ("clients", "register", "lakes", "--name", "Lakes", "--owner", "9999999-2", "--assertion-keys")
    operator = ("--profile", node.state.clients / "operator", "--json")
    absent = await solmu(*operator, *register, tmp_path / "absent.json")
    assert (absent.status, "--assertion-keys" in absent.error) == (2, True)
    keys = Signer().jwks()
    (tmp_path / "keys.json").write_text(keys)
    registered = json.loads((await solmu(*operator, *register, tmp_path / "keys.json")).out)
    assert registered["authentication"] == "AUTHENTICATION_PRIVATE_KEY_JWT"
    assert json.loads(registered["jwks"]) == json.loads(keys)


async def test_a_client_is_registered_certified_and_revoked(node: Node, tmp_path: Path):
    operator = ("--profile", node.state.clients / "operator")
    state = {"SOLMU_STATE": str(node.state.root)}
    folder = tmp_path / "parks"
    register = ("clients", "register", "parks", "--name", "Parks", "--owner", "9999999-2", "--scope", "messages.read")
    assert (await solmu(*operator, *register)).status == 0
    again = await solmu(*operator, *register)
    assert (again.status, "RESOURCE_EXISTS" in again.error) == (1, True)

    assert (await solmu("clients", "csr", "parks", "--folder", folder)).status == 0
    certified = await solmu("clients", "certify", "parks", folder / "request.pem", **state)
    assert certified.status == 0, certified.error
    x509.load_pem_x509_certificate((folder / "certificate.pem").read_bytes())
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    assert (await solmu("clients", "csr", "parks", "--folder", folder)).status == 2, "a key was overwritten"

    (folder / "ca.pem").write_bytes((node.state.clients / "operator" / "ca.pem").read_bytes())
    profile = {
        "edge": node.edge,
        "client_id": "parks",
        "certificate": "certificate.pem",
        "key": "key.pem",
        "authorities": "ca.pem",
        "scopes": ["messages.read"],
    }
    (folder / "profile.json").write_text(json.dumps(profile))
    assert (await solmu("--profile", folder, "token")).status == 0

    assert "parks" in (await solmu(*operator, "clients", "list")).out
    scopes = await solmu(*operator, "--json", "clients", "scopes", "parks", "messages.read", "messages.send")
    assert json.loads(scopes.out)["scopes"] == ["messages.read", "messages.send"]
    assert "STATE_REVOKED" in (await solmu(*operator, "clients", "revoke", "parks")).out
    assert (await solmu("--profile", folder, "token")).status == 1
    assert (await solmu("clients", "void", "parks", folder / "certificate.pem", **state)).status == 0


async def test_a_print_house_claims_letters_and_reports_them(node: Node, tmp_path: Path):
    house, spool = ("--profile", node.state.clients / "print-house"), tmp_path / "spool"
    await letter(node)
    claimed = await solmu(*house, "--json", "letters", "claim", spool, "-n", "1000")
    assert claimed.status == 0, claimed.error
    ticket = spool / f"{json.loads(claimed.out.splitlines()[0])['name'].removeprefix('letters/')}.json"
    assert ticket.with_suffix(".pdf").read_bytes().startswith(b"%PDF-")
    assert (await solmu(*house, "letters", "report", "submitted", ticket)).status == 0
    posted = await solmu(*house, "letters", "report", "posted", ticket, "--cost", "1.21", "EUR")
    assert (posted.status, posted.out.split()[-1]) == (0, "posted")

    lost = json.loads(ticket.read_text()) | {"claim": "00000000-0000-4000-8000-000000000000"}
    ticket.write_text(json.dumps(lost))
    refused = await solmu(*house, "letters", "report", "submitted", ticket)
    assert (refused.status, "LETTER_CLAIM_LOST" in refused.error) == (1, True)
    ticket.write_text("no ticket")
    assert (await solmu(*house, "letters", "report", "submitted", ticket)).status == 2


async def test_exit_statuses_are_what_scripts_branch_on(node: Node, tmp_path: Path):
    permits = node.state.clients / "permits"
    assert (await solmu("--profile", tmp_path, "token")).status == 2
    assert (await solmu("nonsense")).status == 2
    assert (await solmu("--profile", permits, "call", "GET", "/v1/units", "{")).status == 2
    refused = await solmu(
        "--profile", permits, "messages", "show", "units/nobody/messages/00000000-0000-4000-8000-000000000000"
    )
    assert (refused.status, refused.error.partition(":")[0]) == (1, "RESOURCE_NOT_FOUND")
    away = tmp_path / "away"
    shutil.copytree(permits, away)
    profile = json.loads((away / "profile.json").read_text()) | {"edge": "https://localhost:1"}
    (away / "profile.json").write_text(json.dumps(profile))
    assert (await solmu("--profile", away, "token")).status == 3


def test_an_interrupted_command_ends_with_130(node: Node):
    follow = ("--profile", str(node.state.clients / "permits"), "events", "follow")
    with terminal.Session(*SOLMU, *follow, columns=200) as session:
        session.wait_for("message.accepted")
        session.type("\x03")
        assert session.wait_for_end() == 130
        assert "Traceback" not in session.shown


def test_output_that_nobody_reads_ends_with_141_and_says_nothing():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*SOLMU, "completion", "bash"], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


async def test_logs_and_status_of_the_node(node: Node):
    state = {"SOLMU_STATE": str(node.state.root)}
    logs = await solmu("logs", "messages", "-n", "3", **state)
    assert logs.status == 0
    assert 0 < len(logs.out.splitlines()) <= 3
    assert all(line.startswith("messages  ") for line in logs.out.splitlines())
    unknown = await solmu("logs", "nobody", **state)
    assert (unknown.status, "there are:" in unknown.error) == (2, True)


async def test_a_node_that_does_not_run_says_so(tmp_path: Path):
    status = await solmu("status", SOLMU_STATE=str(tmp_path / "none"))
    assert (status.status, "not running" in status.out) == (3, True)


async def test_many_messages_are_sent_from_a_file_and_each_refusal_is_told(node: Node, tmp_path: Path):
    permits = ("--profile", node.state.clients / "permits")
    resident = ("--profile", node.state.clients / "resident")
    opened = json.loads((await solmu(*resident, "--json", "call", "POST", "/v1/mailboxes:open", "{}")).out)

    def line(key: str, mailbox: str) -> str:
        bodies = [{"language": "en", "text": "Water will be shut off."}]
        message = {"recipient": {"mailbox": mailbox}, "title": "Water", "bodies": bodies}
        return json.dumps({"parent": "units/permits", "idempotencyKey": key, "message": message})

    file = tmp_path / "batch.jsonl"
    good = [line(f"many-{number}", opened["name"]) for number in range(3)]
    file.write_text("\n".join([*good, line("many-lost", "mailboxes/00000000-0000-4000-8000-000000000000")]))
    sent = await solmu(*permits, "messages", "send-many", file)
    *refused, last = sent.out.splitlines()
    assert (sent.status, last, sent.error) == (1, "3 sent, 1 refused", "")
    assert [each.partition(":")[0] for each in refused] == ["many-lost"]

    file.write_text("\n".join(good))
    again = await solmu(*permits, "--json", "messages", "send-many", file)
    results = [json.loads(each) for each in again.out.splitlines()]
    assert (again.status, [each["idempotencyKey"] for each in results]) == (0, ["many-0", "many-1", "many-2"])

    file.write_text(f"{good[0]}\nno message")
    broken = await solmu(*permits, "messages", "send-many", file)
    assert (broken.status, "line 2 is no SendMessageRequest" in broken.error) == (2, True)


async def test_the_attachments_of_a_message_are_saved_and_nothing_is_overwritten(node: Node, tmp_path: Path):
    permits = ("--profile", node.state.clients / "permits")
    resident = ("--profile", node.state.clients / "resident")
    opened = json.loads((await solmu(*resident, "--json", "call", "POST", "/v1/mailboxes:open", "{}")).out)
    paper, folder = tmp_path / "paper.pdf", tmp_path / "saved"
    paper.write_bytes(b"%PDF-1.4 paper")
    send = ("messages", "send", "--mailbox", opened["name"], "--title", "A paper", "--text", "It is attached.")
    name = (await solmu(*permits, *send, "--attach", paper)).out.strip()
    saved = await solmu(*permits, "messages", "download", name, "--to", folder)
    assert (saved.status, saved.out.strip()) == (0, str(folder / "paper.pdf")), saved.error
    assert (folder / "paper.pdf").read_bytes() == paper.read_bytes()
    again = await solmu(*permits, "messages", "download", name, "--to", folder)
    assert (again.status, "is there already" in again.error) == (2, True)


async def test_progress_is_shown_on_a_terminal_and_nowhere_else(node: Node, tmp_path: Path):
    resident = ("--profile", node.state.clients / "resident")
    opened = json.loads((await solmu(*resident, "--json", "call", "POST", "/v1/mailboxes:open", "{}")).out)
    paper = tmp_path / "a-paper-of-some-length-and-with-a-long-name.pdf"
    paper.write_bytes(b"%PDF-1.4 " + bytes(3_000_000))
    send = ("messages", "send", "--mailbox", opened["name"], "--title", "A", "--text", "B", "--attach", str(paper))
    command = ("--profile", str(node.state.clients / "permits"), *send)

    shown = terminal.output(*SOLMU, *command, columns=60)
    *bars, end = shown.removesuffix("\r\n").split("\r\n")[0].split("\r")[1:]
    assert bars[0].endswith(" MB of 3.0 MB\x1b[K")
    assert "100 %  3.0 MB of 3.0 MB" in end
    assert max(len(each.removesuffix("\x1b[K")) for each in [*bars, end]) < 60
    assert shown.splitlines()[-1].startswith("units/permits/messages/")

    as_json = terminal.output(*SOLMU, "--json", *command, columns=60)
    assert json.loads(as_json)["name"].startswith("units/permits/messages/")
    assert (await solmu(*command)).error == ""


SHELLS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands_actions_options_and_files(shell: str, tmp_path: Path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script, paper = tmp_path / "completion", tmp_path / "paper.pdf"
    script.write_text(completion.script(build_parser(), shell))
    paper.touch()
    typed = {
        "solmu exch\t": "solmu exchange ",
        "solmu --json clients regi\t": "solmu --json clients register ",
        "solmu messages send --mail\t": "solmu messages send --mailbox ",
        "solmu completion z\t": "solmu completion zsh ",
        f"solmu messages send --attach {tmp_path}/pap\t": f"solmu messages send --attach {paper} ",
    }
    with terminal.Session(*SHELLS[shell], columns=400) as session:
        session.type(f". {script}; echo re''ady\r")
        session.wait_for("ready")
        for keys, completed in typed.items():
            session.type(keys)
            session.wait_for(completed)
            session.type("\x15")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_the_script_of_a_shell(shell: str, capsys: pytest.CaptureFixture[str]):
    assert command.run(["completion", shell]) == 0
    assert capsys.readouterr().out == completion.script(build_parser(), shell)
