"""`connect`: a way to the edge for systems that have no client certificate."""

from __future__ import annotations

import argparse
import asyncio
import signal
from typing import Any

from gateway.client.command.output import Output, UsageError
from gateway.client.connector import Connector
from gateway.client.profile import Profile

DEFAULT = "127.0.0.1:8080"


def add(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "connect", help="forward HTTP and gRPC from loopback to the edge, with the profile's certificate"
    )
    command.add_argument("--listen", default=DEFAULT, metavar="HOST:PORT", help=f"default: {DEFAULT}; port 0: any")
    command.set_defaults(local=_connect)


def _connect(given: argparse.Namespace, out: Output) -> int:
    host, _, port = given.listen.rpartition(":")
    profile = Profile.load(given.profile)
    try:
        asyncio.run(_forward(profile, host.strip("[]"), int(port), out))
    except ValueError as error:
        raise UsageError(f"--listen {given.listen}: {error}") from None
    return 0


async def _forward(profile: Profile, host: str, port: int, out: Output) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Connector(profile, host=host, port=port) as connector:
        if out.as_json:
            out.line({"listen": connector.address, "edge": profile.edge, "client": profile.client_id})
        else:
            print(f"{connector.address} is {profile.edge}, as {profile.client_id}; Ctrl-C ends it", flush=True)
        await stop.wait()
