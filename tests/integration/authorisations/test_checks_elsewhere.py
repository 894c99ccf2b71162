"""Checks judged in a consuming process: as the service would, and never by facts that may be old."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from solmu.authorisations.v1 import checks_pb2, checks_pb2_grpc
from solmu.authorisations.v1.audit_pb2 import AuditRecord
from solmu.authorisations.v1.mandates_pb2 import Mandate

from services.runtime.client import Peer
from services.runtime.config import Address
from services.runtime.database import Database
from services.runtime.errors import Fault, InvalidArgument, Unavailable
from services.runtime.facts import wire
from services.runtime.facts.cache import OLDEST
from services.runtime.facts.checking import Question, Verdict
from services.runtime.facts.checks import Checks
from services.runtime.facts.remote import RemoteFacts
from services.runtime.server import Tasks
from services.runtime.telemetry import Telemetry
from tests.engines import Engines
from tests.integration.authorisations.people import give, make_theme, person
from tests.integration.authorisations.service import Service, assemble
from tests.integration.authorisations.test_checks import World, revoke
from tests.integration.authorisations.test_process import declare, environment, port_of, started


@dataclass
class Elsewhere:
    """A consumer of the facts, the process that it has them from, and the servicers over the same database."""

    checks: Checks
    service: Service
    peer: Peer
    process: asyncio.subprocess.Process

    async def check(self, theme: str, delegate: str, principal: str, *, token: str = "") -> Verdict:
        question = Question(
            delegate=delegate, principal=principal, theme_id=theme.removeprefix("themes/"), at=datetime.now(UTC)
        )
        return await self.checks.check(question, consistency_token=token)

    async def outcome(self, *question: str) -> str:
        """Whether it is allowed, or why that is not known."""
        try:
            return "allowed" if (await self.check(*question)).allowed else "denied"
        except Unavailable as fault:
            return fault.reason

    async def until(self, wanted: str, *question: str) -> None:
        async with asyncio.timeout(20):
            while await self.outcome(*question) != wanted:
                await asyncio.sleep(0.01)

    async def follows(self, token: str) -> None:
        """Until the consumer's own facts include a revision."""
        async with asyncio.timeout(20):
            while self.checks.current(token) is None:
                await asyncio.sleep(0.01)


@pytest.fixture
async def elsewhere(engines: Engines, authorisations_database: Database, tmp_path: Path) -> AsyncIterator[Elsewhere]:
    """A consumer that has its facts, which it follows with the certificate of messages."""
    keys = tmp_path / "keys"
    keys.mkdir()
    service = assemble(authorisations_database, keys, clock=lambda: datetime.now(UTC))
    async with started(environment(engines, declare(tmp_path / "clients.json"))) as process:
        address = Address("127.0.0.1", await port_of(process))
        files = engines.identity("messages")
        peer = Peer(name="authorisations", address=address, files=files, telemetry=Telemetry())
        checks = Checks(authorisations=peer)
        async with Tasks(asyncio.Event()) as tasks:
            tasks.start(checks.run())
            consumer = Elsewhere(checks, service, peer, process)
            theme = await make_theme(service)
            await consumer.follows(theme.consistency_token)
            yield consumer
        await peer.close()


