"""What the service publishes, as messages of its contract."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from solmu.authorisations.v1.events_pb2 import CertificatesRevoked, ClientRevoked, TokenRevoked

from services.authorisations.clients import Client
from services.runtime.outbox import Event, event


def client_revoked(client: Client) -> Event:
    """That a client, which is revoked, may not call any more."""
    assert client.revoke_time is not None
    payload = ClientRevoked(client=client.name)
    payload.revoke_time.FromDatetime(client.revoke_time)
    return event(payload, now=client.revoke_time)


def token_revoked(token_id: str, *, expire_time: datetime, now: datetime) -> Event:
    """That an access token was taken back."""
    payload = TokenRevoked(token_id=token_id)
    payload.expire_time.FromDatetime(expire_time)
    return event(payload, now=now)


def certificates_revoked(serial_numbers: Sequence[str], *, now: datetime) -> Event:
    """That certificates of clients were revoked."""
    payload = CertificatesRevoked(serial_numbers=serial_numbers)
    payload.report_time.FromDatetime(now)
    return event(payload, now=now)
