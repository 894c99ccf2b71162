"""A node's word on what was brought (peer_frames.proto). Pure."""

from __future__ import annotations

from solmu.exchange.v1 import peer_frames_pb2

from services.exchange.arriving import Taken
from services.runtime.errors import Fault, Unavailable
from services.runtime.status import to_status

DeliverResponse = peer_frames_pb2.DeliverResponse
SERVICE = "exchange"


def taken_word(sha256: bytes, taken: Taken) -> DeliverResponse:
    """That something was taken, but for some of its recipients."""
    refused_recipients = [
        peer_frames_pb2.RefusedRecipient(
            recipient=one.subsystem,
            refusal=peer_frames_pb2.Refusal(
                status=to_status(one.fault, service=SERVICE),
                proof=one.rejection if one.rejection.statement else None,
            ),
        )
        for one in taken.refused
    ]
    return DeliverResponse(
        statement_sha256=sha256,
        taken=peer_frames_pb2.Taken(duplicate=taken.duplicate, refused_recipients=refused_recipients),
    )


def refused(sha256: bytes, fault: Fault) -> DeliverResponse:
    """That something was refused for good, or, where a part of the node is away, for now."""
    status = to_status(fault, service=SERVICE)
    if isinstance(fault, Unavailable):
        return DeliverResponse(statement_sha256=sha256, deferred=status)
    return DeliverResponse(statement_sha256=sha256, refused=peer_frames_pb2.Refusal(status=status))
