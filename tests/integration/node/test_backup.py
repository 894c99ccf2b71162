"""The drill: a node is saved, lost, and restored elsewhere; and what is refused on the way."""

import asyncio
import contextlib
import gzip
import hashlib
import shutil
import tarfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from solmu.authorisations.v1 import mandates_pb2, themes_pb2
from solmu.authorisations.v1.themes_pb2_grpc import ThemeServiceStub
from solmu.authorisations.v1.watch_pb2 import GetHeadRequest
from solmu.authorisations.v1.watch_pb2_grpc import WatchServiceStub
from solmu.messages.v1 import messages_pb2
from solmu.types.v1.types_pb2 import LocalizedText

from deploy.local import backup, demo, demo_clients
from deploy.local.node import NodeSettings, running
from deploy.local.problems import NodeProblem
from deploy.local.state import State
from gateway.client import Client, Profile
from services.runtime.errors import InvalidArgument
from tests.integration.node.people import client_of, organisation


async def contents(state: State) -> list[str]:
    """What the resident finds: her messages, and the digest of the newest one's decision."""
    async with Client(Profile.load(state.clients / demo_clients.RESIDENT.client_id)) as resident:
        name = (await resident.rest("GET", "/v1/mailboxes"))["mailboxes"][0]["name"]
        messages = (await resident.rest("GET", f"/v1/{name}/messages?pageSize=100"))["messages"]
        opened = await resident.rest("POST", f"/v1/{messages[0]['name']}:open", {})
        attachment = opened["attachments"][0]["attachment"]
        _, content = await resident.rest_content(f"/v1/{messages[0]['name']}/{attachment}/content")
        return [*(message["name"] for message in messages), hashlib.sha256(content).hexdigest()]


async def test_a_lost_node_comes_back_whole_in_another_place(tmp_path: Path) -> None:
    first = NodeSettings(state=tmp_path / "first", edge_port=0)
    file = tmp_path / "node.backup"
    async with running(first) as node:
        await demo.play(first)
        before = await contents(node.state)
    saved = backup.save(State(first.state), file)
    assert file.stat().st_mode & 0o077 == 0
    shutil.rmtree(first.state)

    second = NodeSettings(state=tmp_path / "second", edge_port=0)
    assert backup.restore(file, State(second.state)).files == saved.files
    async with running(second) as node:
        assert await contents(node.state) == before
        await demo.play(second)
        assert (await contents(node.state))[1:-1] == before[:-1]


async def test_a_node_that_runs_is_saved_as_of_one_moment(tmp_path: Path) -> None:
    """Messages go on being sent; of what had been accepted before, nothing is missing."""
    first = NodeSettings(state=tmp_path / "first", edge_port=0)
    file = tmp_path / "node.backup"
    accepted: list[str] = []
    async with running(first) as node:
        await demo.play(first)
        sending = asyncio.create_task(_send(node.state, accepted))
        while len(accepted) < 20:
            assert not sending.done(), sending.result()
            await asyncio.sleep(0.01)
        before = list(accepted)
        (tmp_path / "pg_basebackup").write_text("#!/bin/sh\necho no room >&2; exit 1\n")
        (tmp_path / "pg_basebackup").chmod(0o755)
        with pytest.raises(NodeProblem, match="could not copy itself"):
            await asyncio.to_thread(backup.save, node.state, file, postgres_bin=tmp_path)
        assert not file.exists()
        await asyncio.to_thread(backup.save, node.state, file)
        during = len(accepted)
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        assert during > len(before), "the node stood still"
    shutil.rmtree(first.state)

    second = NodeSettings(state=tmp_path / "second", edge_port=0)
    backup.restore(file, State(second.state))
    async with running(second) as node:
        async with Client(Profile.load(node.state.clients / demo_clients.PERMITS.client_id)) as office:
            for name in before:
                assert (await office.rest("GET", f"/v1/{name}"))["bodies"][0]["text"] == "Of something."
            told = [event async for event in _feed(office)]
        # Whatever is there is there with its events: databases and outboxes are of the same moment.
        assert {event["message"] for event in told if event["type"] == "message.accepted"} >= set(before)
        await demo.play(second)


async def _send(state: State, accepted: list[str]) -> None:
    async with Client(Profile.load(state.clients / demo_clients.RESIDENT.client_id)) as resident:
        mailbox = (await resident.rest("GET", "/v1/mailboxes"))["mailboxes"][0]["name"]
    async with Client(Profile.load(state.clients / demo_clients.PERMITS.client_id)) as office:
        while True:
            message = messages_pb2.Message(
                recipient=messages_pb2.Recipient(mailbox=mailbox),
                title="A notice",
                bodies=[messages_pb2.Body(language="en", text="Of something.")],
            )
            key = str(uuid.uuid4())
            request = messages_pb2.SendMessageRequest(parent="units/permits", idempotency_key=key, message=message)
            accepted.append((await office.call(office.messages.SendMessage, request)).name)


