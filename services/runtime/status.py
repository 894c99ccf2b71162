"""A Fault as `google.rpc.Status` and back, once at the boundary (AIP-193).

Every status carries exactly one ErrorInfo, and a BadRequest or RetryInfo where
there is something to say in it. The reason's domain follows from the enum that
documents it: the runtime's or the service's. A reason that neither documents
does not leave the node.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from functools import cache
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from solmu.runtime.v1 import errors_pb2

from services.runtime.errors import BY_CODE, Fault, Internal, Unavailable

NODE_DOMAIN = "node.solmu"
PREFIX = "ERROR_REASON_"

_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,61}[A-Z0-9]")
"""What a reason can be (google.rpc.ErrorInfo)."""

_OF_FAULTS = frozenset({"violations", "retry_after"})
"""What a Fault says beside its metadata, by the same name."""

_CODES = dict(zip(code_pb2.Code.values(), code_pb2.Code.keys(), strict=True))

LONGEST = 86_400.0
"""Seconds after which anybody may try again, whatever another side says."""

_REASONS_BY_THEMSELVES = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})
"""Codes that gRPC gives by itself, and that say all that there is to say."""

BROKEN_WRITE = "Internal error from Core"
"""What gRPC's asyncio calls an INTERNAL error where a stream ended, or its connection broke, while a message was being
written and the status had not come yet. It says nothing of the other side, which is as good as away."""


def domain(service: str) -> str:
    """The domain of a service's own reasons: "messages.solmu"."""
    return f"{service}.solmu"


@cache
def _domains(service: str) -> dict[str, str]:
    """Every reason that this service may give, with its domain."""
    own = importlib.import_module(f"solmu.{service}.v1.errors_pb2").ErrorReason
    reasons = {name.removeprefix(PREFIX): domain(service) for name in own.DESCRIPTOR.values_by_name}
    return reasons | {
        name.removeprefix(PREFIX): NODE_DOMAIN for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name
    }


def to_status(fault: Fault, *, service: str) -> status_pb2.Status:
    """The status that a service answers with. A reason without documentation becomes INTERNAL."""
    reason_domain = _domains(service).get(fault.reason)
    if reason_domain is None:
        return to_status(Internal("INTERNAL", "the service gave an undocumented reason"), service=service)
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=fault.reason, domain=reason_domain, metadata=fault.metadata)
    ]
    if fault.violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
            for field, description in fault.violations
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if fault.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(fault.retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code_pb2.Code.Value(fault.code), message=fault.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def from_status(status: status_pb2.Status) -> Fault:
    """The Fault that a status stands for, whoever made it. Where it has no reason its code gives one."""
    kind = BY_CODE.get(_CODES.get(status.code, ""), Internal)
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        for message in (info, bad, retry):
            with contextlib.suppress(DecodeError):
                detail.Unpack(message)  # where it is one; else nothing
    by_code = kind.code if kind.code in _REASONS_BY_THEMSELVES else "INTERNAL"
    return kind(
        info.reason if _REASON.fullmatch(info.reason) else by_code,
        status.message,
        violations=[(violation.field, violation.description) for violation in bad.field_violations],
        retry_after=min(max(_seconds(retry.retry_delay), 0.0), LONGEST) if retry.HasField("retry_delay") else None,
        **{name: value for name, value in info.metadata.items() if name not in _OF_FAULTS},
    )


def _seconds(delay: duration_pb2.Duration) -> float:
    return delay.seconds + delay.nanos / 1e9


def fault_of(error: grpc.RpcError) -> Fault:
    """The Fault behind the error of a call, of either of gRPC's two kinds."""
    call: Any = error
    try:
        status = rpc_status.from_call(call)  # type: ignore[no-untyped-call]
    except ValueError:  # details that contradict the status: somebody else's
        status = None
    if status is None and call.code() is grpc.StatusCode.INTERNAL and call.details() == BROKEN_WRITE:
        return Unavailable("UNAVAILABLE", "the stream broke while it was written")
    return from_status(status or status_pb2.Status(code=call.code().value[0], message=call.details() or ""))
