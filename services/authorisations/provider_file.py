"""The file of identity providers that the node trusts: its form, read whole or not at all.

`SOLMU_IDENTITY_PROVIDERS` names a JSON file:

    {"identity_providers": [{
        "issuer": "https://login.example.org",
        "jwks": {"keys": [...]},
        "algorithms": ["ES256"],
        "clients": {"portal-at-the-provider": "portal"},
        "identifier": {"claim": "urn:oid:1.2.246.21", "scheme": "FI_HETU"},
        "assurance": {"http://ftn.ficora.fi/2017/loa2": "SUBSTANTIAL"},
        "log_in": {
            "id": "bank",
            "display_name": "Bank log-in",
            "client_id": "city-at-the-provider",
            "authorization_endpoint": "https://login.example.org/authorize",
            "token_endpoint": "https://login.example.org/token",
            "pushed_authorization_request_endpoint": "https://login.example.org/par",
            "authorities": "/etc/solmu/provider-authority.pem"}}]}

`clients` says which client of the node each of the provider's own client ids
is: an id_token is taken from the client that it was issued to and from no
other. `identifier` is the claim with the person's identity code, which becomes
a party name and is kept nowhere. `assurance` translates the provider's `acr`
values to the levels of eIDAS; another value counts as no level.

With `log_in` people log in there through the node itself, which is the
provider's client `client_id`, registered with `private_key_jwt`, the node's key
set as `jwks_uri` and `<browser origin>/oauth2/callback` as redirect URI. The
three endpoints may be left out together: then they are found at the issuer's
`/.well-known/openid-configuration` (OpenID Connect Discovery 1.0). Its
`authorities` may be left out: then the provider's certificate must be one that
the machine trusts. A provider on a loopback address is one with invented
people, and is taken by an embedded node only.
"""

from __future__ import annotations

import ipaddress
import json
import re
import ssl
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from solmu.types.v1.types_pb2 import NationalIdentifier

from services.runtime import jws
from services.runtime.config import ConfigError

ALGORITHMS = frozenset({jws.ES256, jws.PS256, jws.EDDSA, jws.RS256})
"""What a provider may sign with; RS256 because OpenID Connect has every provider support it."""

ASSURANCE = {level: f"http://eidas.europa.eu/LoA/{level.lower()}" for level in ("LOW", "SUBSTANTIAL", "HIGH")}
"""The `acr` of the node's own tokens, for each level."""

MEMBERS = frozenset({"issuer", "jwks", "algorithms", "clients", "identifier", "assurance", "log_in"})
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "pushed_authorization_request_endpoint")
LOG_IN_TEXTS = ("id", "display_name", "client_id")
LOG_IN_MEMBERS = frozenset({*LOG_IN_TEXTS, "authorities", *ENDPOINTS})

_ID = re.compile(r"[a-z][a-z0-9-]{1,61}[a-z0-9]")


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """Where a provider answers: https URLs."""

    authorization_endpoint: str
    token_endpoint: str
    pushed_authorization_request_endpoint: str


@dataclass(frozen=True, kw_only=True)
class LogIn:
    """How people log in at a provider through the node."""

    id: str
    display_name: str
    client_id: str
    """The node's own, at the provider."""
    endpoints: Endpoints | None
    """None: the provider publishes them."""
    context: ssl.SSLContext
    """Whose certificates the provider's may be of."""

    @property
    def name(self) -> str:
        """Resource name."""
        return f"identityProviders/{self.id}"


@dataclass(frozen=True, kw_only=True)
class Provider:
    """A trusted identity provider."""

    issuer: str
    keys: jws.Keys
    clients: Mapping[str, str]
    claim: str
    scheme: NationalIdentifier.Scheme.ValueType
    assurance: Mapping[str, str]
    log_in: LogIn | None

    @property
    def test(self) -> bool:
        """Whether its people are invented: it is a program on this machine."""
        return loopback(urlsplit(self.issuer).hostname or "")


def loopback(host: str) -> bool:
    """Whether a host is this machine itself, as its name or address says."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, section 6.3


def read(path: Path, *, embedded: bool) -> dict[str, Provider]:
    """The providers of the file, by issuer. Raises ConfigError with every fault."""
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
        where = f"{path}: identity_providers[{number}]"
        try:
            provider = _provider(entry)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = str(error) if type(error) is ValueError else f"a member is missing or of the wrong type: {error}"
            faults.append(f"{where}: {what}")
            continue
        faults += [f"{where}: {fault}" for fault in _clashes(provider, found.values(), embedded=embedded)]
        found[provider.issuer] = provider
    if faults:
        raise ConfigError(faults)
    return found


def _clashes(provider: Provider, others: Collection[Provider], *, embedded: bool) -> Iterator[str]:
    if any(other.issuer == provider.issuer for other in others):
        yield "its issuer stands twice"
    if provider.log_in and any(other.log_in and other.log_in.id == provider.log_in.id for other in others):
        yield "the id of its log_in stands twice"
    if provider.test and not embedded:
        yield "its people are invented, for it is on this machine; only an embedded node takes them"


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
    log_in = _log_in(entry["log_in"]) if "log_in" in entry else None
    if log_in and log_in.client_id in clients:
        raise ValueError("the client_id of log_in is the node's own, and none of clients")
    return Provider(
        issuer=issuer, keys=keys, clients=clients, claim=claim, scheme=scheme, assurance=assurance, log_in=log_in
    )


def _log_in(entry: dict[str, Any]) -> LogIn:
    if unknown := entry.keys() - LOG_IN_MEMBERS:
        raise ValueError(f"log_in has unknown members: {', '.join(sorted(unknown))}")
    needed = [*LOG_IN_TEXTS, *(ENDPOINTS if any(name in entry for name in ENDPOINTS) else ())]
    texts = {name: entry[name] for name in needed}
    if wrong := sorted(name for name, value in texts.items() if not isinstance(value, str) or not value):
        raise ValueError(f"log_in: {', '.join(wrong)} must be text")
    if not _ID.fullmatch(texts["id"]):
        raise ValueError("log_in: id must be lower-case letters, digits and hyphens")
    found = {name: texts.pop(name) for name in ENDPOINTS if name in texts}
    for name, text in found.items():
        if not is_endpoint(text):
            raise ValueError(f"log_in: {name} is not an https URL")
    return LogIn(context=_context(entry.get("authorities")), endpoints=Endpoints(**found) if found else None, **texts)


def is_endpoint(text: object) -> bool:
    """Whether this is an https URL with a host and without a fragment (RFC 6749, section 3.1)."""
    if not isinstance(text, str) or "#" in text:
        return False
    try:
        address = urlsplit(text)
    except ValueError:
        return False
    return address.scheme == "https" and bool(address.hostname)


def _context(authorities: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authorities)
    except (OSError, ssl.SSLError):
        raise ValueError("log_in: authorities is no file of certificates, PEM") from None
