"""EvidenceLogService: heads of logs, and proofs of what this node's holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from solmu.exchange.v1 import evidence_log_pb2

from services.exchange import evidence_store, log_keeper, proofs
from services.exchange.evidence import log
from services.exchange.evidence_batches import Batches
from services.exchange.evidence_store import OWN
from services.runtime import pages
from services.runtime.database import Database, Row
from services.runtime.errors import FailedPrecondition, not_found

TreeHead = evidence_log_pb2.TreeHead

LEAVES = 10_000
"""Hashes of leaves in an answer where the caller does not say."""


class EvidenceLog:
    """Proves what the log holds. `node` is this node's identifier, spelt with "/"; empty while it has none."""

    def __init__(self, *, database: Database, batches: Batches, node: Callable[[], str]) -> None:
        self._database = database
        self._batches = batches
        self._node = node

    async def GetTreeHead(self, request: evidence_log_pb2.GetTreeHeadRequest) -> TreeHead:
        """A head, or the latest."""
        return await self._view(await self._named(request.name))

    async def ListTreeHeads(
        self, request: evidence_log_pb2.ListTreeHeadsRequest
    ) -> evidence_log_pb2.ListTreeHeadsResponse:
        """Heads, latest first."""
        node, size = self._stored(request.parent), pages.size(request.page_size)
        before = pages.key(request.page_token, question=node)
        rows = await evidence_store.heads(self._database, node, before=int(before) if before else None, limit=size + 1)
        response = evidence_log_pb2.ListTreeHeadsResponse(tree_heads=await self._views(node, rows[:size]))
        if len(rows) > size:
            response.next_page_token = pages.token(str(rows[size - 1]["tree_size"]), question=node)
        return response

    async def GetInclusionProof(
        self, request: evidence_log_pb2.GetInclusionProofRequest
    ) -> evidence_log_pb2.InclusionProof:
        """That a statement is in this node's log."""
        head = await self._head(OWN, request.tree_size or None)
        leaf = await evidence_store.leaf(self._database, bytes.fromhex(request.name.split("/")[1]))
        if leaf is None:
            raise not_found(request.name)
        if leaf["log_index"] >= head["tree_size"]:
            raise FailedPrecondition("EVIDENCE_PENDING", "the statement is not yet under a head of this size")
        path = await log_keeper.inclusion_path(self._database, leaf["log_index"], head["tree_size"])
        return evidence_log_pb2.InclusionProof(
            tree_head=await self._view(head),
            leaf_index=leaf["log_index"],
            leaf=proofs.leaf(leaf).encode(),
            path=path,
        )

    async def GetConsistencyProof(
        self, request: evidence_log_pb2.GetConsistencyProofRequest
    ) -> evidence_log_pb2.ConsistencyProof:
        """That one head of this node's log continues another."""
        second, first = await self._named(request.name), await self._head(OWN, request.first_size)
        if second["node"] != OWN or first["tree_size"] > second["tree_size"]:
            raise not_found(request.name)
        path = await log_keeper.consistency_path(self._database, first["tree_size"], second["tree_size"])
        return evidence_log_pb2.ConsistencyProof(
            first=await self._view(first), second=await self._view(second), path=path
        )

    async def ListLeafHashes(
        self, request: evidence_log_pb2.ListLeafHashesRequest
    ) -> evidence_log_pb2.ListLeafHashesResponse:
        """The hashes of this node's leaves."""
        if self._stored(request.parent) != OWN:
            raise not_found(request.parent)
        hashes = await evidence_store.leaf_hashes(
            self._database, start=request.start_index, limit=pages.size(request.page_size, LEAVES)
        )
        return evidence_log_pb2.ListLeafHashesResponse(
            hashes=hashes, tree_size=await evidence_store.log_size(self._database)
        )

    def _stored(self, name: str) -> str:
        """How the tables spell the node that a name begins with."""
        node = name.split("/")[1].replace("~", "/")
        return OWN if node in {"-", self._node()} else node

    async def _named(self, name: str) -> Row:
        size = name.split("/")[3]
        return await self._head(self._stored(name), None if size == "latest" else int(size))

    async def _head(self, node: str, size: int | None) -> Row:
        row = await evidence_store.head(self._database, node, size)
        if row is None:
            raise not_found(f"{self._resource(node)}/treeHeads/{size or 'latest'}")
        return row

    async def _view(self, row: Row) -> TreeHead:
        (view,) = await self._views(row["node"], [row])
        return view

    async def _views(self, node: str, rows: Sequence[Row]) -> list[TreeHead]:
        words = defaultdict(list)
        for word in await evidence_store.countersignatures(self._database, node, [row["tree_size"] for row in rows]):
            words[word["tree_size"]].append(self._countersignature(word))
        views = []
        for row in rows:
            view = head_view(row, node=self._resource(node))
            view.countersignatures.extend(words[row["tree_size"]])
            if row["stamp_batch"]:
                batch = await self._batches.get(row["stamp_batch"])
                view.evidence_record = batch.record(proofs.head_group(row["head"]), row["stamp_place"])
            views.append(view)
        return views

    def _countersignature(self, row: Row) -> evidence_log_pb2.Countersignature:
        view = evidence_log_pb2.Countersignature(
            node=self._resource(row["signer"]), certificate_sha256=row["certificate_sha256"], signature=row["value"]
        )
        view.sign_time.FromDatetime(row["time"])
        return view

    def _resource(self, node: str) -> str:
        return f"nodes/{(node or self._node() or '-').replace('/', '~')}"


def head_view(row: Row, *, node: str) -> TreeHead:
    """A head as the contract has it, without the words of others on it."""
    head = log.parse_head(row["head"])
    view = TreeHead(
        name=f"{node}/treeHeads/{head.size}",
        tree_size=head.size,
        root_hash=head.root,
        tree_head=row["head"],
        certificate_sha256=row["certificate_sha256"],
        signature=row["signature"],
    )
    view.sign_time.FromDatetime(head.time)
    return view