def asked_of_the_service(monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    """The questions that were asked of the service from now on."""
    asked: list[Question] = []
    check: Callable[..., Any] = RemoteFacts.check

    async def noting(self: RemoteFacts, question: Question, **options: Any) -> Verdict:
        asked.append(question)
        verdict: Verdict = await check(self, question, **options)
        return verdict

    monkeypatch.setattr(RemoteFacts, "check", noting)
    return asked


@pytest.mark.parametrize("seed", range(3))
async def test_a_consumer_judges_as_the_service_does_and_does_not_ask(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    world, service = World(seed), elsewhere.service
    await world.build(service)
    token = await service.revisions.head()
    pairs = [(delegate, principal) for delegate in world.parties for principal in world.parties]
    await elsewhere.follows(token)
    asked = asked_of_the_service(monkeypatch)
    here = [await elsewhere.check(world.theme, *pair, token=token) for pair in pairs]
    assert not asked
    questions = [
        Question(delegate=one, principal=other, theme_id=world.theme.removeprefix("themes/"), at=datetime.now(UTC))
        for one, other in pairs
    ]
    stub: checks_pb2_grpc.CheckServiceAsyncStub = elsewhere.peer.stub(checks_pb2_grpc.CheckServiceStub)
    batch = checks_pb2.BatchCheckRequest(checks=[wire.request(one) for one in questions], consistency_token=token)
    there = [wire.verdict(one.response) for one in (await stub.BatchCheck(batch, timeout=10)).results]
    assert {pair for pair, verdict in zip(pairs, here, strict=True) if verdict.allowed} == {
        pair for pair in pairs if world.may(*pair)
    }
    assert [wire.verdict(wire.response(one, consistency_token="", audit_record="")) for one in here] == there


async def test_what_was_written_counts_with_its_token_and_one_never_given_is_refused(elsewhere: Elsewhere) -> None:
    theme, owner, helper = await make_theme(elsewhere.service), person(), person()
    for _ in range(5):
        given = await give(elsewhere.service, theme.name, owner, helper)
        assert (await elsewhere.check(theme.name, helper, owner, token=given.consistency_token)).allowed
        revoked = await revoke(elsewhere.service, given)
        assert not (await elsewhere.check(theme.name, helper, owner, token=revoked.consistency_token)).allowed
    ahead = f"{int(revoked.consistency_token, 16) + 1000:032x}"
    with pytest.raises(InvalidArgument) as refusal:
        await elsewhere.check(theme.name, helper, owner, token=ahead)
    assert refusal.value.reason == "CONSISTENCY_TOKEN_UNKNOWN"


async def given_and_known(elsewhere: Elsewhere) -> tuple[Mandate, tuple[str, str, str]]:
    theme, owner, helper = await make_theme(elsewhere.service), person(), person()
    given = await give(elsewhere.service, theme.name, owner, helper)
    question = (theme.name, helper, owner)
    await elsewhere.follows(given.consistency_token)
    assert (await elsewhere.check(*question)).allowed
    return given, question


async def test_a_revocation_comes_by_itself(elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    given, question = await given_and_known(elsewhere)
    asked = asked_of_the_service(monkeypatch)
    await revoke(elsewhere.service, given)
    await elsewhere.until("denied", *question)
    assert not asked


@pytest.mark.parametrize("cut", [signal.SIGSTOP, signal.SIGKILL])
async def test_who_is_cut_off_from_the_news_says_unavailable_and_never_an_old_allowed(
    elsewhere: Elsewhere, cut: signal.Signals
) -> None:
    given, question = await given_and_known(elsewhere)
    elsewhere.process.send_signal(cut)
    await revoke(elsewhere.service, given)
    loop = asyncio.get_running_loop()
    revoked_at, outcomes = loop.time(), list[tuple[float, str]]()
    while not outcomes or outcomes[-1][0] < OLDEST + 1:  # one that waits for a stopped process takes seconds
        began = loop.time()
        outcomes.append((began - revoked_at, await elsewhere.outcome(*question)))
        await asyncio.sleep(0.02)
    assert outcomes[0][1] == "allowed", "what is known to be new enough is used"
    assert {outcome for began, outcome in outcomes if began >= OLDEST} == {"UNAVAILABLE"}
    if cut is signal.SIGSTOP:
        elsewhere.process.send_signal(signal.SIGCONT)
        await elsewhere.until("denied", *question)


async def recorded(elsewhere: Elsewhere, *parties: str) -> list[AuditRecord]:
    rows = await elsewhere.service.database.fetch(
        "select content from audit_record where parties @> $1 and kind = $2 order by record",
        list(parties),
        AuditRecord.KIND_CHECK,
    )
    return [AuditRecord.FromString(row["content"]) for row in rows]


async def test_what_is_judged_in_a_consumer_is_in_the_record_too(elsewhere: Elsewhere) -> None:
    given, (theme, helper, owner) = await given_and_known(elsewhere)
    await revoke(elsewhere.service, given)
    await elsewhere.until("denied", theme, helper, owner)
    async with asyncio.timeout(20):
        while not (entries := await recorded(elsewhere, helper, owner)) or (
            entries[-1].check_response.decision != checks_pb2.DECISION_DENIED
        ):  # it may have been allowed several times before the news came
            await asyncio.sleep(0.05)
    first, last = entries[0], entries[-1]
    assert first.actor.client == last.actor.client == "services/messages"
    assert list(first.check_response.mandates) == [given.name]
    assert (first.check_response.decision, last.check_response.decision) == (
        checks_pb2.DECISION_ALLOWED,
        checks_pb2.DECISION_DENIED,
    )
    assert (last.check_request.theme, last.name) == (theme, last.check_response.audit_record)


async def test_a_consumer_that_stops_delivers_what_it_judged_last_and_nothing_twice(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    record: Callable[..., Any] = RemoteFacts.record
    delivered: list[int] = []

    async def twice(self: RemoteFacts, request: checks_pb2.RecordChecksRequest) -> None:
        await record(self, request)
        delivered.append(len(request.checks))
        if len(delivered) == 1:
            raise Unavailable("UNAVAILABLE", "the answer was lost")
        await record(self, request)

    monkeypatch.setattr(RemoteFacts, "record", twice)
    theme, owner, helper = await make_theme(elsewhere.service), person(), person()
    token = theme.consistency_token
    checks = Checks(authorisations=elsewhere.peer)
    running = asyncio.create_task(checks.run())
    other = Elsewhere(checks, elsewhere.service, elsewhere.peer, elsewhere.process)
    await other.follows(token)
    for _ in range(3):
        await other.check(theme.name, helper, owner, token=token)
    async with asyncio.timeout(20):
        while not delivered:
            await asyncio.sleep(0.02)
    await other.check(theme.name, helper, owner)
    before = {one.name for one in await recorded(elsewhere, helper, owner)}
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    after = [one.name for one in await recorded(elsewhere, helper, owner)]
    assert len(after) == len(set(after))
    assert len(set(after) - before) >= 1
    assert len(delivered) >= 2


async def test_a_refusal_of_the_question_is_the_services_own(elsewhere: Elsewhere) -> None:
    with pytest.raises(Fault) as refusal:
        await elsewhere.check("themes/no-such-theme", person(), person())
    assert refusal.value.reason == "THEME_UNSUITABLE"
