"""The shape that a contract declares for its messages (protovalidate), and the refusal of what breaks it."""

from __future__ import annotations

from typing import Any

import protovalidate
from google.protobuf.message import Message

from services.runtime.errors import InvalidArgument

_VALIDATOR = protovalidate.Validator()


def prepare(kind: type[Message]) -> None:
    """Compiles the rules of a kind of message now, not when the first one comes."""
    _VALIDATOR.collect_violations(kind())


def check(message: Message) -> None:
    """Raises InvalidArgument, FIELD_INVALID, with every field that breaks the contract's rule."""
    violations = _VALIDATOR.collect_violations(message)
    if violations:
        raise InvalidArgument(
            "FIELD_INVALID",
            "the request breaks the contract's rules",
            violations=[_violation(violation.proto) for violation in violations],
        )


def _violation(violation: Any) -> tuple[str, str]:
    """A violation's field path and text, as google.rpc.BadRequest has them."""
    path = ""
    for element in violation.field.elements if violation.field else ():
        path += f"{'.' if path else ''}{element.field_name}"
        subscript = element.subscript
        if subscript is not None:
            path += f"[{subscript.value}]"
    return path, violation.message or violation.rule_id
