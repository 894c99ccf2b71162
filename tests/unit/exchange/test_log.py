"""Leaves, heads and countersignatures: their bytes, and what is refused."""

import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.exchange.evidence import log, merkle
from services.exchange.evidence.log import Leaf, TreeHead
from services.runtime.errors import InvalidArgument
from tests.unit.exchange import pki
from tests.unit.exchange.pki import NOW

NODE = "FI/MUN/0245437-2/node-1"
PEER = "FI/COM/0201256-6/node-1"
MESH = pki.mesh()
PINNED = MESH.member.pinned(NODE)
PEERS = MESH.other.pinned(PEER)
LEAF = Leaf(
    NOW,
    own=True,
    statement_sha256=b"\x11" * 32,
    form=1,
    signing_time=1795242600,
    certificate_sha256=b"\x22" * 32,
    value=b"\x33" * 64,
)


def refused(call, *given, **named) -> str:
    with pytest.raises(InvalidArgument) as refusal:
        call(*given, **named)
    return refusal.value.reason


def head(size: int, content: bytes = b"leaf", *, time=NOW) -> TreeHead:
    return TreeHead(time, size, merkle.root_of([merkle.leaf_hash(content)] * size))


def test_the_bytes_of_a_leaf_are_those_of_the_contract() -> None:
    parts = ("01", "000001a1fccc2640", "01", "11" * 32, "01", "000000006b013a68", "22" * 32, "0040", "33" * 64)
    assert LEAF.encode().hex() == "".join(parts)


def test_the_bytes_of_a_head_are_those_of_the_contract() -> None:
    parts = ("000001a1fccc2640", "0000000000000005", "20", "44" * 32, "0000")
    assert TreeHead(NOW, 5, b"\x44" * 32).encode().hex() == "".join(parts)


leaves = st.builds(
    Leaf,
    time=st.integers(0, 2**43).map(lambda ms: NOW + timedelta(milliseconds=ms)),
    own=st.booleans(),
    statement_sha256=st.binary(min_size=32, max_size=32),
    form=st.integers(0, 255),
    signing_time=st.integers(0, 2**63),
    certificate_sha256=st.binary(min_size=32, max_size=32),
    value=st.binary(max_size=1024),
)


@given(leaves)
def test_a_leaf_is_read_back(leaf) -> None:
    assert log.parse_leaf(leaf.encode()) == leaf


@given(st.binary(max_size=300))
def test_any_bytes_are_a_leaf_or_head_or_are_refused(content) -> None:
    for parse in (log.parse_leaf, log.parse_head):
        try:
            assert parse(content).encode() == content
        except InvalidArgument as refusal:
            assert refusal.reason == "LOG_PROOF_INVALID"


def test_damaged_structures_are_refused() -> None:
    content = LEAF.encode()
    for damaged in (b"", content[:-1], content + b"\0", b"\x02" + content[1:], content[:9] + b"\x02" + content[10:]):
        assert refused(log.parse_leaf, damaged) == "LOG_PROOF_INVALID"
    content = head(3).encode()
    for damaged in (
        b"",
        content[:-1],
        content + b"\0",
        content[:-1] + b"\1",
        b"\xff" * 8 + content[8:],
        content[:8] + b"\xff" + content[9:],
    ):
        assert refused(log.parse_head, damaged) == "LOG_PROOF_INVALID"


def test_a_signed_head_is_verified() -> None:
    signed = head(3)
    value = log.sign_head(signed, key=MESH.member.key, pinned=PINNED)
    assert log.verify_head(signed.encode(), value, PINNED) == signed


def test_a_head_that_is_not_the_nodes_is_refused() -> None:
    signed = head(3)
    value = log.sign_head(signed, key=MESH.member.key, pinned=PINNED)
    assert refused(log.verify_head, head(4).encode(), value, PINNED) == "SIGNATURE_INVALID"
    assert refused(log.verify_head, signed.encode(), value, PEERS) == "SIGNATURE_INVALID"
    late = head(3, time=NOW + timedelta(days=400))
    value = log.sign_head(late, key=MESH.member.key, pinned=PINNED)
    assert refused(log.verify_head, late.encode(), value, PINNED) == "CERTIFICATE_EXPIRED"


def test_a_countersignature_is_of_one_node_head_and_time() -> None:
    content = head(3).encode()
    value = log.countersign(NODE, content, now=NOW, key=MESH.other.key, pinned=PEERS)
    log.verify_countersignature(NODE, content, time=NOW, value=value, pinned=PEERS)
    for changed in (
        {"node": PEER},
        {"head": head(4).encode()},
        {"time": NOW + timedelta(seconds=1)},
        {"pinned": PINNED},
    ):
        given = {"node": NODE, "head": content, "time": NOW, "value": value, "pinned": PEERS} | changed
        assert (
            refused(log.verify_countersignature, given.pop("node"), given.pop("head"), **given) == "SIGNATURE_INVALID"
        )


def test_a_countersignature_is_no_signature_of_a_head() -> None:
    content = head(3).encode()
    value = log.countersign(NODE, content, now=NOW, key=MESH.member.key, pinned=PINNED)
    assert refused(log.verify_head, content, value, PINNED) == "SIGNATURE_INVALID"


def consistency(first: int, second: int) -> list[bytes]:
    nodes = merkle.append(0, [merkle.leaf_hash(b"leaf")] * second, lambda level, index: b"")
    return merkle.consistency_path(first, second, lambda level, index: nodes[level, index])


def test_a_head_that_continues_the_last_one_is_taken() -> None:
    later = NOW + timedelta(seconds=1)
    log.check_continues(None, head(3), [])
    log.check_continues(TreeHead(NOW, 0, merkle.EMPTY), head(3), [])
    log.check_continues(head(3), head(7, time=later), consistency(3, 7))
    log.check_continues(head(3), head(3, time=later), [])


def test_a_head_that_contradicts_the_last_one_is_refused() -> None:
    later = NOW + timedelta(seconds=1)
    for seen, shown, path in (
        (head(3), head(7, b"another history", time=later), consistency(3, 7)),
        (head(3), head(7, time=later), []),
        (head(7), head(3, time=later), consistency(3, 7)),
        (head(7), TreeHead(later, 0, merkle.EMPTY), []),
        (head(3), head(3, b"another history", time=later), []),
        (head(3), head(7, time=NOW - timedelta(seconds=1)), consistency(3, 7)),
    ):
        assert refused(log.check_continues, seen, shown, path) == "LOG_CONTRADICTED"


def test_a_leaf_is_proven_to_be_in_the_tree_of_a_head() -> None:
    contents = [replace(LEAF, statement_sha256=hashlib.sha256(b"%d" % number).digest()).encode() for number in range(5)]
    hashes = [merkle.leaf_hash(content) for content in contents]
    of_five = TreeHead(NOW, 5, merkle.root_of(hashes))
    path = merkle.inclusion_path_of(2, hashes)
    assert log.check_inclusion(contents[2], 2, of_five, path) == log.parse_leaf(contents[2])
    for leaf, index, nodes in ((contents[1], 2, path), (contents[2], 3, path), (contents[2], 2, path[:-1])):
        assert refused(log.check_inclusion, leaf, index, of_five, nodes) == "LOG_PROOF_INVALID"
