"""Between the contract's messages and the domain's values."""

from __future__ import annotations

from datetime import datetime

from solmu.authorisations.v1 import clients_pb2, tokens_pb2

from services.authorisations.clients import Changes, Client, Rules
from services.authorisations.grants import Asked
from services.runtime.errors import InvalidArgument, Unimplemented
from services.runtime.parties import PartyNames

CHANGEABLE = ("display_name", "scopes", "certificate_uri")
"""Fields of a client that an update may name."""

LATER = ("authentication", "jwks", "redirect_uris", "themes")
"""Fields of a client on which this release does not act; setting one is refused."""


def client_to_register(
    request: clients_pb2.CreateClientRequest, *, parties: PartyNames, rules: Rules, now: datetime
) -> Client:
    """The client that a request describes. Raises InvalidArgument; Unimplemented, NOT_IN_THIS_RELEASE."""
    client = request.client
    _refuse_later(client, LATER)
    return Client(
        client_id=request.client_id,
        display_name=client.display_name,
        party=parties.name_of(client.owner, field="client.owner"),
        scopes=rules.scopes(client.scopes),
        certificate_uri=rules.certificate_uri(client.certificate_uri, client_id=request.client_id),
        create_time=now,
        update_time=now,
    )


def changes(request: clients_pb2.UpdateClientRequest) -> Changes:
    """What an update changes: the fields of its mask, or without one those that it sets (AIP-134).

    Raises InvalidArgument, UPDATE_MASK_INVALID; Unimplemented,
    NOT_IN_THIS_RELEASE.
    """
    client = request.client
    paths = tuple(request.update_mask.paths) or tuple(path for path in CHANGEABLE + LATER if getattr(client, path))
    for path in paths:
        if path not in CHANGEABLE + LATER:
            raise InvalidArgument("UPDATE_MASK_INVALID", f"{path} cannot be changed", field=path)
    _refuse_later(client, paths)
    if "display_name" in paths and not client.display_name:
        raise InvalidArgument("UPDATE_MASK_INVALID", "a client needs a display name", field="display_name")
    return Changes(
        display_name=client.display_name if "display_name" in paths else None,
        scopes=tuple(client.scopes) if "scopes" in paths else None,
        certificate_uri=client.certificate_uri if "certificate_uri" in paths else None,
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
        authentication=clients_pb2.Client.AUTHENTICATION_TLS_CLIENT_AUTH,
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
        client_id=request.client_id,
        scope=request.scope,
        resource=request.resource,
        assertion=bool(request.client_assertion or request.client_assertion_type),
        authorization_details=bool(request.authorization_details),
        certificate_uris=tuple(request.certificate.uri_sans),
    )


def _refuse_later(client: clients_pb2.Client, paths: tuple[str, ...]) -> None:
    by_certificate = clients_pb2.Client.AUTHENTICATION_TLS_CLIENT_AUTH
    for path in LATER:
        set_here = path in paths and getattr(client, path)
        if set_here and not (path == "authentication" and client.authentication == by_certificate):
            raise Unimplemented("NOT_IN_THIS_RELEASE", f"this release does not act on {path}", field=path)
