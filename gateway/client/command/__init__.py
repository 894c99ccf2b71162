"""The command line: `solmu`.

    solmu up | down | status | logs | demo      the node on this machine
    solmu keys ...                              what wraps the node's keys, and moving them to another root
    solmu config check                          the settings of every process, all faults at once
    solmu clients ...                           information systems and their certificates
    solmu messages ...                          send, list, show
    solmu events follow                         what happens to a unit's messages
    solmu letters ...                           claim and report: for a print house
    solmu mandates ...                          list, request, confirm, revoke; check who may act for whom
    solmu registers import                      what a register says, from a file
    solmu directory ...                         meshes, their members and anchors; join one
    solmu exchange ...                          services, calls of them, who may call
    solmu evidence ...                          list, get; verify, which needs no node
    solmu log-in                                log a person in with a browser; --person calls in that name
    solmu connect                               a way to the edge without a certificate of one's own
    solmu call GET /v1/units                    any REST call, with certificate and token
    solmu token                                 an access token
    solmu completion bash                       completion for a shell

The profile is the folder named by --profile or SOLMU_PROFILE; without either it
is that of the embedded node's demo client. With --json, output is JSON, one
object a line. Exit status: 0 done, 1 refused by the node, 2 wrong usage, 3 the
node cannot be reached, 4 evidence that is not wholly proven, 5 a check answered
with no, 130 interrupted, 141 nobody reads the output any more; those of the
node's own commands are in deploy/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from gateway.client.client import Client
from gateway.client.command import (
    clients,
    completion,
    connect,
    directory,
    evidence,
    exchange,
    letters,
    log_in,
    mandates,
    messages,
    node,
    registers,
    rest,
)
from gateway.client.command.output import Output, UsageError
from gateway.client.profile import Profile, ProfileError
from services.runtime.errors import Fault, Unavailable

DEMO_PROFILE = ".solmu/clients/permits"
DONE, REFUSED, USAGE, UNREACHABLE, INTERRUPTED, UNREAD = 0, 1, 2, 3, 130, 141


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of the command."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:  # noqa: PLR0911 - one for each way it can end
    """Runs one command; answers the exit status."""
    given = build_parser().parse_args(arguments)
    out = Output(as_json=given.json)
    try:
        status = int(given.local(given, out)) if hasattr(given, "local") else asyncio.run(_remote(given, out))
        sys.stdout.flush()
    except BrokenPipeError:
        # As a program that the signal ends; Python would complain of what it cannot write at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except (ProfileError, UsageError) as error:
        hint = "\nStart a node with `solmu up`, or name a profile with --profile."
        return _say(f"{error}{hint if isinstance(error, ProfileError) else ''}", USAGE)
    except Unavailable as fault:
        return _say(f"{fault.message}\nIs the node up? `solmu status` tells.", UNREACHABLE)
    except Fault as fault:
        for field, description in fault.violations:
            _say(f"  {field}: {description}", REFUSED)
        return _say(str(fault), REFUSED)
    except OSError as error:
        return _say(f"{error.filename}: {error.strerror}" if error.filename else str(error), USAGE)
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


async def _remote(given: argparse.Namespace, out: Output) -> int:
    called = log_in.person(given.profile) if given.person else Client(Profile.load(given.profile))
    async with called as client:
        return await given.remote(client, given, out) or DONE


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar."""
    parser = argparse.ArgumentParser(
        prog="solmu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("SOLMU_PROFILE", DEMO_PROFILE)
    parser.add_argument("--profile", default=default, metavar="FOLDER", help=f"the profile to use (default: {default})")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    parser.add_argument("--person", action="store_true", help="call in the name of who logged in last (log-in)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in (
        node, clients, messages, letters, mandates, registers, directory, exchange, evidence, log_in, connect, rest,
    ):  # fmt: skip
        group.add(commands)
    completion.add(commands, parser)
    return parser


def _say(text: str, status: int) -> int:
    print(text, file=sys.stderr)
    return status
