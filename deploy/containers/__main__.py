"""`python -m deploy.containers <job>`: see `deploy.containers.jobs`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable

from deploy.containers import health
from deploy.local.problems import NodeProblem
from services.runtime import config

EX_CONFIG = 78
EXIT_FAILED = 1


def main() -> int:
    """Runs one job; answers the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.containers", description="A job of a node in containers.")
    commands = parser.add_subparsers(dest="job", required=True, metavar="job")
    commands.add_parser("prepare", help="make what is missing of keys and certificates, and lay each process's share")
    commands.add_parser("provision", help="wait for the engines, and make a role and a database per service")
    commands.add_parser("renew", help="prepare once a day, and have the engines read what changed")
    client = commands.add_parser("client", help="issue a client's certificate, and write its profile")
    client.add_argument("client_id")
    client.add_argument("--scope", action="append", default=[], help="what its profile asks for; may be given again")
    commands.add_parser("health", help="ask the process of this container whether it serves")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        _health() if arguments.job == "health" else _run(arguments)
    except config.ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EX_CONFIG
    except NodeProblem as problem:
        sys.stderr.write(f"{problem}\n")
        return EXIT_FAILED
    return 0


def _run(arguments: argparse.Namespace) -> None:
    # Here, because it costs a health check, which runs every few seconds, three times what the check itself does.
    from deploy.containers import jobs  # noqa: PLC0415

    actions: dict[str, Callable[[], None]] = {
        "prepare": jobs.run_prepare,
        "provision": jobs.run_provision,
        "renew": jobs.run_renew,
        "client": lambda: jobs.run_client(arguments.client_id, arguments.scope),
    }
    actions[arguments.job]()


def _health() -> None:
    try:
        health.check()
    except config.ConfigError:
        raise
    except Exception as error:
        raise NodeProblem(f"it does not serve: {type(error).__qualname__}", "look into the container's log") from error


if __name__ == "__main__":
    sys.exit(main())
