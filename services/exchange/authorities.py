"""Time-stamping authorities and responders, asked over HTTP (RFC 3161, section 3.4; RFC 6960, appendix A)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import aiohttp
from cryptography import x509

from services.exchange.evidence import status, timestamps
from services.exchange.evidence.timestamps import TEST_POLICY
from services.exchange.evidence_rules import unavailable
from services.runtime.errors import Fault, InvalidArgument, Unavailable

TIMEOUT = aiohttp.ClientTimeout(total=10.0)
"""For one question; real authorities answer within a second."""

NONCE_BITS = 64


@dataclass(frozen=True)
class TimeStampAuthority:
    """An authority that the directory recognises."""

    name: str
    """`directories/{directory}/trustServices/{trust_service}`."""
    uris: tuple[str, ...]
    certificates: tuple[bytes, ...]
    """What its tokens chain to, DER."""


@dataclass(frozen=True)
class Token:
    """A verified time stamp."""

    content: bytes
    time: datetime
    authority: str
    """The authority's name."""


class TimeStamps:
    """Asks authorities, one after the other until one has answered.

    Tokens of test authorities, which prove nothing, are taken in test mode
    only.
    """

    def __init__(self, session: aiohttp.ClientSession, *, test_mode: bool) -> None:
        self._session = session
        self._test_mode = test_mode

    async def stamp(self, imprint: bytes, authorities: Sequence[TimeStampAuthority]) -> Token:
        """A token over a digest. Raises Unavailable, TIME_STAMP_UNAVAILABLE, where none gives a good one."""
        for authority in authorities:
            for uri in authority.uris:
                try:
                    return await self._ask(uri, imprint, authority)
                except (aiohttp.ClientError, TimeoutError, OSError, ValueError, Fault):
                    continue  # another may do better; that none did is told by whoever asked
        raise unavailable()

    def accept(self, content: bytes, imprint: bytes, authorities: Sequence[TimeStampAuthority]) -> bytes:
        """A token that came with a statement, where it holds; empty: by an authority that is not recognised here.

        Raises InvalidArgument: TIME_STAMP_INVALID, TIME_STAMP_IMPRINT_MISMATCH.
        """
        recognised = [certificate for authority in authorities for certificate in authority.certificates]
        try:
            timestamps.verify(content, imprint, authorities=recognised)
        except InvalidArgument as fault:
            if fault.reason == "TIME_STAMP_AUTHORITY_UNKNOWN":
                return b""
            raise
        test = timestamps.policy(content) == TEST_POLICY
        return b"" if test and not self._test_mode else content

    async def _ask(self, uri: str, imprint: bytes, authority: TimeStampAuthority) -> Token:
        nonce = secrets.randbits(NONCE_BITS)
        answer = await _post(
            self._session,
            uri,
            timestamps.request(imprint, nonce=nonce),
            kind="application/timestamp-query",
            limit=timestamps.MAX_TOKEN_BYTES + 1024,
        )
        content = timestamps.token_of(answer, imprint, nonce=nonce, authorities=authority.certificates)
        stamp = timestamps.verify(content, imprint, authorities=authority.certificates)
        if timestamps.policy(content) == TEST_POLICY and not self._test_mode:
            raise InvalidArgument("TIME_STAMP_AUTHORITY_UNKNOWN", "the time stamp is of a test authority")
        return Token(content, stamp.time, authority.name)


async def certificate_status(
    session: aiohttp.ClientSession, uris: Sequence[str], certificate: x509.Certificate, issuer: x509.Certificate
) -> bytes:
    """What a responder says of a certificate; not verified. Raises Unavailable, STATUS_MISSING, where none answers."""
    for uri in uris:
        try:
            return await _post(
                session,
                uri,
                status.request(certificate, issuer),
                kind="application/ocsp-request",
                limit=status.MAX_BYTES,
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            continue
    raise Unavailable("STATUS_MISSING", "no responder answers")


async def _post(session: aiohttp.ClientSession, uri: str, content: bytes, *, kind: str, limit: int) -> bytes:
    async with session.post(uri, data=content, headers={"Content-Type": kind}, timeout=TIMEOUT) as answer:
        answer.raise_for_status()
        found = await answer.content.read(limit + 1)
        while len(found) <= limit and not answer.content.at_eof():
            found += await answer.content.read(limit + 1 - len(found))
    if len(found) > limit:
        raise ValueError("the answer is too long")
    return found
