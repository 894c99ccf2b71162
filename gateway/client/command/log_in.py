"""`log-in`: a person logs in with a browser, and `--person` calls in that name."""

from __future__ import annotations

import argparse
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from gateway.client import log_in
from gateway.client.client import Client
from gateway.client.command.output import Output, UsageError
from gateway.client.log_in import Person, Token
from gateway.client.profile import Profile

FILE = "person.json"
"""In the profile's folder: the token of the last log-in, for its owner alone."""


def add(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser("log-in", help="log a person in with a browser; --person then calls in that name")
    command.add_argument("--redirect-uri", default="", metavar="URI", help="on loopback (default: the profile's)")
    command.add_argument("--scope", default="", metavar="SCOPES", help="separated by spaces (default: all)")
    command.set_defaults(remote=_log_in)


def person(profile: str) -> Person:
    """Who logged in last. Raises UsageError where nobody did."""
    try:
        kept = json.loads(_file(profile).read_text(encoding="utf-8"))
        token = Token(kept["access_token"], kept["expires"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"nobody has logged in: solmu --profile {profile} log-in") from None
    return Person(Profile.load(profile), token)


async def _log_in(client: Client, given: argparse.Namespace, out: Output) -> None:
    async with log_in.begin(client, redirect_uri=given.redirect_uri, scope=given.scope) as begun:
        if out.as_json:
            out.line({"address": begun.address})
        else:
            print(f"Open this address in a browser, within a minute:\n\n    {begun.address}\n", flush=True)
        token = await begun.token()
    _keep(_file(given.profile), token)
    if out.as_json:
        out.line({"party": token.party, "expires": token.expires})
    else:
        print(f"Logged in as {token.party} until {datetime.fromtimestamp(token.expires).astimezone():%H:%M:%S}.")


def _keep(file: Path, token: Token) -> None:
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        json.dump({"access_token": token.value, "expires": token.expires}, opened)


def _file(profile: str) -> Path:
    path = Path(profile)
    return (path if path.is_dir() else path.parent) / FILE
