"""By what right somebody acts for another, in a call or by an envelope, checked where the mandate is registered.

A mandate of this node is checked by its own authorisations service. One of
another node is asked for at that node, now, by a call of the subsystem "solmu"
(mandates.proto): the answer is signed by that node's member, bound to the
question, and evidence at both ends; the id of the call or envelope that rests
on it is the question's message id. The policy says whose word counts. Nothing
is remembered: what cannot be asked now is refused with MANDATE_UNVERIFIABLE (an
envelope is brought again), and nothing goes by what was true before.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import quote

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from solmu.authorisations.v1 import checks_pb2, checks_pb2_grpc, rights_pb2
from solmu.authorisations.v1.parties_pb2 import Party
from solmu.exchange.v1.mandates_pb2 import CheckMandateRequest, CheckMandateResponse
from solmu.exchange.v1.statements_pb2 import OnBehalfOf
from solmu.types.v1.types_pb2 import NationalIdentifier

from services.exchange import names
from services.exchange.backends import Answer, collected, spoken
from services.exchange.bodies import SMALL
from services.exchange.calling import Call, Calling
from services.exchange.configuration import Configuration, Service
from services.exchange.heads import Header, RequestHead
from services.exchange.meshes import Meshes, utc_now
from services.exchange.policies import Policy
from services.runtime.client import Peer
from services.runtime.errors import Fault, InvalidArgument, PermissionDenied, Unavailable
from services.runtime.identity import ASSURANCE_LEVELS

MANDATES = "mandates"
"""The service of the subsystem "solmu" that answers other nodes."""

ANSWER_WITHIN = 5.0
"""Seconds for an answer, from wherever: no call goes by anything older."""

SALT_BYTES = 32
"""Of who stands behind something: it keeps the digest in the statement from telling whom it is about."""

OWN_WITHIN = 2.0
"""Seconds for the own authorisations service."""

REPRESENTED = "X-Road-Represented-Party"

_ORGANISATIONS = frozenset(
    {
        NationalIdentifier.SCHEME_FI_YTUNNUS,
        NationalIdentifier.SCHEME_NO_ORGNR,
        NationalIdentifier.SCHEME_DK_CVR,
        NationalIdentifier.SCHEME_SE_ORGNR,
        NationalIdentifier.SCHEME_IT_PARTITA_IVA,
        NationalIdentifier.SCHEME_EE_REGISTRIKOOD,
    }
)


class Checks(Protocol):
    """The node's own authorisations service."""

    async def check(self, request: checks_pb2.CheckRequest) -> checks_pb2.CheckResponse:
        """Checks one act. Raises Fault."""


