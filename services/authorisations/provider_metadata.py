"""Where an identity provider answers: by the file of providers, or by what the provider publishes.

OpenID Connect Discovery 1.0, section 4. Only the endpoints are taken from
there: the keys stay those of the file, so that nobody who answers in the
provider's place is believed about a person.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import aiohttp

from services.authorisations.provider_file import ENDPOINTS, Endpoints, LogIn, Provider, is_endpoint
from services.runtime import jws
from services.runtime.errors import Unavailable

logger = logging.getLogger(__name__)

PATH = "/.well-known/openid-configuration"

KEPT_SECONDS = 600.0
"""How long what a provider published is kept; its endpoints change once in years."""

MAX_ANSWER_BYTES = 64 << 10
"""An answer with an id_token, or with metadata, has some 4 kB."""


class ProviderMetadata:
    """Finds providers' endpoints. `clock` gives seconds."""

    def __init__(self, *, http: aiohttp.ClientSession, clock: Callable[[], float] = time.monotonic) -> None:
        self._http = http
        self._clock = clock
        self._kept: dict[str, tuple[float, Endpoints]] = {}
        self._reading = asyncio.Lock()

    async def endpoints(self, provider: Provider, log_in: LogIn) -> Endpoints:
        """The provider's endpoints. Raises Unavailable, IDENTITY_PROVIDER_AWAY."""
        if log_in.endpoints is not None:
            return log_in.endpoints
        async with self._reading:  # many who log in at once ask once
            read, found = self._kept.get(provider.issuer, (float("-inf"), None))
            if found is None or self._clock() - read >= KEPT_SECONDS:
                found = await self._read(provider.issuer, log_in)
                self._kept[provider.issuer] = self._clock(), found
        return found

    async def _read(self, issuer: str, log_in: LogIn) -> Endpoints:
        # 4.1. A trailing slash of the issuer goes before the path is put behind it.
        address = issuer.removesuffix("/") + PATH
        try:
            async with self._http.get(address, ssl=log_in.context, allow_redirects=False) as answer:
                return _endpoints(answer.status, await content(answer), issuer)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            defect = str(error) if type(error) is ValueError else type(error).__qualname__
            logger.error("a provider's metadata cannot be used", extra={"issuer": issuer, "defect": defect})
            raise away() from None


def _endpoints(status: int, answer: bytes, issuer: str) -> Endpoints:
    if status != 200:
        raise ValueError(f"status {status}")
    said = jws.strict_object(answer)
    # 4.3. It is this issuer's own, letter by letter.
    if said.get("issuer") != issuer:
        raise ValueError("another issuer")
    texts = {name: said.get(name) for name in ENDPOINTS}
    if wrong := [name for name, text in texts.items() if not is_endpoint(text)]:
        raise ValueError(f"{wrong[0]} is missing, or no https URL")
    return Endpoints(**{name: str(text) for name, text in texts.items()})


async def content(answer: aiohttp.ClientResponse) -> bytes:
    """The whole of an answer. Raises ValueError where that is too much."""
    found = b""
    async for piece in answer.content.iter_any():
        found += piece
        if len(found) > MAX_ANSWER_BYTES:
            raise ValueError("the answer is too long")
    return found


def away() -> Unavailable:
    """The refusal where a provider does not answer as it should."""
    return Unavailable(
        "IDENTITY_PROVIDER_AWAY", "the identity provider cannot be reached, or does not answer as it should"
    )
