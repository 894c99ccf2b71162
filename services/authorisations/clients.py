"""Clients: the information systems that may get tokens. Pure rules.

A client is known by its id, and at the token endpoint by the URI in its
certificate. It is never deleted: its id and URI stay taken after revocation, so
that nobody inherits what they stood for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from services.runtime.errors import Aborted, FailedPrecondition, InvalidArgument


class Authentication(StrEnum):
    """How a client proves itself, beside its certificate's URI. The names are those of the OAuth registries."""

    TLS = "tls_client_auth"
    """By its certificate alone."""
    PRIVATE_KEY_JWT = "private_key_jwt"
    """By an assertion signed with one of its keys, over a connection opened with its certificate."""


@dataclass(frozen=True, kw_only=True)
class Client:
    """An information system."""

    client_id: str
    display_name: str
    party: str
    """The owner: the subject of its tokens."""
    scopes: tuple[str, ...]
    """What its tokens may allow; sorted, each once."""
    certificate_uri: str
    create_time: datetime
    update_time: datetime
    revoke_time: datetime | None = None
    authentication: Authentication = Authentication.TLS
    jwks: str = ""
    """Its public keys, a JSON Web Key Set; empty for none."""
    redirect_uris: tuple[str, ...] = ()
    """Where people may be sent after a log-in that it began."""
    themes: tuple[str, ...] = ()
    """About which it may ask, as names; none for every theme."""
    revision: int = 1
    """Grows by one with every change."""

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"clients/{self.client_id}"

    @property
    def etag(self) -> str:
        """What a caller shows to prove that it knows the client as it is."""
        return str(self.revision)

    @property
    def active(self) -> bool:
        """Whether it may get tokens."""
        return self.revoke_time is None

    def may_ask_about(self, theme: str) -> bool:
        """Whether it may ask about a theme."""
        return not self.themes or theme in self.themes


@dataclass(frozen=True, kw_only=True)
class Changes:
    """New values; None leaves what is there."""

    display_name: str | None = None
    scopes: tuple[str, ...] | None = None
    certificate_uri: str | None = None
    authentication: Authentication | None = None
    jwks: str | None = None
    redirect_uris: tuple[str, ...] | None = None
    themes: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the node allows a client to be."""

    known_scopes: frozenset[str]
    """The scopes that methods of the node's contracts need."""
    trust_domain: str
    """The prefix of URIs that name the node's own services and clients: "spiffe://solmu/"."""

    def scopes(self, asked: Iterable[str]) -> tuple[str, ...]:
        """Scopes as a client holds them. Raises InvalidArgument, SCOPE_UNKNOWN."""
        scopes = tuple(sorted(set(asked)))
        unknown = [scope for scope in scopes if scope not in self.known_scopes]
        if unknown:
            listed = " ".join(unknown)
            raise InvalidArgument("SCOPE_UNKNOWN", f"no method of the node needs the scope {listed}", scope=listed)
        return scopes

    def certificate_uri(self, asked: str, *, client_id: str) -> str:
        """The URI by which a client is known: what is asked, or its own in the trust domain.

        Raises InvalidArgument, CERTIFICATE_URI_RESERVED, for any other of the
        trust domain: it would be a service's, or another client's.
        """
        own = f"{self.trust_domain}client/{client_id}"
        if not asked:
            return own
        if asked.startswith(self.trust_domain) and asked != own:
            raise InvalidArgument(
                "CERTIFICATE_URI_RESERVED",
                "the certificate URI names another member of the node",
                certificate_uri=asked,
            )
        return asked


def provable(client: Client) -> Client:
    """The client, which can prove itself. Raises InvalidArgument, KEY_SET_INVALID, where it has no key for that."""
    if client.authentication is Authentication.PRIVATE_KEY_JWT and not client.jwks:
        raise InvalidArgument(
            "KEY_SET_INVALID",
            "a client that proves itself by assertions needs keys",
            violations=[("client.jwks", "is needed for private_key_jwt")],
        )
    return client


def changed(client: Client, changes: Changes, *, etag: str, rules: Rules, now: datetime) -> Client:
    """The client with the changes; the same one where they change nothing.

    Raises Aborted, ETAG_MISMATCH; FailedPrecondition, CLIENT_IS_REVOKED;
    InvalidArgument, as `Rules` does.
    """
    _current(client, etag)
    if not client.active:
        raise FailedPrecondition("CLIENT_IS_REVOKED", "the client is revoked", resource=client.name)
    fresh = client
    if changes.display_name is not None:
        fresh = replace(fresh, display_name=changes.display_name)
    if changes.scopes is not None:
        fresh = replace(fresh, scopes=rules.scopes(changes.scopes))
    if changes.certificate_uri is not None:
        uri = rules.certificate_uri(changes.certificate_uri, client_id=client.client_id)
        fresh = replace(fresh, certificate_uri=uri)
    if changes.authentication is not None:
        fresh = replace(fresh, authentication=changes.authentication)
    if changes.jwks is not None:
        fresh = replace(fresh, jwks=changes.jwks)
    if changes.redirect_uris is not None:
        fresh = replace(fresh, redirect_uris=changes.redirect_uris)
    if changes.themes is not None:
        fresh = replace(fresh, themes=changes.themes)
    provable(fresh)
    return client if fresh == client else replace(fresh, revision=client.revision + 1, update_time=now)


def revoked(client: Client, *, etag: str, now: datetime) -> Client:
    """The client, revoked; the same one where it is already. Raises Aborted, ETAG_MISMATCH."""
    if not client.active:
        return client
    _current(client, etag)
    return replace(client, revision=client.revision + 1, update_time=now, revoke_time=now)


def _current(client: Client, etag: str) -> None:
    if etag and etag != client.etag:
        raise Aborted("ETAG_MISMATCH", "the client has changed; read it again", resource=client.name)