class OwnChecks:
    """The node's own authorisations service, over the wire."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def check(self, request: checks_pb2.CheckRequest) -> checks_pb2.CheckResponse:
        """Checks one act. Raises Fault."""
        stub: checks_pb2_grpc.CheckServiceAsyncStub = self._peer.stub(checks_pb2_grpc.CheckServiceStub)
        with self._peer.faults():
            return await stub.Check(request, timeout=OWN_WITHIN, metadata=self._peer.metadata())


class MandateBook:
    """The mandates of this node, for its own calls and as the service "mandates" for other nodes."""

    def __init__(self, checks: Checks) -> None:
        self.checks = checks

    async def find(self, question: CheckMandateRequest) -> CheckMandateResponse:
        """What the own authorisations service says. Raises Fault."""
        behalf = question.on_behalf_of
        level = ASSURANCE_LEVELS.get(behalf.assurance_level, 0)
        judge_time = utc_now()
        found = await self.checks.check(
            checks_pb2.CheckRequest(
                delegate=Party(identifier=_delegate(behalf)),
                principal=Party(identifier=behalf.principal),
                theme_uri=behalf.theme_uri,
                specifier=behalf.specifier,
                assurance_level=level,  # type: ignore[arg-type]  # numbered alike
                relying_party=question.relying_party,
            )
        )
        sure = level >= found.needed_assurance_level
        reason = found.reason if sure or found.reason else checks_pb2.DENIAL_REASON_ASSURANCE_TOO_LOW
        finding = CheckMandateResponse(
            allowed=found.decision == checks_pb2.DECISION_ALLOWED and sure,
            denial_reason=checks_pb2.DenialReason.Name(reason).removeprefix("DENIAL_REASON_"),
            basis=rights_pb2.RightBasis.Name(found.basis).removeprefix("RIGHT_BASIS_"),
            mandates=found.mandates,
            consistency_token=found.consistency_token,
            audit_record=found.audit_record,
        )
        finding.judge_time.FromDatetime(judge_time)
        if found.HasField("expire_time"):
            finding.expire_time.CopyFrom(found.expire_time)
        return finding

    @asynccontextmanager
    async def call(
        self,
        service: Service,  # noqa: ARG002  # as with a backend
        head: RequestHead,
        body: AsyncIterator[bytes] | bytes,
        length: int | None,  # noqa: ARG002
        policy: Policy,  # noqa: ARG002
    ) -> AsyncIterator[Answer]:
        """Answers POST /check, as a backend would."""
        content = await collected(body, most=SMALL)
        if head.method != "POST" or head.target != b"/check":
            yield spoken(404, b"", "text/plain")
            return
        consumer = next(value.decode("ascii") for name, value in head.headers if name == "X-Road-Client")
        try:
            question = json_format.Parse(content, CheckMandateRequest(), ignore_unknown_fields=True)
        except json_format.ParseError:
            yield spoken(400, b"", "text/plain")
            return
        question.relying_party = question.relying_party or names.resource("subsystems", consumer)
        found = await self.find(question)
        yield spoken(200, json_format.MessageToJson(found, indent=None).encode(), "application/json")


class Mandates:
    """Checks calls, and mandates, wherever they are registered."""

    def __init__(self, *, book: MandateBook, calling: Calling, meshes: Meshes, configuration: Configuration) -> None:
        self._book = book
        self._calling = calling
        self._meshes = meshes
        self._configuration = configuration

    async def check(self, on_behalf_of: bytes, *, consumer: str, policy: Policy, message_id: str) -> tuple[Header, ...]:
        """What a backend is told of who stands behind a call of `consumer`; nothing where nobody does.

        Raises as `judge`.
        """
        found = await self.judge(on_behalf_of, consumer=consumer, policy=policy, message_id=message_id)
        return _told(_read(on_behalf_of), found) if found is not None else ()

    async def judge(
        self, on_behalf_of: bytes, *, consumer: str, policy: Policy, message_id: str
    ) -> CheckMandateResponse | None:
        """By what right somebody stands behind what `consumer` sends; None where nobody does, and nobody must.

        Raises PermissionDenied (MANDATE_MISSING, MANDATE_SOURCE_UNTRUSTED),
        Unavailable (MANDATE_UNVERIFIABLE), InvalidArgument (FIELD_INVALID).
        """
        if not on_behalf_of:
            if policy.content.mandate_required:
                raise PermissionDenied("MANDATE_MISSING", "only what is on behalf of somebody is taken")
            return None
        behalf = _read(on_behalf_of)
        question = CheckMandateRequest(on_behalf_of=behalf, relying_party=names.resource("subsystems", consumer))
        found = await self.find(question, policy=policy, message_id=message_id)
        if not found.allowed:
            raise PermissionDenied(
                "MANDATE_MISSING", "no mandate allows this", theme=behalf.theme_uri, denial=found.denial_reason
            )
        return found

    async def find(
        self, question: CheckMandateRequest, *, policy: Policy, message_id: str = ""
    ) -> CheckMandateResponse:
        """What is found where the mandate is registered, by a policy's trust. Raises as `check`."""
        behalf = question.on_behalf_of
        node = names.identifier(behalf.registered_at, 4) if behalf.registered_at else self._meshes.node
        if node != self._meshes.node and not policy.takes_mandates(names.member_of(node), behalf.theme_uri):
            raise PermissionDenied(
                "MANDATE_SOURCE_UNTRUSTED",
                "the policy does not take this node's word on mandates",
                node=behalf.registered_at,
                theme=behalf.theme_uri,
            )
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                if node == self._meshes.node:
                    return await self._book.find(question)
                return await self._ask(node, question, message_id)
        except (Fault, TimeoutError, json_format.ParseError) as error:
            cause = error.reason if isinstance(error, Fault) else "TIMEOUT"
            raise Unavailable("MANDATE_UNVERIFIABLE", "the mandate could not be checked", cause=cause) from None

    async def of_this_node(self, question: CheckMandateRequest) -> CheckMandateResponse:
        """What this node's authorisations service asks, by the policy of the subsystem "solmu". Raises as `find`."""
        return await self.find(question, policy=self._configuration.current.policy_of_subsystem(self._own))

    @property
    def _own(self) -> str:
        return names.own_subsystem(self._meshes.node)

    async def _ask(self, node: str, question: CheckMandateRequest, message_id: str) -> CheckMandateResponse:
        """What another node answers. Raises Fault."""
        asked = CheckMandateRequest()
        asked.CopyFrom(question)
        asked.on_behalf_of.ClearField("salt")
        asked.on_behalf_of.ClearField("registered_at")
        content = json_format.MessageToJson(asked, indent=None).encode()
        call = Call(
            consumer=self._own,
            service=f"{names.own_subsystem(node)}/{MANDATES}",
            head=RequestHead("POST", b"/check", (("Content-Type", b"application/json"),)),
            body=content,
            length=len(content),
            message_id=message_id,
            node=node,
            repeatable=True,
            timeout=ANSWER_WITHIN,
        )
        async with self._calling.call(call) as reply:
            answer = await collected(reply.chunks, most=SMALL)
        if reply.head.status != 200:
            raise Unavailable("BACKEND_RESPONSE_INVALID", "the other node does not say")
        return json_format.Parse(answer, CheckMandateResponse(), ignore_unknown_fields=True)


