"""Two nodes show each other the heads of their logs, and neither can take back what it showed."""

from datetime import UTC, datetime, timedelta

import pytest
from solmu.exchange.v1 import peer_pb2

from services.exchange import evidence_store
from services.exchange.evidence import log, merkle
from services.exchange.evidence.log import TreeHead
from services.exchange.evidence_store import OWN
from services.exchange.peer_heads import PeerHeads
from services.exchange.servicers.evidence_log import head_view
from services.runtime.errors import Fault, InvalidArgument
from services.runtime.outbox import Outbox
from services.runtime.telemetry import Telemetry
from tests.integration.exchange.test_evidence_keeping import there
from tests.integration.exchange.test_evidence_services import NODE, journal, keeping, logged  # noqa: F401
from tests.integration.exchange.trusting import Mesh, Signer

PEER = "FI/COM/0201256-6/node1"


class Peer:
    """A node that shows heads of a log."""

    def __init__(self, mesh: Mesh, signer: Signer | None = None) -> None:
        self.signer = signer or mesh.signer(PEER)

    def request(self, head: TreeHead, path=()):
        row = {
            "head": head.encode(),
            "certificate_sha256": self.signer.pinned.sha256,
            "signature": log.sign_head(head, key=self.signer.private, pinned=self.signer.pinned),
        }
        shown = head_view(row, node="nodes/FI~COM~0201256-6~node1")  # type: ignore[arg-type]
        return peer_pb2.ExchangeTreeHeadsRequest(tree_head=shown, consistency_path=path)


def leaf(number: int) -> bytes:
    return merkle.leaf_hash(b"%d" % number)


@pytest.fixture
async def own(database, mesh, journal):  # noqa: F811
    await database.execute("delete from countersignature")
    await database.execute("delete from tree_head where node <> ''")
    await journal.append(mesh.entry(mesh.signer()))
    return await logged(database, mesh)


@pytest.fixture
def heads(database, mesh: Mesh, own: Signer) -> PeerHeads:
    def pinned(node: str, sha256: bytes):
        found = mesh.signers.get(sha256)
        return found.pinned if found and found.pinned.holder == node else None

    outbox = Outbox(database=database, nats=None, node="solmu", service="exchange", telemetry=Telemetry())  # type: ignore[arg-type]
    return PeerHeads(database=database, outbox=outbox, key=lambda: own, pinned=pinned, node=lambda: NODE)


def path(first: int, second: int) -> list[bytes]:
    levels: list[list[bytes]] = [[leaf(number) for number in range(second)]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([merkle.node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)])
    return merkle.consistency_path(first, second, lambda level, index: levels[level][index])


def leaves(count: int) -> list[bytes]:
    return [leaf(number) for number in range(count)]


def now_head(count: int, *, more: int = 0, other: bool = False) -> TreeHead:
    """A head of so many leaves, signed `more` seconds from now."""
    time = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=more)
    return TreeHead(time, count, merkle.root_of([bytes(32)] * count if other else leaves(count)))


async def test_a_head_that_continues_the_last_one_is_countersigned(database, mesh, heads, own):
    peer = Peer(mesh)
    for request in (peer.request(now_head(3)), peer.request(now_head(7, more=1), path(3, 7))):
        answer = await heads.answer(PEER, request)
        word = answer.countersignature
        log.verify_countersignature(
            PEER,
            request.tree_head.tree_head,
            time=word.sign_time.ToDatetime(UTC),
            value=word.signature,
            pinned=own.pinned,
        )
        assert answer.tree_head.tree_head == there(await evidence_store.head(database, OWN))["head"]
    assert [row["tree_size"] for row in await evidence_store.heads(database, PEER, before=None, limit=9)] == [7, 3]


async def count(database) -> list[int]:
    """Contradictions that are kept, and those that were told."""
    told = "outbox where type = 'solmu.exchange.v1.PeerLogContradicted'"
    return [await database.fetchval(f"select count(*) from {what}") for what in ("contradiction", told)]


