"""Identity providers that the node trusts, and what their id_tokens say (OpenID Connect Core 1.0).

Which they are stands in a file (`provider_file.py`). A changed file is read
within seconds; one with a fault changes nothing in a running process.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from solmu.types.v1.types_pb2 import NationalIdentifier

from services.authorisations import provider_file
from services.authorisations.provider_file import Provider
from services.runtime import jws
from services.runtime.config import ConfigError
from services.runtime.errors import InvalidArgument
from services.runtime.parties import PartyNames

logger = logging.getLogger(__name__)

TYPES = ("jwt", "id_token+jwt")
"""What `typ` may be where it is given: an access token is no id_token."""

CLOCK_SKEW = 10
"""Seconds by which a provider's clock may be off."""

LOOK_INTERVAL = 2.0
"""Seconds between two looks at the file."""


@dataclass(frozen=True)
class Person:
    """Who has logged in, as a trusted provider says."""

    party: str
    acr: str
    """How surely the person is known: a value of ASSURANCE, or empty."""
    auth_time: int | None
    """When the person logged in, in seconds since 1970; None where it is not said."""
    expires: int
    """When the provider's word ends."""


class Refused(Exception):
    """A log-in did not do. `error` is what the client is told (RFC 6749, section 4.1.2.1)."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


class IdentityProviders:
    """The providers of a file. `path` None: there are none. Raises ConfigError, with every fault, at the start.

    `embedded` says that this is an embedded node, which takes providers of
    invented people.
    """

    def __init__(self, path: Path | None, *, parties: PartyNames, embedded: bool = False) -> None:
        self._path = path
        self._parties = parties
        self._embedded = embedded
        self._stamp = _stamp(path) if path else None
        self._providers = provider_file.read(path, embedded=embedded) if path else {}

    def for_log_in(self) -> list[Provider]:
        """The providers at which people log in through the node, in the order of the file."""
        return [provider for provider in self._providers.values() if provider.log_in]

    def person(self, id_token: str, *, client_id: str, now: datetime) -> Person:
        """The person of an id_token that was issued to this client.

        Raises InvalidArgument, OAUTH_INVALID_GRANT, without saying what of it is
        wrong. Does not know whether the person has logged out at the provider,
        and does not compare a nonce, which is the client's.
        """

        def issued_to(provider: Provider, audience: str) -> bool:
            return provider.clients.get(audience) == client_id

        try:
            provider = self._issuer_of(id_token)
            claims = _verified(id_token, provider, issued_to=issued_to, at=now.timestamp())
            return self._person(provider, claims)
        except ValueError:
            raise _refusal() from None

    def logged_in(  # the parameters of one log-in
        self, id_token: str, provider: Provider, *, nonce: str, acr_values: str, since: float | None, now: datetime
    ) -> Person:
        """The person who logged in at a provider for the node itself, by what its token endpoint gave.

        `acr_values` are the levels that will do, empty for any; `since` is from
        when on the person must have been asked, None for any time. Raises
        Refused.
        """

        def issued_to(provider: Provider, audience: str) -> bool:
            return provider.log_in is not None and audience == provider.log_in.client_id

        try:
            claims = _verified(id_token, provider, issued_to=issued_to, at=now.timestamp())
            _compare_nonce(claims, nonce)
            person = self._person(provider, claims)
        except ValueError as error:
            logger.warning("an id_token was not taken", extra={"issuer": provider.issuer, "defect": str(error)})
            raise Refused("server_error") from None
        # 12, 13. As surely, and as lately, as was asked.
        if acr_values and claims.get("acr") not in acr_values.split():
            raise Refused("unmet_authentication_requirements")
        if since is not None and (person.auth_time is None or person.auth_time + CLOCK_SKEW < since):
            raise Refused("login_required")
        return person

    async def follow(self) -> None:
        """Keeps up with the file for as long as the process runs."""
        while self._path is not None:
            await asyncio.sleep(LOOK_INTERVAL)
            self.look()

    def look(self) -> None:
        """Reads the file again if it has changed."""
        assert self._path is not None
        try:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._providers = provider_file.read(self._path, embedded=self._embedded)
        except (OSError, ConfigError) as error:
            faults = error.faults if isinstance(error, ConfigError) else [type(error).__qualname__]
            logger.error("the identity providers cannot be read; the last ones stay in use", extra={"faults": faults})
            return
        logger.info("identity providers read", extra={"issuers": sorted(self._providers)})

    def _issuer_of(self, id_token: str) -> Provider:
        """Whose it claims to be: a claim only, until the signature is verified."""
        issuer = jws.strict_object(jws.unverified(id_token)).get("iss")
        if not isinstance(issuer, str) or issuer not in self._providers:
            raise ValueError("the issuer is not trusted")
        return self._providers[issuer]

    def _person(self, provider: Provider, claims: Mapping[str, Any]) -> Person:
        code, acr, expires = claims.get(provider.claim), claims.get("acr"), _time(claims, "exp")
        if not isinstance(code, str) or expires is None:
            raise ValueError("it does not say who it is about")
        try:
            party = self._parties.name_of(NationalIdentifier(scheme=provider.scheme, value=code))
        except InvalidArgument:
            raise ValueError("its identity code is none") from None
        level = provider.assurance.get(acr, "") if isinstance(acr, str) else ""
        return Person(party, level, _time(claims, "auth_time"), expires)


def _verified(
    id_token: str, provider: Provider, *, issued_to: Callable[[Provider, str], bool], at: float
) -> dict[str, Any]:
    """The claims of an id_token of the provider that is in force. Raises ValueError."""
    # The numbers are those of OpenID Connect Core 1.0, section 3.1.3.7.
    # 2, 6, 7. It is signed with the issuer's key, by the key's algorithm, and is no token of another kind.
    claims = jws.claims(id_token, provider.keys)
    kind = jws.header(id_token).get("typ", TYPES[0])
    if claims.get("iss") != provider.issuer or not isinstance(kind, str) or kind.lower() not in TYPES:
        raise ValueError("it is not an id_token of the issuer")
    # 3 to 5. It was issued to whoever shows it, and to no other.
    audience = claims.get("aud")
    if isinstance(audience, list) and len(audience) == 1:
        audience = audience[0]
    if not isinstance(audience, str) or not issued_to(provider, audience):
        raise ValueError("it was issued to another")
    if claims.get("azp", audience) != audience:
        raise ValueError("it was issued to another")
    # 9, 10. It is in force.
    expires, issued, begins = (_time(claims, name) for name in ("exp", "iat", "nbf"))
    if expires is None or issued is None or expires + CLOCK_SKEW <= at:
        raise ValueError("it has expired")
    if max(issued, begins or issued) > at + CLOCK_SKEW:
        raise ValueError("it is not good yet")
    return claims


def _compare_nonce(claims: Mapping[str, Any], nonce: str) -> None:
    """11. It answers this log-in and no other."""
    if not hmac.compare_digest(str(claims.get("nonce")).encode(), nonce.encode()):
        raise ValueError("it is of another log-in")


def _refusal() -> InvalidArgument:
    return InvalidArgument("OAUTH_INVALID_GRANT", "the subject token is not one that can be exchanged here")


def _time(claims: Mapping[str, Any], name: str) -> int | None:
    value = claims.get(name)
    if value is not None and (type(value) not in (int, float) or not abs(value) < jws.LAST_INSTANT):
        raise ValueError(f"{name} is not a time")
    return None if value is None else int(value)


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_ino
