"""Cerbos: its server on loopback; the mandates that concern a question are handed to it in the call.

As it is commonly measured: without TLS, the mandates at hand, nothing on record.
With `--alike yes` as near to what the node does as it comes: with TLS, the
mandates looked up in PostgreSQL by who asks, and its decisions in its own log,
a file that it writes without waiting for the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from cerbos.effect.v1 import effect_pb2
from cerbos.engine.v1 import engine_pb2
from cerbos.request.v1 import request_pb2
from cerbos.svc.v1 import svc_pb2_grpc

from deploy.local import ports
from services.runtime import mesh, tls
from tests.bench.checks import world
from tests.bench.checks.measuring import Figures, measure
from tests.bench.checks.peers.running import run
from tests.bench.checks.peers.slices import Concerning, Slices
from tests.bench.checks.peers.stored import Stored
from tests.bench.checks.world import Asked, Given

BATCH = 50
"""Resources in one call: Cerbos' own limit."""

START_WITHIN = 30.0

POLICY = {
    "apiVersion": "api.cerbos.dev/v1",
    "resourcePolicy": {
        "resource": "party",
        "version": "default",
        "rules": [
            {
                "actions": ["act"],
                "effect": "EFFECT_ALLOW",
                "roles": ["party"],
                "condition": {
                    "match": {
                        "expr": (
                            "R.attr.acts.exists(a, a.start <= P.attr.now && P.attr.now < a.end && (a.delegate == P.id"
                            " || R.attr.represents.exists(r, r.start <= P.attr.now && P.attr.now < r.end"
                            " && r.principal == a.delegate)))"
                        )
                    }
                },
            }
        ],
    },
}


Find = Callable[[Sequence[Asked]], Awaitable[Sequence[Concerning]]]
"""Finds the mandates that concern each of one delegate's questions."""


@contextlib.asynccontextmanager
async def _serving(program: str, files: tls.Files | None) -> AsyncIterator[tuple[str, int]]:
    """Cerbos' address, and its process. With `files` it has TLS and keeps its decision log."""
    http, port = ports.free(), ports.free()
    with tempfile.TemporaryDirectory() as folder:
        policies = Path(folder) / "policies"
        policies.mkdir()
        (policies / "party.json").write_text(json.dumps(POLICY))
        configuration: dict[str, Any] = {
            "server": {"httpListenAddr": f"127.0.0.1:{http}", "grpcListenAddr": f"127.0.0.1:{port}"},
            "storage": {"driver": "disk", "disk": {"directory": str(policies), "watchForChanges": False}},
            "telemetry": {"disabled": True},
        }
        if files is not None:
            configuration["server"] |= {"tls": {"cert": str(files.certificate), "key": str(files.key)}}
            configuration["audit"] = {
                "enabled": True,
                "accessLogsEnabled": False,
                "decisionLogsEnabled": True,
                "backend": "file",
                "file": {"path": str(Path(folder) / "decisions.log")},
            }
        (Path(folder) / "cerbos.json").write_text(json.dumps(configuration))
        process = await asyncio.create_subprocess_exec(
            program, "server", f"--config={folder}/cerbos.json", "--log-level=ERROR"
        )
        try:
            yield f"127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            await process.wait()


def _attributes(one: Given) -> dict[str, Any]:
    times = {"start": world.LAID.timestamp(), "end": one.end.timestamp()}
    return {"delegate": one.delegate, "principal": one.principal} | times


class Cerbos:
    """Cerbos over gRPC."""

    def __init__(self, channel: grpc.aio.Channel, find: Find) -> None:
        self._stub = svc_pb2_grpc.CerbosServiceStub(channel)
        self._find = find

    async def one(self, question: Asked) -> bool:
        """Whether it is allowed."""
        return (await self.many([question]))[0]

    async def many(self, questions: Sequence[Asked]) -> list[bool]:
        """The same of one delegate's questions: a call has one principal."""
        principal = engine_pb2.Principal(id=questions[0].delegate, roles=["party"])
        principal.attr["now"].number_value = world.now()
        request = request_pb2.CheckResourcesRequest(principal=principal)
        for question, (acts, represents) in zip(questions, await self._find(questions), strict=True):
            entry = request.resources.add(actions=["act"])
            entry.resource.kind, entry.resource.id = "party", question.principal
            for name, mandates in (("acts", acts), ("represents", represents)):
                values = entry.resource.attr[name].list_value
                values.extend([_attributes(one) for one in mandates])
        response = await self._stub.CheckResources(request)
        return [one.actions["act"] == effect_pb2.EFFECT_ALLOW for one in response.results]


@contextlib.asynccontextmanager
async def _facts(arguments: argparse.Namespace, files: tls.Files) -> AsyncIterator[Find]:
    if arguments.alike == "yes":
        async with contextlib.aclosing(await Stored.lay(arguments.database, files, arguments.size)) as stored:
            yield stored.of
    else:
        slices = Slices(arguments.size)

        async def find(questions: Sequence[Asked]) -> list[Concerning]:
            return [slices.of(question) for question in questions]

        yield find


def _channel(address: str, files: tls.Files | None) -> grpc.aio.Channel:
    if files is None:
        return grpc.aio.insecure_channel(address)
    options = [("grpc.ssl_target_name_override", mesh.OPERATOR)]
    return grpc.aio.secure_channel(address, tls.channel_credentials(files), options=options)


async def _measure(arguments: argparse.Namespace) -> Figures:
    proof = tls.Files(Path(arguments.certificate), Path(arguments.key), Path(arguments.authorities))
    alike = arguments.alike == "yes"
    files = proof if alike else None
    async with (
        _facts(arguments, proof) as find,
        _serving(arguments.program, files) as (address, pid),
        _channel(address, files) as channel,
    ):
        await asyncio.wait_for(channel.channel_ready(), START_WITHIN)
        figures = await measure(
            Cerbos(channel, find),
            arguments.size,
            seconds=arguments.seconds,
            together=True,
            batch=BATCH,
            others=[pid, *([int(arguments.postgres)] if alike else [])],
        )
    figures.notes.append(f"a batch is {BATCH} questions of one delegate")
    return figures


if __name__ == "__main__":
    run(_measure, "program", "alike", "database", "certificate", "key", "authorities", "postgres")
