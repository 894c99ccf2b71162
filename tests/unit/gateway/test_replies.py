"""Refusals of the edge keep to the documented reasons."""

from __future__ import annotations

import base64

import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from solmu.runtime.v1 import errors_pb2

from gateway.envoy.replies import REFUSALS, Refusal, local_replies
from gateway.problems import TITLES, problem

NAMES = [f"{number} {refusal.reason}" for number, refusal in enumerate(REFUSALS)]


@pytest.mark.parametrize("refusal", REFUSALS, ids=NAMES)
def test_a_refusal_has_a_documented_reason_and_a_known_status(refusal: Refusal) -> None:
    assert f"ERROR_REASON_{refusal.reason}" in errors_pb2.ErrorReason.keys()  # noqa: SIM118 - no mapping
    assert refusal.status in TITLES
    assert "%" not in refusal.text


@pytest.mark.parametrize("refusal", REFUSALS, ids=NAMES)
def test_the_details_are_a_status_with_the_reason(refusal: Refusal) -> None:
    padded = refusal.details + "=" * (-len(refusal.details) % 4)
    status = status_pb2.Status.FromString(base64.b64decode(padded))
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == (refusal.reason, "node.solmu")
    assert (status.code, status.message) == (code_pb2.Code.Value(refusal.code), refusal.text)
    assert len(status.details) == (2 if refusal.retry_after else 1)
    if refusal.retry_after:
        assert status.details[1].Unpack(retry)
        assert retry.retry_delay.seconds == refusal.retry_after


def test_the_last_refusal_catches_what_is_left() -> None:
    assert REFUSALS[-1].when == "true"
    assert REFUSALS[-1].reason == "EDGE_REFUSED"


def test_each_refusal_has_both_forms_grpc_first() -> None:
    types = [mapper["body_format_override"]["content_type"] for mapper in local_replies()["mappers"]]
    assert types == ["application/grpc", "application/problem+json"] * len(REFUSALS)


def test_a_problem_document_has_the_members_of_rfc_9457() -> None:
    assert problem("BODY_TOO_LARGE", status=413, detail="d") == {
        "type": "urn:solmu:reason:BODY_TOO_LARGE",
        "title": "Content Too Large",
        "status": 413,
        "detail": "d",
        "reason": "BODY_TOO_LARGE",
        "domain": "node.solmu",
    }