@pytest.mark.parametrize(
    ("size", "other", "kept"),
    [(7, True, True), (5, False, True), (9, True, False)],
    ids=["another root", "a tree that has shrunk", "no proof"],
)
async def test_a_head_that_contradicts_the_last_one_is_refused(database, mesh, heads, size, other, kept):
    peer = Peer(mesh)
    await heads.answer(PEER, peer.request(now_head(7)))
    before = await count(database)
    with pytest.raises(InvalidArgument) as refusal:
        await heads.answer(PEER, peer.request(now_head(size, more=1, other=other)))
    assert refusal.value.reason == "LOG_CONTRADICTED"
    after = await count(database)
    assert [later - earlier for earlier, later in zip(before, after, strict=True)] == [int(kept), int(kept)]
    assert there(await evidence_store.head(database, PEER))["tree_size"] == 7


async def test_a_head_of_a_key_that_is_not_pinned_is_refused(mesh, heads):
    peer = Peer(mesh, mesh.signer("FI/COM/0201256-6/other"))
    with pytest.raises(Fault, match="CERTIFICATE_UNKNOWN"):
        await heads.answer(PEER, peer.request(now_head(3)))


async def check_begun_anew(database, mesh, heads, begin) -> None:
    """A restored peer takes a new key: what it shows next is countersigned, and what it showed before is kept."""
    before = await count(database)
    old = there(await evidence_store.last_countersigned(database, PEER, OWN))
    renewed = Peer(mesh)
    assert (await begin(renewed)).countersignature.signature
    assert await count(database) == [number + 1 for number in before], "the contradiction is kept and told all the same"
    kept = f"{PEER}#{old['head_certificate_sha256'].hex()}"
    assert there(await evidence_store.last_countersigned(database, kept, OWN))["head"] == old["head"]
    latest = there(await evidence_store.last_countersigned(database, PEER, OWN))
    assert latest["head_certificate_sha256"] == renewed.signer.pinned.sha256


async def test_a_log_that_was_set_back_is_countersigned_again_under_a_new_key(database, mesh, heads):
    peer = Peer(mesh)
    await heads.answer(PEER, peer.request(now_head(7)))
    with pytest.raises(InvalidArgument, match="LOG_CONTRADICTED"):
        await heads.answer(PEER, peer.request(now_head(4, more=1)))

    async def begin(renewed):
        answer = await heads.answer(PEER, renewed.request(now_head(4, more=2)))
        await heads.answer(PEER, renewed.request(now_head(6, more=3), path(4, 6)))
        return answer

    await check_begun_anew(database, mesh, heads, begin)
    with pytest.raises(InvalidArgument, match="LOG_CONTRADICTED"):
        await heads.answer(PEER, peer.request(now_head(7, more=4, other=True)))  # under the key that it had left


async def test_a_log_that_was_set_back_and_has_grown_since_is_countersigned_again_under_a_new_key(
    database, mesh, heads
):
    await heads.answer(PEER, Peer(mesh).request(now_head(3)))

    async def begin(renewed):
        request = renewed.request(now_head(7, more=1, other=True))
        with pytest.raises(InvalidArgument) as refusal:  # it may only have gone on from another head
            await heads.answer(PEER, request)
        assert refusal.value.metadata["seen_size"] == "3"
        return await heads.answer(PEER, request)

    await check_begun_anew(database, mesh, heads, begin)


async def test_a_new_key_of_a_log_that_goes_on_begins_nothing_anew(database, mesh, heads):
    await heads.answer(PEER, Peer(mesh).request(now_head(3)))
    before = await count(database)
    await heads.answer(PEER, Peer(mesh).request(now_head(7, more=1), path(3, 7)))
    assert await count(database) == before
    assert [row["tree_size"] for row in await evidence_store.heads(database, PEER, before=None, limit=9)] == [7, 3]