def salted(given: OnBehalfOf) -> bytes:
    """Who stands behind something, as it is sent: with a new salt."""
    shown = OnBehalfOf()
    shown.CopyFrom(given)
    shown.salt = os.urandom(SALT_BYTES)
    return shown.SerializeToString(deterministic=True)


def _read(on_behalf_of: bytes) -> OnBehalfOf:
    try:
        behalf = OnBehalfOf.FromString(on_behalf_of)
    except DecodeError:
        behalf = OnBehalfOf()
    if not behalf.theme_uri or not behalf.HasField("principal"):
        raise InvalidArgument("FIELD_INVALID", "who stands behind it is not said in the contract's form")
    return behalf


def _delegate(behalf: OnBehalfOf) -> NationalIdentifier:
    return behalf.delegate if behalf.HasField("delegate") else behalf.principal


def _told(behalf: OnBehalfOf, found: CheckMandateResponse) -> tuple[Header, ...]:
    told = {
        "Solmu-Principal": _code(behalf.principal),
        "Solmu-Delegate": _code(_delegate(behalf)),
        "Solmu-Theme": behalf.theme_uri,
        "Solmu-Specifier": behalf.specifier,
        "Solmu-Mandates": ",".join(found.mandates),
        "Solmu-Basis": found.basis,
    }
    if behalf.principal.scheme in _ORGANISATIONS:
        told[REPRESENTED] = behalf.principal.value
    return tuple((name, quote(value, safe=_PLAIN).encode("ascii")) for name, value in told.items() if value)


_PLAIN = " !#$&'()*+,/:;=?@[]"
"""What stands in a header as it is; the rest percent-encoded (RFC 3986)."""


def _code(identifier: NationalIdentifier) -> str:
    """An identity code as backends are told it: "FI_HETU 131052-308T"."""
    scheme = NationalIdentifier.Scheme.Name(identifier.scheme).removeprefix("SCHEME_")
    return f"{scheme} {identifier.value}"
