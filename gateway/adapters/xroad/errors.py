"""Refusals in X-Road's form: a code that says where, a text, and the id of the exchange (PR-REST, section 4.6). Pure.

Codes have two spellings: up to X-Road 7.7 "Server.ServerProxy.AccessDenied",
from 7.8 on "server.serverproxy.access_denied". Which one is a setting.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from xml.sax.saxutils import escape

from services.runtime.errors import Fault

JSON = "application/json"
XML_TYPES = ("text/xml", "application/xml", "text/*")


class Style(Enum):
    """How codes are spelt."""

    CAMEL = "camel"
    SNAKE = "snake"


CODES = {
    "CONSUMER_NOT_REGISTERED": "SslAuthenticationFailed",
    "MEMBER_UNKNOWN": "UnknownMember",
    "SERVICE_UNKNOWN": "UnknownService",
    "RESOURCE_NOT_FOUND": "UnknownService",
    "SERVICE_PROTOCOL_MISMATCH": "ServiceType",
    "ACCESS_DENIED": "AccessDenied",
    "PATH_NOT_NORMAL": "AccessDenied",
    "MANDATE_MISSING": "AccessDenied",
    "SERVICE_DISABLED": "ServiceDisabled",
    "SUBSYSTEM_DISABLED": "ServiceDisabled",
    "NODE_IN_MAINTENANCE": "MaintenanceMode",
    "BACKEND_UNAVAILABLE": "ServiceFailed.NetworkError",
    "BACKEND_TIMEOUT": "ServiceFailed.HttpError",
    "BACKEND_RESPONSE_INVALID": "ServiceFailed.HttpError",
    "ANSWER_NOT_BOUND": "InconsistentResponse",
    "PEER_UNAVAILABLE": "NetworkError",
    "CIRCUIT_OPEN": "NetworkError",
    "PEER_TIMEOUT": "NetworkError",
    "EXCHANGE_BROKEN": "NetworkError",
    "DIRECTORY_EXPIRED": "OutdatedGlobalConf",
    "DIRECTORY_AWAITED": "OutdatedGlobalConf",
    "NODE_NOT_SERVING": "InvalidSecurityServer",
    "EXCHANGE_TOO_LARGE": "LoggingFailed.TooLarge",
    "SIGNATURE_INVALID": "SignatureVerification.InvalidSignatureValue",
    "BODY_DIGEST_MISMATCH": "SignatureVerification.InvalidReference",
    "HEAD_DIGEST_MISMATCH": "SignatureVerification.InvalidReference",
    "CERTIFICATE_REVOKED": "SignatureVerification.CertValidation",
    "CERTIFICATE_EXPIRED": "SignatureVerification.CertValidation",
    "CERTIFICATE_UNKNOWN": "SignatureVerification.CertValidation",
}
"""X-Road's code for a reason; others are InternalError."""

BAD_REQUEST = "Client.BadRequest"


@dataclass(frozen=True)
class Refusal:
    """An error document."""

    status: int
    code: str
    content_type: str
    body: bytes


class BadRequestError(Exception):
    """The call is not one of the protocol."""


def code_of(fault: Fault) -> str:
    """X-Road's code for a refusal, in the older spelling."""
    where = "ServerProxy" if fault.metadata.get("side") == "provider" else "ClientProxy"
    return f"Server.{where}.{CODES.get(fault.reason, 'InternalError')}"


def refusal(code: str, text: str, *, detail: str, accept: str, style: Style) -> Refusal:
    """The document; 500 where a server refuses, 400 where the client is wrong."""
    status = 500 if code.startswith("Server.") else 400
    shown = snake(code) if style is Style.SNAKE else code
    media_type = _media_type(accept)
    if media_type == JSON:
        content = json.dumps({"type": shown, "message": text, "detail": detail}).encode()
        return Refusal(status, shown, f"{JSON};charset=utf-8", content)
    content = (
        f"<error><type>{escape(shown)}</type><message>{escape(text)}</message><detail>{escape(detail)}</detail></error>"
    ).encode()
    return Refusal(status, shown, f"{media_type};charset=utf-8", content)


def snake(code: str) -> str:
    """A code in the spelling of 7.8: "server.serverproxy.access_denied"."""
    places = {"ServerProxy": "serverproxy", "ClientProxy": "clientproxy"}
    return ".".join(places.get(part) or re.sub(r"(?<!^)(?=[A-Z])", "_", part).lower() for part in code.split("."))


def _media_type(accept: str) -> str:
    """JSON, unless XML stands in Accept: the first that fits, whatever its weight."""
    for given in accept.split(","):
        media_type = given.partition(";")[0].strip().lower()
        if media_type in XML_TYPES:
            return "text/xml" if media_type == "text/*" else media_type
        if media_type in {JSON, "application/*"}:
            return JSON
    return JSON
