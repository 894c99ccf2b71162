"""The facts as the authorisations service tells them to the other services of the node."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from solmu.authorisations.v1 import checks_pb2, checks_pb2_grpc, watch_pb2, watch_pb2_grpc

from services.runtime.client import Peer
from services.runtime.facts import wire
from services.runtime.facts.checking import Question, Verdict

HEAD_WITHIN = 2.0
"""Seconds for the newest revision: an answer that comes later says too little about now."""

ANSWER_WITHIN = 2.0
"""Seconds for the answer to a check, and for taking a record of checks."""


class RemoteFacts:
    """A source of facts, and the service to ask where they do not suffice."""

    def __init__(self, authorisations: Peer) -> None:
        self._peer = authorisations

    async def watch(self, request: watch_pb2.WatchRequest) -> AsyncGenerator[watch_pb2.WatchResponse]:
        """The stream of `WatchService.Watch`. Raises Fault."""
        stub: watch_pb2_grpc.WatchServiceAsyncStub = self._peer.stub(watch_pb2_grpc.WatchServiceStub)
        call = stub.Watch(request, metadata=self._peer.metadata())
        try:
            with self._peer.faults():
                async for part in call:
                    yield part
        finally:
            call.cancel()

    async def head(self) -> str:
        """The consistency token of the newest revision. Raises Fault."""
        stub: watch_pb2_grpc.WatchServiceAsyncStub = self._peer.stub(watch_pb2_grpc.WatchServiceStub)
        with self._peer.faults():
            answer = await stub.GetHead(watch_pb2.GetHeadRequest(), timeout=HEAD_WITHIN, metadata=self._peer.metadata())
        return answer.consistency_token

    async def check(self, question: Question, *, consistency_token: str) -> Verdict:
        """What the service answers. Raises Fault."""
        request = wire.request(question)
        request.consistency_token = consistency_token
        stub: checks_pb2_grpc.CheckServiceAsyncStub = self._peer.stub(checks_pb2_grpc.CheckServiceStub)
        with self._peer.faults():
            return wire.verdict(await stub.Check(request, timeout=ANSWER_WITHIN, metadata=self._peer.metadata()))

    async def record(self, request: checks_pb2.RecordChecksRequest) -> None:
        """Has the audit record hold checks that were judged here. Raises Fault."""
        stub: checks_pb2_grpc.CheckServiceAsyncStub = self._peer.stub(checks_pb2_grpc.CheckServiceStub)
        with self._peer.faults():
            await stub.RecordChecks(request, timeout=ANSWER_WITHIN, metadata=self._peer.metadata())
