"""Runs the benchmarks and prints what they found.

python -m tests.bench [--only start,checks] [--sizes 10000,100000] [--no-peers] [--messages 10000000]
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import platform
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.bench import (
    backlog,
    checks,
    compose,
    edge,
    evidence,
    exchange_stream,
    exchanges,
    growth,
    grpc_stream,
    look_up,
    sending,
    start,
    transfer,
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--only", help="benchmarks to run, with commas between them; all of them if left out")
    parser.add_argument("--sizes", default=",".join(map(str, checks.SIZES)), help="numbers of mandates for checks")
    parser.add_argument("--seconds", type=float, default=checks.SECONDS, help="seconds for each figure of checks")
    parser.add_argument(
        "--messages", type=int, default=growth.MESSAGES, help="messages in the store, in the end, for growth"
    )
    parser.add_argument("--no-peers", action="store_true", help="leave other engines out of checks")
    return parser.parse_args()


async def main(arguments: argparse.Namespace) -> None:
    """Each on a node of its own state, in a folder that is deleted afterwards."""
    sizes = sorted(int(size) for size in arguments.sizes.split(","))
    options = checks.Options(sizes=sizes, seconds=arguments.seconds, peers=not arguments.no_peers)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory(prefix="solmu-bench-") as name:
        folder, state = Path(name), Path(name) / "state"
        benchmarks: dict[str, Callable[[], Awaitable[None]]] = {
            "evidence": functools.partial(asyncio.to_thread, evidence.measure),
            "backlog": functools.partial(backlog.measure, folder),
            "start": functools.partial(start.measure, state),
            "compose": compose.measure,
            "edge": functools.partial(edge.measure, folder),
            "sending": functools.partial(sending.measure, state),
            "growth": functools.partial(growth.measure, state, messages=arguments.messages),
            "checks": functools.partial(checks.measure, state, options),
            "look_up": functools.partial(look_up.measure, state),
            "transfer": functools.partial(transfer.measure, state),
            "exchanges": functools.partial(exchanges.measure, folder / "pair"),
            "exchange_stream": functools.partial(exchange_stream.measure, folder / "streaming"),
            "grpc_stream": functools.partial(grpc_stream.measure, folder / "grpc"),
        }
        for one in arguments.only.split(",") if arguments.only else benchmarks:
            await benchmarks[one]()


if __name__ == "__main__":
    asyncio.run(main(_arguments()))
