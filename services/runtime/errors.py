"""One family of refusals, each with a documented reason.

A service raises a `Fault`; the interceptor turns it into a `google.rpc.Status`
once, on the way out (`status.py`). The reason is a value of the service's
`ErrorReason` enum in `proto/`, or of the runtime's, without the prefix. Text
and metadata never carry personal data, payload or secrets.

This module knows nothing of gRPC, so the domain may import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class Fault(Exception):
    """A refusal that the caller may see.

    `violations` are pairs of field path and what is wrong with it;
    `retry_after` is in seconds; `metadata` goes into the ErrorInfo as it is.
    """

    code: ClassVar[str]
    """Name of the canonical status code (google.rpc.Code)."""

    def __init__(
        self,
        reason: str,
        message: str,
        /,
        *,
        violations: Sequence[tuple[str, str]] = (),
        retry_after: float | None = None,
        **metadata: str,
    ) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.metadata = metadata

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class InvalidArgument(Fault):
    """The request is wrong whatever the state of the node."""

    code = "INVALID_ARGUMENT"


class NotFound(Fault):
    """It does not exist, or the caller may not know that it does."""

    code = "NOT_FOUND"


class AlreadyExists(Fault):
    """What the caller wants to create exists already."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(Fault):
    """The state of the resource does not allow it."""

    code = "FAILED_PRECONDITION"


class PermissionDenied(Fault):
    """The caller is known and may not do this."""

    code = "PERMISSION_DENIED"


class Unauthenticated(Fault):
    """Who calls is not proven."""

    code = "UNAUTHENTICATED"


class Aborted(Fault):
    """Somebody else changed it first; read again and retry."""

    code = "ABORTED"


class ResourceExhausted(Fault):
    """A quota or a size limit is reached."""

    code = "RESOURCE_EXHAUSTED"


class DataLoss(Fault):
    """What arrived, or what is stored, is not what it should be."""

    code = "DATA_LOSS"


class Unimplemented(Fault):
    """The method is not there."""

    code = "UNIMPLEMENTED"


class Unavailable(Fault):
    """A part of the node is away; the same call may succeed soon."""

    code = "UNAVAILABLE"


class DeadlineExceeded(Fault):
    """The time that the caller gave is over."""

    code = "DEADLINE_EXCEEDED"


class Internal(Fault):
    """A fault of the node."""

    code = "INTERNAL"


BY_CODE: dict[str, type[Fault]] = {kind.code: kind for kind in Fault.__subclasses__()}
"""The subclass for each canonical status code."""


def not_found(resource: str) -> NotFound:
    """The one answer for what is not there and for what the caller may not see."""
    return NotFound("RESOURCE_NOT_FOUND", f"{resource} does not exist, or is not yours to see", resource=resource)