async def _feed(office: Client) -> AsyncIterator[dict[str, Any]]:
    cursor = ""
    while page := await office.rest("GET", f"/v1/units/permits/events?pageSize=500&cursor={cursor}"):
        for event in page.get("events", []):
            yield event
        if not page.get("events"):
            return
        cursor = page["nextCursor"]


async def test_a_restored_node_refuses_what_it_gave_in_the_life_that_was_lost(tmp_path: Path) -> None:
    first = NodeSettings(state=tmp_path / "first", edge_port=0)
    second = NodeSettings(state=tmp_path / "second", edge_port=0)
    file = tmp_path / "node.backup"

    async def head(office: Client) -> str:
        return (await office.call(office.stub(WatchServiceStub).GetHead, GetHeadRequest())).consistency_token

    async def read(office: Client, token: str) -> str:
        request = themes_pb2.ListThemesRequest(consistency_token=token)
        try:
            return str((await office.call(office.stub(ThemeServiceStub).ListThemes, request)).consistency_token)
        except InvalidArgument as refusal:
            return refusal.reason

    scopes = ("themes.manage", "mandates.read", "mandates.watch")
    async with running(first) as node, client_of(node, organisation(1234567), *scopes) as office:
        kept = await head(office)
    backup.save(State(first.state), file)
    async with running(first) as node, client_of(node, organisation(1234567), *scopes) as office:
        assert await read(office, kept) == kept, "a start alone ends no life"
        await office.call(office.stub(ThemeServiceStub).CreateTheme, a_theme("lost"))
        lost = await head(office)
        assert lost > kept
    backup.restore(file, State(second.state))
    async with running(second) as node, client_of(node, organisation(1234567), *scopes) as office:
        await office.call(office.stub(ThemeServiceStub).CreateTheme, a_theme("another"))
        now = await head(office)
        assert now[16:] == lost[16:], "the same revision, of other facts"
        assert await read(office, now) == now
        for token in (lost, kept):
            assert await read(office, token) == "CONSISTENCY_TOKEN_UNKNOWN"


def a_theme(theme_id: str) -> themes_pb2.CreateThemeRequest:
    term = themes_pb2.Theme.LongestTerm(kind=mandates_pb2.Mandate.KIND_ACT, months=12)
    titles = [LocalizedText(language="en", text="Taxes")]
    return themes_pb2.CreateThemeRequest(theme_id=theme_id, theme=themes_pb2.Theme(titles=titles, longest_terms=[term]))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A backup of a node that has never run."""
    state = State(tmp_path / "state")
    state.prepare()
    state.prepare_secrets()
    file = tmp_path / "node.backup"
    backup.save(state, file)
    return file


def test_a_backup_that_was_cut_short_is_refused_and_leaves_nothing(saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    target = State(tmp_path / "restored")
    for length in (0, 10, len(whole) // 2, len(whole) - 9):
        saved.write_bytes(whole[:length])
        with pytest.raises(NodeProblem, match="is no whole backup"):
            backup.restore(saved, target)
        assert not target.root.exists()
        assert not (tmp_path / ".restored.restoring").exists()


def test_a_changed_backup_is_refused(saved: Path, tmp_path: Path) -> None:
    content = bytearray(gzip.decompress(saved.read_bytes()))
    content[content.index((tmp_path / "state" / "secrets" / "root.key").read_bytes())] ^= 1
    saved.write_bytes(gzip.compress(content))
    with pytest.raises(NodeProblem, match="is no whole backup"):
        backup.restore(saved, State(tmp_path / "restored"))


@pytest.mark.parametrize("name", ["../outside", "/srv/outside", "secrets/../../outside"])
def test_a_backup_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    forged = tmp_path / "forged.backup"
    with tarfile.open(forged, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(NodeProblem, match="does not belong in a backup"):
        backup.restore(forged, State(tmp_path / "restored"))
    assert not (tmp_path / "outside").exists()


def test_nothing_is_replaced(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(NodeProblem, match="is not empty"):
        backup.restore(saved, State(tmp_path / "state"))
    with pytest.raises(NodeProblem, match="never replaces one"):
        backup.save(State(tmp_path / "state"), saved)
    with pytest.raises(NodeProblem, match="is not the state of a node"):
        backup.save(State(tmp_path), tmp_path / "other.backup")
