"""A service process: serves its contract over mTLS until it is told to stop.

The server answers grpc.health.v1 for the whole and stops in order: first it
says that it is not ready, then it lets calls end, then what it stands on
closes.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

import grpc
import uvloop
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.runtime import tls
from services.runtime.chain import Chain, Judge, Passing
from services.runtime.config import Address, ConfigError
from services.runtime.database import MigrationError

if TYPE_CHECKING:
    from services.runtime.chain import Handler

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Largest protobuf message taken or given; streams are made of smaller ones."""

GRACE = 10.0
"""Seconds that calls have to end when the process stops; orchestrators wait 30."""

DRAIN_NOTICE = 0.2
"""Seconds between saying "not ready" and refusing new calls, so that the edge has looked elsewhere."""

HEALTH_INTERVAL = 1.0
"""Seconds between two looks at what the service stands on."""

MAX_HEADER_BYTES = 64 << 10
"""Of one call: what the edge lets through (32 KiB) and what it adds. gRPC would refuse some of 8 KiB, at random."""

FLAT = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 20)]
"""What comes ahead of its reader on a stream: a mebibyte. gRPC would double it for as long as a connection is fast."""

OPTIONS = [
    *FLAT,
    ("grpc.max_metadata_size", MAX_HEADER_BYTES),
    ("grpc.so_reuseport", 1),  # several processes of one service may share the port
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
]


class Server:
    """The gRPC server of one service. `ready` says whether what it stands on is there."""

    def __init__(
        self, *, chain: Chain, files: tls.Files, listen: Address, ready: Callable[[], Awaitable[bool]]
    ) -> None:
        self._chain = chain
        self._ready = ready
        self._server = grpc.aio.server(options=OPTIONS)
        self._passing = _Passing()
        self._server.add_generic_rpc_handlers((self._passing,))
        self._listen = listen
        self.port = self._server.add_secure_port(str(listen), tls.server_credentials(files))
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)  # type: ignore[no-untyped-call]

    def add(self, service: ServiceDescriptor, servicer: object, *, judge: Judge | None = None) -> None:
        """Serves one service of the contract. Methods that the servicer lacks answer METHOD_NOT_IMPLEMENTED.

        `judge` is asked about calls on another's behalf.
        """
        handlers = self._chain.handlers(service, servicer, judge=judge)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))

    def pass_on(self, named: str, method: MethodDescriptor, behaviour: Passing) -> None:
        """Has calls of any method that carry this metadata passed on, by the policy of one method of the contract."""
        self._passing.named, self._passing.handler = named, self._chain.passing(method, behaviour)

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set, then ends the calls under way."""
        await self._server.start()
        settle()
        logger.info("serving", extra={"listen": str(self._listen), "port": self.port})
        watch = asyncio.create_task(self._watch())
        try:
            await stop.wait()
        finally:
            watch.cancel()
            await self._health.enter_graceful_shutdown()
            await asyncio.sleep(DRAIN_NOTICE)
            await self._server.stop(GRACE)
            logger.info("stopped")

    async def _watch(self) -> None:
        while True:
            serving = await self._ready()
            status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
            await self._health.set("", status)
            await asyncio.sleep(HEALTH_INTERVAL)


class _Passing(grpc.GenericRpcHandler):
    """Finds the calls that are passed on, before any method of the same path is looked for."""

    def __init__(self) -> None:
        self.named = ""
        self.handler: Callable[[str], Handler] | None = None

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        metadata = handler_call_details.invocation_metadata or ()
        if self.handler is None or all(name != self.named for name, _ in metadata):
            return None
        return self.handler(handler_call_details.method)


def run(main: Callable[[asyncio.Event, AsyncExitStack], Coroutine[Any, Any, None]]) -> None:
    """Runs a process: `main` gets an event that SIGTERM and SIGINT set, and a stack for what must be closed.

    A wrong configuration ends it with the list of faults and status 78
    (EX_CONFIG), migrations that do not fit with 65 (EX_DATAERR).
    """
    try:
        uvloop.run(_supervised(main))
    except ConfigError as error:
        logger.critical("%s", error)
        raise SystemExit(78) from None
    except MigrationError as error:
        logger.critical("%s", error)
        raise SystemExit(65) from None


async def _supervised(main: Callable[[asyncio.Event, AsyncExitStack], Coroutine[Any, Any, None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        await main(stop, stack)


def settle() -> None:
    """Takes what a started process consists of out of the garbage collector's sight, and lets it look less often.

    What a call makes is freed by its reference count; cycles are few. A
    collection that looks at all modules, descriptors and compiled rules stops
    every call for that long.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def within(event: asyncio.Event, seconds: float) -> bool:
    """Waits so long for an event; whether it came."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True


class Tasks:
    """Background tasks of a process. One that fails stops the process, so that its supervisor starts it afresh."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts one."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.critical("a background task failed; the process stops", exc_info=error)
            self._stop.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
