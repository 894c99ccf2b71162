"""SMS, by way of a provider's HTTP interface: the port that is described in README.md."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiohttp

from services.messages.notifications.ports import Outcome, Outgoing

SECONDS = 10.0
"""For one post, from the look-up of the host to the status of the answer."""

AT_ONCE = 8
"""Posts at the same time."""

LATER = frozenset({401, 403, 404, 408, 425, 429})
"""Statuses of the 400s that speak of us or of the moment, not of the number."""


class Sms:
    """Posts each SMS to a provider's address, with a bearer token where one is given."""

    def __init__(self, uri: str, *, token: str) -> None:
        self._uri = uri
        self._token = token

    async def send(self, notifications: Sequence[Outgoing]) -> list[Outcome]:
        """Tries each once. See `Port`."""
        turn = asyncio.Semaphore(AT_ONCE)
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=SECONDS), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        ) as session:

            async def one(notification: Outgoing) -> Outcome:
                async with turn:
                    return await self._one(session, notification)

            return await asyncio.gather(*(one(notification) for notification in notifications))

    async def _one(self, session: aiohttp.ClientSession, one: Outgoing) -> Outcome:
        headers = {"Idempotency-Key": str(one.notification_id)}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        body = {"id": str(one.notification_id), "to": one.to, "text": one.notice.text, "language": one.notice.language}
        try:
            async with session.post(self._uri, json=body, headers=headers, allow_redirects=False) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Outcome.FAILED
        if 200 <= status < 300:
            return Outcome.SENT
        return Outcome.REFUSED if 400 <= status < 500 and status not in LATER else Outcome.FAILED
