"""Identity providers that the node trusts, and what their id_tokens say (OpenID Connect Core 1.0).

`SOLMU_IDENTITY_PROVIDERS` names a JSON file:

    {"identity_providers": [{
        "issuer": "https://login.example.org",
        "jwks": {"keys": [...]},
        "algorithms": ["ES256"],
        "clients": {"portal-at-the-provider": "portal"},
        "identifier": {"claim": "urn:oid:1.2.246.21", "scheme": "FI_HETU"},
        "assurance": {"http://ftn.ficora.fi/2017/loa2": "SUBSTANTIAL"}}]}

`clients` says which client of the node each of the provider's own client ids
is: an id_token is taken from the client that it was issued to and from no
other. `identifier` is the claim with the person's identity code, which becomes
a party name and is kept nowhere. `assurance` translates the provider's `acr`
values to the levels of eIDAS; another value counts as no level. A changed file
is read within seconds; one with a fault changes nothing in a running process.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from solmu.types.v1.types_pb2 import NationalIdentifier

from services.runtime import jws
from services.runtime.config import ConfigError
from services.runtime.errors import InvalidArgument
from services.runtime.parties import PartyNames

logger = logging.getLogger(__name__)

ALGORITHMS = frozenset({jws.ES256, jws.PS256, jws.EDDSA, jws.RS256})
"""What a provider may sign with; RS256 because OpenID Connect has every provider support it."""

ASSURANCE = {level: f"http://eidas.europa.eu/LoA/{level.lower()}" for level in ("LOW", "SUBSTANTIAL", "HIGH")}
"""The `acr` of the node's own tokens, for each level."""

TYPES = ("jwt", "id_token+jwt")
"""What `typ` may be where it is given: an access token is no id_token."""

CLOCK_SKEW = 10
"""Seconds by which a provider's clock may be off."""

LOOK_INTERVAL = 2.0
"""Seconds between two looks at the file."""

MEMBERS = frozenset({"issuer", "jwks", "algorithms", "clients", "identifier", "assurance"})


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


@dataclass(frozen=True)
class Provider:
    """A trusted identity provider."""

    issuer: str
    keys: jws.Keys
    clients: Mapping[str, str]
    claim: str
    scheme: NationalIdentifier.Scheme.ValueType
    assurance: Mapping[str, str]


