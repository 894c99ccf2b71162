"""The node's own ways to a check: gRPC straight to the service, AuthZEN through the edge, and facts in a consumer."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import grpc
from solmu.authorisations.v1 import checks_pb2, checks_pb2_grpc, watch_pb2, watch_pb2_grpc
from solmu.authorisations.v1.parties_pb2 import Party

from deploy.local.node import Node
from gateway.client import Client
from services.runtime import mesh, tls
from services.runtime.client import Peer
from services.runtime.config import Address
from services.runtime.facts.checking import Question, Verdict
from services.runtime.facts.checks import Checks
from services.runtime.server import Tasks
from services.runtime.telemetry import Telemetry
from tests.bench.checks.world import THEME, Asked

LOADED_WITHIN = 1800.0
"""Seconds in which facts must have followed what was laid."""


def request(question: Asked) -> checks_pb2.CheckRequest:
    """A question as the service takes it."""
    return checks_pb2.CheckRequest(
        delegate=Party(name=question.delegate), principal=Party(name=question.principal), theme=f"themes/{THEME}"
    )


class Straight:
    """The service itself, over gRPC and mTLS; each answer is recorded, on disk, before it is given."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = checks_pb2_grpc.CheckServiceStub(channel)
        self._watch = watch_pb2_grpc.WatchServiceStub(channel)

    async def one(self, question: Asked, *, token: str = "") -> bool:
        """Whether it is allowed."""
        asked = request(question)
        asked.consistency_token = token
        return (await self._stub.Check(asked)).decision == checks_pb2.DECISION_ALLOWED

    async def many(self, questions: Sequence[Asked]) -> list[bool]:
        """The same of a batch."""
        batch = checks_pb2.BatchCheckRequest(checks=[request(question) for question in questions])
        results = (await self._stub.BatchCheck(batch)).results
        return [one.response.decision == checks_pb2.DECISION_ALLOWED for one in results]

    async def head(self) -> watch_pb2.Head:
        """The newest revision."""
        return await self._watch.GetHead(watch_pb2.GetHeadRequest())

    async def until(self, token: str) -> None:
        """Until the service's facts include a revision."""
        async with asyncio.timeout(LOADED_WITHIN):
            while True:
                try:
                    await self.one(Asked(name := f"persons/{'a' * 26}", name, allowed=True), token=token)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                else:
                    return


@asynccontextmanager
async def straight(node: Node) -> AsyncIterator[Straight]:
    """A connection to the service, as the gateway has one."""
    options = [("grpc.ssl_target_name_override", "authorisations"), ("grpc.max_receive_message_length", 2**24)]
    credentials = tls.channel_credentials(node.state.identity(mesh.GATEWAY))
    target = f"127.0.0.1:{node.ports['authorisations']}"
    async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
        yield Straight(channel)


class Authzen:
    """AuthZEN through the edge, with a client's certificate and token."""

    def __init__(self, edge: str, session: aiohttp.ClientSession) -> None:
        self._edge = edge
        self._session = session

    async def one(self, question: Asked) -> bool:
        """Whether it is permitted."""
        return bool((await self._post("evaluation", _evaluation(question)))["decision"])

    async def many(self, questions: Sequence[Asked]) -> list[bool]:
        """The same of a batch."""
        body = {"evaluations": [_evaluation(question) for question in questions]}
        return [bool(one["decision"]) for one in (await self._post("evaluations", body))["evaluations"]]

    async def _post(self, path: str, body: Any) -> Any:
        async with self._session.post(f"{self._edge}/access/v1/{path}", json=body) as answer:
            answer.raise_for_status()
            return await answer.json()


def _evaluation(question: Asked) -> Any:
    return {
        "subject": _entity(question.delegate),
        "action": {"name": f"themes/{THEME}"},
        "resource": _entity(question.principal),
    }


def _entity(name: str) -> dict[str, str]:
    return {"type": name.partition("/")[0].removesuffix("s"), "id": name}


@asynccontextmanager
async def authzen(client: Client) -> AsyncIterator[Authzen]:
    """A policy enforcement point with a client's profile."""
    files = client.profile.files
    context = ssl.create_default_context(cafile=str(files.authorities))
    context.load_cert_chain(str(files.certificate), str(files.key))
    headers = {"Authorization": f"Bearer {await client.token()}"}
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        yield Authzen(client.profile.edge, session)


class Embedded:
    """Facts in this process, which follow the service's; answers are recorded there a moment later."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks

    async def one(self, question: Asked) -> bool:
        """Whether it is allowed."""
        return (await self._checks.check(_question(question))).allowed

    async def many(self, questions: Sequence[Asked]) -> list[bool]:
        """One after another."""
        return [await self.one(question) for question in questions]

    def unrecorded(self) -> Judging:
        """The same facts without the record, which no service may do: what a library does."""
        return Judging(self._checks)

    async def until(self, token: str) -> None:
        """Until these facts include a revision."""
        async with asyncio.timeout(LOADED_WITHIN):
            while self._checks.current(token) is None:
                await asyncio.sleep(0.01)


class Judging:
    """Judges by the newest facts in this process, and that is all."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks

    async def one(self, question: Asked) -> bool:
        """Whether it is allowed."""
        asked = _question(question)
        while (facts := self._checks.current()) is None:  # nothing else waits here, and word of facts has to come in
            await asyncio.sleep(0.001)
        verdict = facts.judge(asked, now=asked.at)
        assert isinstance(verdict, Verdict)
        return verdict.allowed

    async def many(self, questions: Sequence[Asked]) -> list[bool]:
        """One after another."""
        return [await self.one(question) for question in questions]


def _question(question: Asked) -> Question:
    now = datetime.now(UTC)
    return Question(delegate=question.delegate, principal=question.principal, theme_id=THEME, at=now)


@asynccontextmanager
async def embedded(node: Node) -> AsyncIterator[Embedded]:
    """A consumer, with the certificate of messages."""
    files, address = node.state.identity("messages"), Address("127.0.0.1", node.ports["authorisations"])
    peer = Peer(name="authorisations", address=address, files=files, telemetry=Telemetry())
    checks = Checks(authorisations=peer)
    async with Tasks(asyncio.Event()) as tasks:
        tasks.start(checks.run())
        yield Embedded(checks)
    await peer.close()


async def seconds_until(until: Any, token: str) -> float:
    """How long it takes until facts include a revision."""
    began = time.perf_counter()
    await until(token)
    return time.perf_counter() - began
