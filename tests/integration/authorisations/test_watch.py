"""A consumer that follows the facts knows what the database knows."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from solmu.authorisations.v1 import mandate_service_pb2
from solmu.authorisations.v1.facts_pb2 import Fact
from solmu.authorisations.v1.registers_pb2 import CreateRegisterRequest, Register, UpdateRegisterRequest
from solmu.authorisations.v1.themes_pb2 import ActivateThemeRequest, Theme
from solmu.authorisations.v1.watch_pb2 import GetHeadRequest, WatchRequest, WatchResponse

from services.authorisations import fact_stream
from services.authorisations.asking import Limits
from services.authorisations.fact_stream import FactStream
from services.authorisations.watch_servicer import AHEAD, WatchServicer, paced
from services.runtime.database import Connection, Database
from services.runtime.errors import Fault
from services.runtime.server import Tasks
from tests.integration.authorisations.people import CITY, give, make_theme, person
from tests.integration.authorisations.service import Service, assemble, calls_as


class Follower:
    """Applies what a watch says, and refuses gaps as the contract tells consumers to."""

    def __init__(self, service: Service, **request: Any) -> None:
        self.stream = service.watch.Watch(WatchRequest(**request))
        self.facts: dict[str, Fact] = {}
        self.token = request.get("after_consistency_token", "")
        self.kinds: list[int] = []

    async def until(self, token: str) -> None:
        async with asyncio.timeout(30):
            while self.token < token:
                await self.step()

    async def step(self) -> WatchResponse:
        part: WatchResponse = await anext(self.stream)
        if part.kind == WatchResponse.KIND_CHANGES and self.token:
            assert part.previous_consistency_token == self.token
        for change in part.changes:
            if change.HasField("fact"):
                self.facts[change.name] = change.fact
            else:
                self.facts.pop(change.name, None)
        if part.kind in (WatchResponse.KIND_CHANGES, WatchResponse.KIND_SNAPSHOT_END):
            self.token = part.consistency_token
        self.kinds.append(part.kind)
        return part


async def test_a_snapshot_and_the_changes_after_it_make_what_a_later_snapshot_holds(service: Service):
    theme, owner = await make_theme(service), person()
    given = [await give(service, theme.name, owner, person()) for _ in range(3)]
    follower = Follower(service)
    await follower.until(given[-1].consistency_token)
    assert {one.name for one in given} <= follower.facts.keys()
    calls_as(owner)
    request = mandate_service_pb2.RevokeMandateRequest(name=given[0].name)
    revoked = await service.mandates.RevokeMandate(request)
    more = await give(service, theme.name, owner, person())
    await follower.until(more.consistency_token)
    assert follower.facts[revoked.name].end_time == revoked.ending.end_time
    fresh = Follower(service)
    await fresh.until(more.consistency_token)
    assert fresh.facts == follower.facts


async def test_a_follower_goes_on_after_the_revision_it_has(service: Service):
    theme = await make_theme(service)
    follower = Follower(service, after_consistency_token=theme.consistency_token)
    made = await asyncio.gather(*(give(service, theme.name, person(), person()) for _ in range(10)))
    await follower.until(max(one.consistency_token for one in made))
    assert follower.facts.keys() == {one.name for one in made}


@pytest.fixture
async def elsewhere(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Service, list[Connection]]]:
    """Another process over the same database, and the connections on which it has listened, the newest last."""
    listening, listeners = Database.listening, list[Connection]()

    @asynccontextmanager
    async def noted(self: Database, channel: str, heard: Callable[[str], None]) -> AsyncIterator[Connection]:
        async with listening(self, channel, heard) as connection:
            listeners.append(connection)
            yield connection

    monkeypatch.setattr(Database, "listening", noted)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    other = assemble(service.database, folder)
    async with Tasks(asyncio.Event()) as tasks:
        tasks.start(other.stream.look())
        async with asyncio.timeout(30):
            while not listeners:
                await asyncio.sleep(0.01)
        yield other, listeners


async def test_a_commit_of_another_process_is_told_by_the_database(
    service: Service, elsewhere: tuple[Service, list[Connection]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fact_stream, "HEARTBEAT", 1e6)
    monkeypatch.setattr(FactStream, "_watch_over", lambda *_: asyncio.Event().wait())
    theme = await make_theme(service)
    follower = Follower(elsewhere[0], after_consistency_token=theme.consistency_token)
    await lose(service, elsewhere[1])  # the next one is not looked after: only what it hears wakes the follower
    following = asyncio.create_task(follower.step())
    await asyncio.sleep(0.2)
    given = await give(service, theme.name, person(), person())
    await asyncio.wait_for(following, 30)
    assert (follower.token, set(follower.facts)) == (given.consistency_token, {given.name})


async def test_a_lost_connection_for_notices_is_replaced(
    service: Service, elsewhere: tuple[Service, list[Connection]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fact_stream, "HEARTBEAT", 1e6)
    theme = await make_theme(service)
    follower = Follower(elsewhere[0], after_consistency_token=theme.consistency_token)
    for _ in range(2):
        following = asyncio.create_task(follower.step())
        await lose(service, elsewhere[1])
        given = await give(service, theme.name, person(), person())
        await asyncio.wait_for(following, 30)
        assert (follower.token, given.name in follower.facts) == (given.consistency_token, True)


async def lose(service: Service, listeners: list[Connection]) -> None:
    """Ends the connection that listens, and waits for the next."""
    count = len(listeners)
    await service.database.execute("select pg_terminate_backend($1)", listeners[-1].get_server_pid())
    async with asyncio.timeout(30):
        while len(listeners) == count:
            await asyncio.sleep(0.01)


async def test_silence_is_broken_by_heartbeats_with_the_newest_revision(service: Service):
    theme = await make_theme(service)
    follower = Follower(service, after_consistency_token=theme.consistency_token)
    beat = await follower.step()
    assert (beat.kind, beat.consistency_token) == (WatchResponse.KIND_HEARTBEAT, theme.consistency_token)


async def test_a_watch_of_one_theme_is_not_told_of_others(service: Service):
    wanted, other = await make_theme(service), await make_theme(service)
    follower = Follower(service, themes=[wanted.name])
    mine = await give(service, wanted.name, person(), person())
    theirs = await give(service, other.name, person(), person())
    await follower.until(theirs.consistency_token)
    assert mine.name in follower.facts
    assert not {theirs.name, other.name} & follower.facts.keys()


async def test_a_position_whose_changes_are_gone_is_refused(service: Service):
    theme = await make_theme(service)
    for _ in range(2):
        await give(service, theme.name, person(), person())
    head = await service.watch.GetHead(GetHeadRequest())
    await service.database.execute("delete from fact_change where revision < $1", int(head.consistency_token[16:], 16))
    with pytest.raises(Fault) as refusal:
        await Follower(service, after_consistency_token=theme.consistency_token).step()
    assert refusal.value.reason == "WATCH_POSITION_GONE"
    oldest = (await service.watch.GetHead(GetHeadRequest())).oldest_consistency_token
    follower = Follower(service, after_consistency_token=oldest)
    await follower.until(head.consistency_token)


async def test_who_does_not_read_on_is_given_up_and_holds_nothing_up(service: Service):
    theme = await make_theme(service)
    slow = WatchServicer(
        database=service.database,
        stream=service.watch._stream,
        limits=Limits(database=service.database),
        revoked=service.revocations.revoked,
        too_slow=0.2,
    )
    watch = slow.Watch(WatchRequest(after_consistency_token=theme.consistency_token))
    helper = person()
    for _ in range(AHEAD + 3):
        last = await give(service, theme.name, person(), helper)
    first = await anext(watch)
    assert first.previous_consistency_token == theme.consistency_token

    async def dawdle() -> None:
        while True:
            await asyncio.sleep(0.3)
            await anext(watch)

    with pytest.raises(Fault) as refused:
        await asyncio.wait_for(dawdle(), 30)
    assert (refused.value.code, refused.value.reason) == ("RESOURCE_EXHAUSTED", "WATCH_TOO_SLOW")
    follower = Follower(service, after_consistency_token=first.consistency_token)
    await follower.until(last.consistency_token)
    assert last.name in follower.facts, "it goes on where it was"


async def test_a_snapshot_that_nobody_takes_lets_the_next_one_in(service: Service):
    theme = await make_theme(service)
    for _ in range(3):
        await give(service, theme.name, person(), person())
    stuck = [paced(_endless(service), seconds=0.1) for _ in range(3)]
    for one in stuck:
        await anext(one)
    await asyncio.sleep(0.3)
    async with asyncio.timeout(10):
        follower = Follower(service)
        while WatchResponse.KIND_SNAPSHOT_END not in follower.kinds:
            await follower.step()
    for one in stuck:
        await one.aclose()


async def _endless(service: Service) -> AsyncGenerator[WatchResponse]:
    """A snapshot too large for anybody: it holds one of the places for snapshots for as long as it is read."""
    async with service.watch._stream._snapshots:
        while True:
            yield WatchResponse(kind=WatchResponse.KIND_SNAPSHOT)


async def test_a_theme_that_comes_into_use_makes_a_watch_of_it_begin_anew(service: Service):
    rights = [Theme.RegisterRight(role="bookkeeper")]
    draft = await make_theme(service, activate=False, register_rights=rights)
    follower = Follower(service, themes=[draft.name])
    while WatchResponse.KIND_SNAPSHOT_END not in follower.kinds:
        await follower.step()
    calls_as(CITY)
    await service.themes.ActivateTheme(ActivateThemeRequest(name=draft.name, etag=draft.etag))
    with pytest.raises(Fault) as refusal:
        await follower.until("f" * 32)
    assert refusal.value.reason == "WATCH_POSITION_GONE"


async def test_a_watch_tells_until_when_the_word_of_a_register_counts(service: Service):
    before = await service.revisions.head()
    age = Duration(seconds=3600)
    calls_as(CITY, client="keeper")
    register = Register(display_name="Register", importer="clients/keeper", contents=["block"], greatest_age=age)
    made = await service.registers.CreateRegister(CreateRegisterRequest(register_id="told-of", register=register))
    follower = Follower(service, after_consistency_token=before)
    await follower.until(made.consistency_token)
    told = follower.facts[made.name]
    assert (told.end_time, list(told.register.contents)) == (told.start_time, ["block"]), "it has not spoken yet"
    fresh = Follower(service)
    await fresh.until(made.consistency_token)
    assert fresh.facts[made.name] == told
    register.name = made.name
    mask = FieldMask(paths=["greatest_age"])
    register.ClearField("greatest_age")
    calls_as(CITY, client="keeper")
    changed = await service.registers.UpdateRegister(UpdateRegisterRequest(register=register, update_mask=mask))
    await follower.until(changed.consistency_token)
    assert not follower.facts[made.name].HasField("end_time")
