"""`token` and `call`: what the rest of the command line has no words for."""

from __future__ import annotations

import argparse
import json
from typing import Any

from gateway.client.client import Client
from gateway.client.command.output import Output, UsageError


def add(commands: Any) -> None:
    """Adds the commands."""
    token = commands.add_parser("token", help="print an access token")
    token.set_defaults(remote=_token)
    call = commands.add_parser("call", help="call a REST path and print the answer; /docs at the edge lists them")
    call.add_argument("verb", metavar="VERB", type=str.upper, choices=["GET", "POST", "PUT", "PATCH", "DELETE"])
    call.add_argument("path", metavar="PATH", help="such as /v1/units")
    call.add_argument("body", metavar="JSON", nargs="?", help="the request body")
    call.set_defaults(remote=_call)


async def _token(client: Client, _: argparse.Namespace, __: Output) -> None:
    print(await client.token())


async def _call(client: Client, given: argparse.Namespace, out: Output) -> None:
    try:
        body = json.loads(given.body) if given.body else None
    except ValueError as error:
        raise UsageError(f"the body is not JSON: {error}") from None
    answer = await client.rest(given.verb, given.path, body)
    if out.as_json:
        out.line(answer)
    else:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
