"""Heads of logs, shown to peers and countersigned by them (evidence_log.proto, `PeerService.ExchangeTreeHeads`).

A node gives its word on a peer's head only where it continues the last one on
which it did. So a peer cannot show one history here and another elsewhere
without somebody holding both, signed.

A log that was set back, as by a restore from an older backup, never continues
what its peers have seen. Its node takes a new key for the log, which the
directory must have: under it peers begin anew, once, and keep what contradicts
with all that they had countersigned.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from solmu.exchange.v1 import events_pb2, evidence_log_pb2, peer_pb2

from services.exchange import evidence_store, log_keeper
from services.exchange.evidence import log
from services.exchange.evidence.log import TreeHead
from services.exchange.evidence.signatures import PinnedKey
from services.exchange.evidence_store import OWN
from services.exchange.log_keeper import FindKey, LogKey
from services.exchange.servicers.evidence_log import head_view
from services.runtime.database import Database, Row
from services.runtime.errors import FailedPrecondition, Fault, InvalidArgument
from services.runtime.outbox import Outbox, event

logger = logging.getLogger(__name__)

FindPinned = Callable[[str, bytes], PinnedKey | None]
"""The key for the log of a node, by the SHA-256 of its certificate, as the directory pins it."""

Show = Callable[[str, peer_pb2.ExchangeTreeHeadsRequest], Awaitable[peer_pb2.ExchangeTreeHeadsResponse]]
"""Brings a request to a peer. Raises Fault."""


class PeerHeads:
    """Shows this node's heads, and judges those of others. `node` is this node, spelt with "/"."""

    def __init__(
        self, *, database: Database, outbox: Outbox | None, key: FindKey, pinned: FindPinned, node: Callable[[], str]
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._key = key
        self._pinned = pinned
        self._node = node
        self._asked: set[tuple[str, bytes, int]] = set()
        """Peers with a new key that were told from which size to go on."""

    async def round(self, peers: Sequence[str], show: Show) -> None:
        """Shows the latest head to each peer; one process at a time."""
        for peer in peers:
            try:
                await self.show(peer, show)
            except Fault as fault:
                told = _SET_BACK if fault.reason == "LOG_CONTRADICTED" else "a peer has not countersigned"
                logger.warning(told, extra={"peer": peer, "reason": fault.reason})

    async def show(self, peer: str, show: Show) -> None:
        """Shows the latest head to a peer, takes its word on it, and judges the head that comes back."""
        latest = await evidence_store.head(self._database, OWN)
        if latest is None:
            return
        last = await evidence_store.last_countersigned(self._database, OWN, peer)
        try:
            answer = await show(peer, await self._request(peer, latest, last["tree_size"] if last else 0))
        except Fault as fault:
            seen = fault.metadata.get("seen_size", "")
            if not seen.isdigit() or not 0 < int(seen) <= latest["tree_size"]:
                raise
            # The peer gave its word on a head, and we did not hear of it: it is shown what continues that one.
            answer = await show(peer, await self._request(peer, latest, int(seen)))
        await self._take_word(peer, latest, answer.countersignature)
        if answer.HasField("tree_head"):
            await self._judge(peer, answer.tree_head, answer.consistency_path)

    async def answer(self, peer: str, request: peer_pb2.ExchangeTreeHeadsRequest) -> peer_pb2.ExchangeTreeHeadsResponse:
        """What a peer that shows its head is told.

        Raises InvalidArgument: CERTIFICATE_UNKNOWN, CERTIFICATE_EXPIRED, SIGNATURE_INVALID, LOG_PROOF_INVALID,
        LOG_CONTRADICTED (with `seen_size` where the proof goes from another head than the last one).
        """
        if request.HasField("countersignature"):
            shown = await evidence_store.head(self._database, OWN, request.countersigned_size)
            if shown is not None:
                await self._take_old_word(peer, shown, request.countersignature)
        word = await self._judge(peer, request.tree_head, request.consistency_path)
        response = peer_pb2.ExchangeTreeHeadsResponse(countersignature=word)
        latest = await evidence_store.head(self._database, OWN)
        if latest is not None:
            first = min(request.countersigned_size, latest["tree_size"])
            path = await log_keeper.consistency_path(self._database, first, latest["tree_size"]) if first else []
            response.tree_head.CopyFrom(head_view(latest, node=_resource(self._node())))
            response.consistency_path.extend(path)
        return response

    async def _request(self, peer: str, latest: Row, first: int) -> peer_pb2.ExchangeTreeHeadsRequest:
        path = await log_keeper.consistency_path(self._database, first, latest["tree_size"]) if first else []
        request = peer_pb2.ExchangeTreeHeadsRequest(
            tree_head=head_view(latest, node=_resource(self._node())), consistency_path=path
        )
        own_word = await evidence_store.last_countersigned(self._database, peer, OWN)
        if own_word is not None:
            request.countersigned_size = own_word["tree_size"]
            request.countersignature.CopyFrom(self._word(own_word["time"], own_word))
        return request

    async def _judge(
        self, peer: str, shown: evidence_log_pb2.TreeHead, path: Sequence[bytes]
    ) -> evidence_log_pb2.Countersignature:
        """This node's word on a peer's head, where it continues the last one that was countersigned."""
        pinned = self._pinned(peer, shown.certificate_sha256)
        if pinned is None:
            raise InvalidArgument("CERTIFICATE_UNKNOWN", "the directory does not have the certificate for logs")
        head = log.verify_head(shown.tree_head, shown.signature, pinned)
        last = await evidence_store.last_countersigned(self._database, peer, OWN)
        aside = await self._check_continues(peer, shown, head, path, last)
        key = self._own_key()
        now = datetime.now(UTC)
        now = now.replace(microsecond=now.microsecond // 1000 * 1000)
        value = log.countersign(peer, shown.tree_head, now=now, key=key.private, pinned=key.pinned)
        async with self._database.transaction() as transaction:
            if aside:
                await evidence_store.set_heads_aside(transaction, peer, aside)
            await evidence_store.insert_head(
                transaction,
                node=peer,
                size=head.size,
                head=shown.tree_head,
                certificate_sha256=shown.certificate_sha256,
                signature=shown.signature,
                sign_time=head.time,
            )
            await evidence_store.insert_countersignature(
                transaction,
                node=peer,
                size=head.size,
                signer=OWN,
                time=now,
                certificate_sha256=key.pinned.sha256,
                value=value,
            )
        return self._word(now, {"certificate_sha256": key.pinned.sha256, "value": value})

    async def _check_continues(
        self, peer: str, shown: evidence_log_pb2.TreeHead, head: TreeHead, path: Sequence[bytes], last: Row | None
    ) -> str:
        """Refuses a head that does not continue the last one; under what name to set those aside, to begin anew."""
        if last is None:
            return ""
        seen = log.parse_head(last["head"])
        try:
            log.check_continues(seen, head, path)
        except InvalidArgument as fault:
            begins = await self._begins_anew(peer, shown.certificate_sha256, last)
            asked = (peer, shown.certificate_sha256, seen.size)
            if head.size > seen.size and not (begins and asked in self._asked):
                # It may be right, and the path from another head: it is told from which.
                self._asked.add(asked)
                raise InvalidArgument(fault.reason, fault.message, seen_size=str(seen.size)) from None
            await self._tell(peer, seen, shown, head, path)
            if not begins:
                raise
            self._asked.discard(asked)
            return _aside(peer, last["head_certificate_sha256"])
        return ""

    async def _begins_anew(self, peer: str, certificate_sha256: bytes, last: Row) -> bool:
        """Whether a log's key is another than that of the last head, and none that was left behind."""
        if certificate_sha256 == last["head_certificate_sha256"]:
            return False
        return await evidence_store.head(self._database, _aside(peer, certificate_sha256)) is None

    async def _tell(
        self, peer: str, seen: TreeHead, shown: evidence_log_pb2.TreeHead, head: TreeHead, path: Sequence[bytes]
    ) -> None:
        """Keeps both heads, and tells those who watch over the node."""
        await evidence_store.insert_contradiction(
            self._database,
            node=peer,
            earlier_size=seen.size,
            head=shown.tree_head,
            signature=shown.signature,
            certificate_sha256=shown.certificate_sha256,
            path=path,
        )
        if self._outbox is None:
            return
        told = events_pb2.PeerLogContradicted(
            node=_resource(peer), earlier=f"{_resource(peer)}/treeHeads/{seen.size}", tree_size=head.size
        )
        async with self._database.transaction() as transaction:
            await self._outbox.append(transaction, [event(told)])
        self._outbox.wake()

    async def _take_old_word(self, peer: str, head: Row, word: evidence_log_pb2.Countersignature) -> None:
        """Keeps a peer's word where it is on this head: it may be on one from before this log was set back."""
        try:
            await self._take_word(peer, head, word)
        except InvalidArgument as fault:
            if fault.reason != "SIGNATURE_INVALID":
                raise
            logger.warning(_SET_BACK, extra={"peer": peer, "reason": fault.reason})

    async def _take_word(self, peer: str, head: Row, word: evidence_log_pb2.Countersignature) -> None:
        """Keeps a peer's word on a head of this node, once it is verified."""
        pinned = self._pinned(peer, word.certificate_sha256)
        if pinned is None:
            raise InvalidArgument("CERTIFICATE_UNKNOWN", "the directory does not have the certificate for logs")
        time = word.sign_time.ToDatetime(UTC)
        log.verify_countersignature(self._node(), head["head"], time=time, value=word.signature, pinned=pinned)
        await evidence_store.insert_countersignature(
            self._database,
            node=OWN,
            size=head["tree_size"],
            signer=peer,
            time=time,
            certificate_sha256=word.certificate_sha256,
            value=word.signature,
        )

    def _word(self, time: datetime, row: Row | dict[str, bytes]) -> evidence_log_pb2.Countersignature:
        word = evidence_log_pb2.Countersignature(
            node=_resource(self._node()), certificate_sha256=row["certificate_sha256"], signature=row["value"]
        )
        word.sign_time.FromDatetime(time)
        return word

    def _own_key(self) -> LogKey:
        key = self._key()
        if key is None:
            raise FailedPrecondition("KEY_MISSING", "there is no active key for the log", holder=self._node())
        return key


_SET_BACK = (
    "a peer has countersigned another history of this node's log: where the node was restored from an older backup, it"
    " takes a new key for its log"
)
"""What leads whoever runs the node (README, How evidence comes to be)."""


def _aside(node: str, certificate_sha256: bytes) -> str:
    """The name of a node's heads of a key that it has left behind."""
    return f"{node}#{certificate_sha256.hex()}"


def _resource(node: str) -> str:
    return f"nodes/{node.replace('/', '~')}"