async def test_a_word_on_a_head_from_before_a_restore_keeps_nobody_from_countersigning(database, mesh, heads, own):
    """The peer brings its word on a head of the size of one of this node's, but of another history."""
    peer = Peer(mesh)
    latest = there(await evidence_store.head(database, OWN))
    request = peer.request(now_head(3))
    request.countersigned_size = latest["tree_size"]
    now = datetime.now(UTC).replace(microsecond=0)
    lost = now_head(latest["tree_size"], other=True).encode()
    request.countersignature.certificate_sha256 = peer.signer.pinned.sha256
    request.countersignature.sign_time.FromDatetime(now)
    request.countersignature.signature = log.countersign(
        NODE, lost, now=now, key=peer.signer.private, pinned=peer.signer.pinned
    )
    assert (await heads.answer(PEER, request)).countersignature.signature
    assert await evidence_store.countersignatures(database, OWN, [latest["tree_size"]]) == []


async def test_a_head_that_its_key_did_not_sign_is_refused(mesh, heads):
    request = Peer(mesh).request(now_head(3))
    request.tree_head.tree_head = now_head(4).encode()
    with pytest.raises(Fault, match="SIGNATURE_INVALID"):
        await heads.answer(PEER, request)


async def test_a_peer_that_lost_an_answer_is_told_where_to_go_on_from(mesh, heads):
    peer = Peer(mesh)
    await heads.answer(PEER, peer.request(now_head(5)))  # its answer is lost
    with pytest.raises(InvalidArgument) as refusal:
        await heads.answer(PEER, peer.request(now_head(8, more=1), path(3, 8)))
    assert refusal.value.metadata["seen_size"] == "5"
    await heads.answer(PEER, peer.request(now_head(8, more=1), path(5, 8)))


async def test_a_node_shows_its_head_and_keeps_the_word_on_it(database, mesh, heads, own):
    signer = mesh.signer(PEER)
    asked = []

    async def show(node: str, request: peer_pb2.ExchangeTreeHeadsRequest) -> peer_pb2.ExchangeTreeHeadsResponse:
        assert node == PEER
        asked.append(request)
        now = datetime.now(UTC).replace(microsecond=0)
        value = log.countersign(NODE, request.tree_head.tree_head, now=now, key=signer.private, pinned=signer.pinned)
        peer, again = Peer(mesh, signer), len(asked) > 1
        shown = peer.request(now_head(7 if again else 3, more=len(asked)), path(3, 7) if again else [])
        response = peer_pb2.ExchangeTreeHeadsResponse(
            tree_head=shown.tree_head, consistency_path=shown.consistency_path
        )
        response.countersignature.certificate_sha256 = signer.pinned.sha256
        response.countersignature.signature = value
        response.countersignature.sign_time.FromDatetime(now)
        return response

    await heads.show(PEER, show)
    latest = there(await evidence_store.head(database, OWN))
    (word,) = await evidence_store.countersignatures(database, OWN, [latest["tree_size"]])
    assert word["signer"] == PEER
    await heads.round([PEER], show)
    assert asked[1].countersigned_size == 3
    log.verify_countersignature(
        PEER,
        there(await evidence_store.head(database, PEER, 3))["head"],
        time=asked[1].countersignature.sign_time.ToDatetime(UTC),
        value=asked[1].countersignature.signature,
        pinned=own.pinned,
    )
    assert there(await evidence_store.last_countersigned(database, PEER, OWN))["tree_size"] == 7


async def test_a_false_word_is_not_kept(database, mesh, heads):
    signer = mesh.signer(PEER)

    async def show(_node: str, request: peer_pb2.ExchangeTreeHeadsRequest) -> peer_pb2.ExchangeTreeHeadsResponse:
        response = peer_pb2.ExchangeTreeHeadsResponse()
        response.countersignature.certificate_sha256 = signer.pinned.sha256
        response.countersignature.signature = bytes(64)
        response.countersignature.sign_time.FromDatetime(datetime.now(UTC))
        return response

    with pytest.raises(Fault, match="SIGNATURE_INVALID"):
        await heads.show(PEER, show)
    latest = there(await evidence_store.head(database, OWN))
    assert await evidence_store.countersignatures(database, OWN, [latest["tree_size"]]) == []
