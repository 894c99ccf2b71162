"""The command line: `solmu`.

    solmu token                      an access token for the profile
    solmu call GET /v1/units         a REST call with the profile's certificate and a token
    solmu call POST /v1/... '{...}'  the same with a JSON body

The profile is the folder named by --profile or SOLMU_PROFILE; without either it
is that of the embedded node's demo client. Exit status: 0 done, 1 refused by
the node, 2 wrong usage, 3 the node cannot be reached.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence

from gateway.client.client import Client
from gateway.client.profile import Profile, ProfileError
from services.runtime.errors import Fault, Unavailable

DEMO_PROFILE = ".solmu/clients/permits"
REFUSED, USAGE, UNREACHABLE = 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of the command."""
    given = _parser().parse_args(arguments)
    try:
        profile = Profile.load(given.profile)
        body = json.loads(given.body) if getattr(given, "body", None) else None
    except ProfileError as error:
        sys.exit(_say(f"{error}\nStart a node with `make up`, or name a profile with --profile.", USAGE))
    except ValueError as error:
        sys.exit(_say(f"the body is not JSON: {error}", USAGE))
    try:
        sys.exit(asyncio.run(_run(given, profile, body)))
    except Unavailable as fault:
        sys.exit(_say(f"{fault.message}\nIs the node up? `make status` tells.", UNREACHABLE))
    except Fault as fault:
        for field, description in fault.violations:
            _say(f"  {field}: {description}", REFUSED)
        sys.exit(_say(str(fault), REFUSED))


async def _run(given: argparse.Namespace, profile: Profile, body: object) -> int:
    async with Client(profile) as client:
        if given.command == "token":
            print(await client.token())
        else:
            answer = await client.rest(given.verb.upper(), given.path, body)  # type: ignore[arg-type]
            print(json.dumps(answer, indent=2, ensure_ascii=False))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="solmu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("SOLMU_PROFILE", DEMO_PROFILE)
    parser.add_argument("--profile", default=default, metavar="FOLDER", help=f"the profile to use (default: {default})")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("token", help="print an access token")
    call = commands.add_parser("call", help="call a REST path and print the answer")
    call.add_argument("verb", metavar="VERB", help="GET, POST, PUT, PATCH or DELETE")
    call.add_argument("path", metavar="PATH", help="such as /v1/units")
    call.add_argument("body", metavar="JSON", nargs="?", help="the request body")
    return parser


def _say(text: str, status: int) -> int:
    print(text, file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