class IdentityProviders:
    """The providers of a file. `path` None: there are none. Raises ConfigError, with every fault, at the start."""

    def __init__(self, path: Path | None, *, parties: PartyNames) -> None:
        self._path = path
        self._parties = parties
        self._stamp = _stamp(path) if path else None
        self._providers = _read(path) if path else {}

    def person(self, id_token: str, *, client_id: str, now: datetime) -> Person:
        """The person of an id_token that was issued to this client.

        Raises InvalidArgument, OAUTH_INVALID_GRANT, without saying what of it is
        wrong. Does not know whether the person has logged out at the provider,
        and does not compare a nonce, which is the client's.
        """
        try:
            return self._person(id_token, client_id=client_id, at=now.timestamp())
        except ValueError:
            raise _refusal() from None

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
            self._providers = _read(self._path)
        except (OSError, ConfigError) as error:
            faults = error.faults if isinstance(error, ConfigError) else [type(error).__qualname__]
            logger.error("the identity providers cannot be read; the last ones stay in use", extra={"faults": faults})
            return
        logger.info("identity providers read", extra={"issuers": sorted(self._providers)})

    def _person(self, id_token: str, *, client_id: str, at: float) -> Person:
        # The numbers are those of OpenID Connect Core 1.0, section 3.1.3.7.
        # 2. Its issuer is trusted; until step 6 that is only a claim.
        issuer = jws.strict_object(jws.unverified(id_token)).get("iss")
        provider = self._providers.get(issuer) if isinstance(issuer, str) else None
        if provider is None:
            raise ValueError("the issuer is not trusted")
        # 6, 7. It is signed with that issuer's key, by the key's algorithm, and is no token of another kind.
        claims = jws.claims(id_token, provider.keys)
        kind = jws.header(id_token).get("typ", TYPES[0])
        if claims.get("iss") != issuer or not isinstance(kind, str) or kind.lower() not in TYPES:
            raise ValueError("it is not an id_token of the issuer")
        # 3 to 5. It was issued to the client that shows it, and to no other.
        audience = claims.get("aud")
        if isinstance(audience, list) and len(audience) == 1:
            audience = audience[0]
        if not isinstance(audience, str) or provider.clients.get(audience) != client_id:
            raise ValueError("it was issued to another")
        if claims.get("azp", audience) != audience:
            raise ValueError("it was issued to another")
        # 9, 10. It is in force.
        expires, issued, begins = (_time(claims, name) for name in ("exp", "iat", "nbf"))
        if expires is None or issued is None or expires + CLOCK_SKEW <= at:
            raise ValueError("it has expired")
        if max(issued, begins or issued) > at + CLOCK_SKEW:
            raise ValueError("it is not good yet")
        # 12. How surely the person is known, and since when.
        acr = claims.get("acr")
        level = provider.assurance.get(acr, "") if isinstance(acr, str) else ""
        return Person(self._party(provider, claims), level, _time(claims, "auth_time"), expires)

    def _party(self, provider: Provider, claims: Mapping[str, Any]) -> str:
        code = claims.get(provider.claim)
        if not isinstance(code, str):
            raise ValueError("it does not say who it is about")  # noqa: TRY004 - of the content, not of the argument
        try:
            return self._parties.name_of(NationalIdentifier(scheme=provider.scheme, value=code))
        except InvalidArgument:
            raise ValueError("its identity code is none") from None


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


def _read(path: Path) -> dict[str, Provider]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["identity_providers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            [f"{path} is not a JSON object with identity_providers ({type(error).__qualname__})"]
        ) from None
    if not isinstance(entries, list):
        raise ConfigError([f"{path}: identity_providers is not a list"])
    found: dict[str, Provider] = {}
    faults: list[str] = []
    for number, entry in enumerate(entries):
        try:
            provider = _provider(entry)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = str(error) if type(error) is ValueError else f"a member is missing or of the wrong type: {error}"
            faults.append(f"{path}: identity_providers[{number}]: {what}")
            continue
        if provider.issuer in found:
            faults.append(f"{path}: identity_providers[{number}]: its issuer stands twice")
        found[provider.issuer] = provider
    if faults:
        raise ConfigError(faults)
    return found


def _provider(entry: dict[str, Any]) -> Provider:
    if unknown := entry.keys() - MEMBERS:
        raise ValueError(f"unknown members: {', '.join(sorted(unknown))}")
    issuer, algorithms, clients = entry["issuer"], entry["algorithms"], dict(entry["clients"])
    if urlsplit(issuer).scheme != "https":
        raise ValueError("the issuer is not an https URL")
    if not isinstance(algorithms, list) or not algorithms or set(algorithms) - ALGORITHMS:
        raise ValueError(f"algorithms must be some of {', '.join(sorted(ALGORITHMS))}")
    keys = jws.keys_of(json.dumps(entry["jwks"]), algorithms)
    if not keys:
        raise ValueError("jwks holds no key for these algorithms, with a kid")
    if not all(isinstance(name, str) for pair in clients.items() for name in pair):
        raise ValueError("clients must be text to text")
    claim = entry["identifier"]["claim"]
    scheme = NationalIdentifier.Scheme.Value(f"SCHEME_{entry['identifier']['scheme']}")
    assurance = {str(acr): ASSURANCE[level] for acr, level in entry.get("assurance", {}).items()}
    if not isinstance(claim, str) or not claim:
        raise ValueError("the identifier's claim is not text")
    return Provider(issuer, keys, clients, claim, scheme, assurance)
