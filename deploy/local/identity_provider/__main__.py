"""Starts the test identity provider: `python -m deploy.local.identity_provider`, by the supervisor of a node alone."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from deploy import pki
from deploy.local import demo_clients
from deploy.local.identity_provider import terms
from deploy.local.identity_provider.provider import IdentityProvider, Registered
from deploy.local.lock import Lock
from deploy.local.ports import LOOPBACK
from deploy.local.procfs import Birth
from deploy.local.state import State
from services.runtime import config
from services.runtime.config import Address, ConfigError, address, folder, setting, text
from services.runtime.server import run, within

logger = logging.getLogger(__name__)

FETCH_SECONDS = 5.0
"""For the node's key set."""

RELOAD_SECONDS = 3600.0
"""Between two looks at the certificate, which the supervisor renews long before its end."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the supervisor tells it."""

    state: Path = setting("SOLMU_STATE", folder, doc="state folder of the embedded node")
    listen: Address = setting("SOLMU_LISTEN", address, doc="host:port on which it serves, on loopback")
    browser_origin: str = setting("SOLMU_BROWSER_ORIGIN", text, doc="origin of the edge's port for browsers")


async def main(stop: asyncio.Event, stack: AsyncExitStack) -> None:
    """Serves until it is told to stop."""
    settings = config.read(Settings)
    state = State(settings.state)
    refuse_elsewhere(state, settings.listen)
    trusted = ssl.create_default_context(cafile=str(state.public / pki.AUTHORITY))
    http = await stack.enter_async_context(
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS), trust_env=False)
    )

    async def nodes_keys() -> str:
        async with http.get(f"{settings.browser_origin}/oauth2/jwks", ssl=trusted) as answer:
            return await answer.text()

    provider = IdentityProvider(
        issuer=f"https://localhost:{settings.listen.port}",
        key=terms.signing_key(state),
        clients={
            terms.NODE: Registered((f"{settings.browser_origin}/oauth2/callback",), nodes_keys),
            demo_clients.PORTAL.client_id: Registered(demo_clients.PORTAL.redirect_uris, None),
        },
    )
    runner = web.AppRunner(provider.application(), access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(state.edge_identity / pki.CERTIFICATE, state.edge_identity / pki.KEY)
    await web.TCPSite(runner, settings.listen.host, settings.listen.port, ssl_context=context).start()
    logger.info("serving", extra={"listen": str(settings.listen)})
    while not await within(stop, RELOAD_SECONDS):
        context.load_cert_chain(state.edge_identity / pki.CERTIFICATE, state.edge_identity / pki.KEY)


def refuse_elsewhere(state: State, listen: Address) -> None:
    """Raises ConfigError unless this process is a part of an embedded node: its supervisor's child, on loopback."""
    faults = []
    if listen.host != LOOPBACK:
        faults.append(f"SOLMU_LISTEN is {listen}: invented people are served on {LOOPBACK} only")
    supervisor = Lock(state.lock).holder()
    if supervisor is None or supervisor != Birth.of(os.getppid()):
        faults.append(
            "the test identity provider lets anybody in as anybody, so it is started by the supervisor of an"
            " embedded node and by nobody else: use `make up`"
        )
    if faults:
        raise ConfigError(faults)


if __name__ == "__main__":
    run(main)
