"""Mandates that are registered on other nodes: asked there now, through the exchange, and kept nowhere.

The exchange holds the question to the sources that this node trusts, signs it
and verifies the answer (mandates.proto). What it cannot bring is refused: there
is no answer from earlier.
"""

from __future__ import annotations

from solmu.authorisations.v1 import checks_pb2, rights_pb2
from solmu.exchange.v1 import mandates_pb2, mandates_pb2_grpc, statements_pb2
from solmu.types.v1.types_pb2 import NationalIdentifier

from services.runtime.client import Peer
from services.runtime.errors import Fault, InvalidArgument, PermissionDenied, Unavailable
from services.runtime.identity import ASSURANCE_LEVELS

ANSWER_WITHIN = 8.0
"""Seconds for the exchange, which gives the other node five."""

_LEVELS = {number: uri for uri, number in ASSURANCE_LEVELS.items()}


class Elsewhere:
    """Asks other nodes. `exchange` is the exchange service of this one; None where there is none."""

    def __init__(self, exchange: Peer | None) -> None:
        self._exchange = exchange

    async def check(self, request: checks_pb2.CheckRequest, *, theme_uri: str) -> checks_pb2.CheckResponse:
        """The other node's answer, without a record of this one.

        Raises InvalidArgument (FIELD_INVALID), PermissionDenied
        (MANDATE_NODE_UNTRUSTED) and Unavailable (MANDATE_NODE_UNAVAILABLE).
        """
        question = _question(request, theme_uri)
        if self._exchange is None:
            raise _unavailable(request)
        stub: mandates_pb2_grpc.MandateServiceAsyncStub = self._exchange.stub(mandates_pb2_grpc.MandateServiceStub)
        try:
            with self._exchange.faults():
                found = await stub.CheckMandate(question, timeout=ANSWER_WITHIN, metadata=self._exchange.metadata())
        except Fault as fault:
            if fault.reason == "MANDATE_SOURCE_UNTRUSTED":
                raise PermissionDenied(
                    "MANDATE_NODE_UNTRUSTED", "this node does not take that node's word", node=request.registered_at
                ) from None
            raise _unavailable(request) from None
        return _answer(found)


def _question(request: checks_pb2.CheckRequest, theme_uri: str) -> mandates_pb2.CheckMandateRequest:
    unwanted = [field for field in ("through", "at") if request.HasField(field)]
    unwanted += ["consistency_token"] if request.consistency_token else []
    if unwanted:
        raise InvalidArgument(
            "FIELD_INVALID",
            "what means nothing on another node cannot be asked of it",
            violations=[(field, "is set beside registered_at") for field in unwanted],
        )
    return mandates_pb2.CheckMandateRequest(
        on_behalf_of=statements_pb2.OnBehalfOf(
            principal=_code(request, "principal"),
            delegate=_code(request, "delegate"),
            theme_uri=theme_uri,
            specifier=request.specifier,
            registered_at=request.registered_at,
            assurance_level=_LEVELS.get(request.assurance_level, ""),
        )
    )


def _code(request: checks_pb2.CheckRequest, side: str) -> NationalIdentifier:
    party = getattr(request, side)
    if not party.HasField("identifier"):
        raise InvalidArgument(
            "FIELD_INVALID",
            "a name of this node means nothing to another",
            violations=[(side, "is not named by its code")],
        )
    code: NationalIdentifier = party.identifier
    return code


def _answer(found: mandates_pb2.CheckMandateResponse) -> checks_pb2.CheckResponse:
    answer = checks_pb2.CheckResponse(
        decision=checks_pb2.DECISION_ALLOWED if found.allowed else checks_pb2.DECISION_DENIED,
        reason=checks_pb2.DenialReason.Value(f"DENIAL_REASON_{found.denial_reason or 'UNSPECIFIED'}"),
        basis=rights_pb2.RightBasis.Value(f"RIGHT_BASIS_{found.basis or 'UNSPECIFIED'}"),
        mandates=found.mandates,
    )
    if found.HasField("expire_time"):
        answer.expire_time.CopyFrom(found.expire_time)
    return answer


def _unavailable(request: checks_pb2.CheckRequest) -> Fault:
    return Unavailable("MANDATE_NODE_UNAVAILABLE", "the node cannot be asked now", node=request.registered_at)
