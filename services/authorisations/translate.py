"""Between the contract's messages and the domain's values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from solmu.authorisations.v1 import clients_pb2, log_in_pb2, tokens_pb2
from solmu.authorisations.v1.audit_pb2 import AuditRecord
from solmu.authorisations.v1.parties_pb2 import Party
from solmu.types.v1.types_pb2 import Actor

from services.authorisations import assertions, clients, exchange, log_ins
from services.authorisations.authentication import Shown
from services.authorisations.clients import Authentication, Changes, Client, Rules
from services.authorisations.grants import Asked
from services.authorisations.provider_file import Provider
from services.runtime.errors import InvalidArgument
from services.runtime.parties import PartyNames

BEARER = "Bearer"
"""RFC 8705, section 3: a token that is bound to a certificate still travels as a bearer token."""

CHANGEABLE = ("display_name", "scopes", "certificate_uri", "authentication", "jwks", "redirect_uris", "themes")
"""Fields of a client that an update may name."""

_AUTHENTICATION = {
    clients_pb2.Client.AUTHENTICATION_UNSPECIFIED: Authentication.TLS,
    clients_pb2.Client.AUTHENTICATION_TLS_CLIENT_AUTH: Authentication.TLS,
    clients_pb2.Client.AUTHENTICATION_PRIVATE_KEY_JWT: Authentication.PRIVATE_KEY_JWT,
}
_SHOWN = {value: name for name, value in _AUTHENTICATION.items()}


def client_to_register(
    request: clients_pb2.CreateClientRequest, *, parties: PartyNames, rules: Rules, now: datetime
) -> Client:
    """The client that a request describes. Raises InvalidArgument."""
    client = request.client
    described = Client(
        client_id=request.client_id,
        display_name=client.display_name,
        party=parties.name_of(client.owner, field="client.owner"),
        scopes=rules.scopes(client.scopes),
        certificate_uri=rules.certificate_uri(client.certificate_uri, client_id=request.client_id),
        authentication=_AUTHENTICATION[client.authentication],
        jwks=assertions.key_set(client.jwks),
        redirect_uris=tuple(client.redirect_uris),
        themes=tuple(sorted(client.themes)),
        create_time=now,
        update_time=now,
    )
    return clients.provable(described)


def changes(request: clients_pb2.UpdateClientRequest) -> Changes:
    """What an update changes: the fields of its mask, or without one those that it sets (AIP-134).

    Raises InvalidArgument, UPDATE_MASK_INVALID.
    """
    client = request.client
    paths = tuple(request.update_mask.paths) or tuple(path for path in CHANGEABLE if getattr(client, path))
    for path in paths:
        if path not in CHANGEABLE:
            raise InvalidArgument("UPDATE_MASK_INVALID", f"{path} cannot be changed", field=path)
    if "display_name" in paths and not client.display_name:
        raise InvalidArgument("UPDATE_MASK_INVALID", "a client needs a display name", field="display_name")
    return Changes(
        display_name=client.display_name if "display_name" in paths else None,
        scopes=tuple(client.scopes) if "scopes" in paths else None,
        certificate_uri=client.certificate_uri if "certificate_uri" in paths else None,
        authentication=_AUTHENTICATION[client.authentication] if "authentication" in paths else None,
        jwks=assertions.key_set(client.jwks) if "jwks" in paths else None,
        redirect_uris=tuple(client.redirect_uris) if "redirect_uris" in paths else None,
        themes=tuple(sorted(client.themes)) if "themes" in paths else None,
    )


def client_message(client: Client) -> clients_pb2.Client:
    """A client as callers see it."""
    message = clients_pb2.Client(
        name=client.name,
        display_name=client.display_name,
        party=client.party,
        scopes=client.scopes,
        certificate_uri=client.certificate_uri,
        state=clients_pb2.Client.STATE_ACTIVE if client.active else clients_pb2.Client.STATE_REVOKED,
        etag=client.etag,
        authentication=_SHOWN[client.authentication],
        jwks=client.jwks,
        redirect_uris=client.redirect_uris,
        themes=client.themes,
    )
    message.create_time.FromDatetime(client.create_time)
    message.update_time.FromDatetime(client.update_time)
    if client.revoke_time is not None:
        message.revoke_time.FromDatetime(client.revoke_time)
    return message


def asked(request: tokens_pb2.IssueTokenRequest) -> Asked:
    """A call to the token endpoint."""
    return Asked(
        grant_type=request.grant_type,
        scope=request.scope,
        resource=request.resource,
        authorization_details=bool(request.authorization_details),
    )


def issued(claims: Mapping[str, Any], token: str, *, exchanged: bool) -> tokens_pb2.IssueTokenResponse:
    """The answer with a token of these claims (RFC 6749, section 5.1; RFC 8693, section 2.2.1; RFC 9396, section 7)."""
    details = claims.get("authorization_details")
    return tokens_pb2.IssueTokenResponse(
        access_token=token,
        token_type=BEARER,
        expires_in=claims["exp"] - claims["iat"],
        scope=claims["scope"],
        issued_token_type=exchange.ACCESS_TOKEN if exchanged else "",
        authorization_details=json.dumps(details) if details else "",
    )


def exchanged(request: tokens_pb2.IssueTokenRequest) -> exchange.Asked:
    """The parameters of a token exchange."""
    return exchange.Asked(
        subject_token=request.subject_token,
        subject_token_type=request.subject_token_type,
        actor_token=request.actor_token,
        actor_token_type=request.actor_token_type,
        requested_token_type=request.requested_token_type,
        audience=request.audience,
        authorization_details=request.authorization_details,
    )


def pushed(request: log_in_pb2.PushLogInRequest) -> log_ins.Request:
    """The parameters of a pushed authorisation request."""
    return log_ins.Request(
        response_type=request.response_type,
        redirect_uri=request.redirect_uri,
        scope=request.scope,
        state=request.state,
        code_challenge=request.code_challenge,
        code_challenge_method=request.code_challenge_method,
        acr_values=request.acr_values,
        ui_locales=request.ui_locales,
        prompt=request.prompt,
        identity_provider=request.identity_provider,
    )


def client_record(method: str, client: Client, *, actor: Actor) -> AuditRecord:
    """What is recorded of a change of a client."""
    return AuditRecord(
        kind=AuditRecord.KIND_CLIENT,
        actor=actor,
        method=f"{clients_pb2.DESCRIPTOR.package}.ClientService/{method}",
        resource=client.name,
        parties=[Party(name=client.party)],
    )


def token_record(
    method: str, client: Client, claims: Mapping[str, Any] | None = None, *, refusal: str = ""
) -> AuditRecord:
    """What is recorded of a token: for whom it was issued or taken back, or why it was refused."""
    told = claims or {"sub": client.party}
    acting = told.get("act", {}).get("sub", "")
    mandates = [name for detail in told.get("authorization_details", ()) for name in detail["mandates"]]
    return AuditRecord(
        kind=AuditRecord.KIND_TOKEN,
        actor=Actor(
            party=told["sub"], acting_party=acting, mandate=mandates[0] if mandates else "", client=client.name
        ),
        method=f"{tokens_pb2.DESCRIPTOR.package}.TokenService/{method}",
        resource=told.get("jti", ""),
        parties=[Party(name=party) for party in (told["sub"], acting) if party],
        refusal=refusal,
    )


def identity_provider(provider: Provider) -> log_in_pb2.IdentityProvider:
    """A provider at which people log in, as others see it."""
    assert provider.log_in is not None
    return log_in_pb2.IdentityProvider(
        name=provider.log_in.name,
        display_name=provider.log_in.display_name,
        issuer=provider.issuer,
        test=provider.test,
    )


def shown(
    request: tokens_pb2.IssueTokenRequest
    | tokens_pb2.IntrospectTokenRequest
    | tokens_pb2.RevokeTokenRequest
    | log_in_pb2.PushLogInRequest,
) -> Shown:
    """What a client shows with a call."""
    return Shown(
        client_id=request.client_id,
        certificate_uris=tuple(request.certificate.uri_sans),
        assertion_type=request.client_assertion_type,
        assertion=request.client_assertion,
    )
