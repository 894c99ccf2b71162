"""Merkle trees, held against a plain reading of RFC 9162 and its predecessor's test vectors."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.exchange.evidence import merkle

# The tree of eight leaves with which Certificate Transparency's implementations are tested.
LEAVES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def plain_root(leaves) -> bytes:
    """MTH of section 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + plain_root(leaves[:k]) + plain_root(leaves[k:])).digest()


def stored(leaves):
    nodes: dict[tuple[int, int], bytes] = {}

    def node(level, index):
        return nodes[level, index]

    for size, leaf in enumerate(leaves):
        nodes |= merkle.append(size, [merkle.leaf_hash(leaf)], node)
    return node


def test_the_known_tree_has_the_known_roots() -> None:
    node = stored(LEAVES)
    assert [merkle.root(size, node).hex() for size in range(1, 9)] == list(ROOTS)
    assert merkle.root(0, node) == merkle.EMPTY


def test_the_known_tree_has_the_known_path() -> None:
    path = merkle.inclusion_path(5, 8, stored(LEAVES))
    assert [node.hex() for node in path] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


trees = st.integers(1, 70).map(lambda size: [b"leaf %d" % index for index in range(size)])


@given(trees, st.data())
def test_appending_in_any_pieces_gives_the_same_tree(leaves, data) -> None:
    nodes: dict[tuple[int, int], bytes] = {}
    size = 0

    def node(level, index):
        return nodes[level, index]

    while size < len(leaves):
        step = data.draw(st.integers(1, len(leaves) - size))
        fresh = [merkle.leaf_hash(leaf) for leaf in leaves[size : size + step]]
        nodes |= merkle.append(size, fresh, node)
        size += step
    assert merkle.root(size, node) == plain_root(leaves)
    assert merkle.root_of([merkle.leaf_hash(leaf) for leaf in leaves]) == plain_root(leaves)


@given(trees, st.data())
def test_every_leaf_is_proven_and_no_other(leaves, data) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = merkle.inclusion_path(index, len(leaves), stored(leaves))
    leaf = merkle.leaf_hash(leaves[index])
    assert merkle.root_from_inclusion(leaf, index, len(leaves), path) == plain_root(leaves)
    wrong = data.draw(st.integers(-2, len(leaves) + 2).filter(lambda other: other != index))
    assert merkle.root_from_inclusion(leaf, wrong, len(leaves), path) != plain_root(leaves)
    assert merkle.root_from_inclusion(leaf, index, len(leaves), [*path, leaf]) is None
    if path:
        assert merkle.root_from_inclusion(leaf, index, len(leaves), path[:-1]) != plain_root(leaves)
        at = data.draw(st.integers(0, len(path) - 1))
        bent = [*path[:at], bytes(32), *path[at + 1 :]]
        assert merkle.root_from_inclusion(leaf, index, len(leaves), bent) != plain_root(leaves)


@given(trees, st.data())
def test_a_tree_continues_its_beginnings_and_no_others(leaves, data) -> None:
    first, size = data.draw(st.integers(1, len(leaves))), len(leaves)
    old, new = plain_root(leaves[:first]), plain_root(leaves)
    path = merkle.consistency_path(first, size, stored(leaves))
    assert merkle.consistent(first, old, size, new, path)
    forged = plain_root([b"another", *leaves[1:first]])
    assert not merkle.consistent(first, forged, size, new, path)
    assert not merkle.consistent(first, old, size, forged, path)
    assert not merkle.consistent(first, old, size, new, [*path, bytes(32)])
    if path:
        assert not merkle.consistent(first, old, size, new, path[:-1])
        at = data.draw(st.integers(0, len(path) - 1))
        assert not merkle.consistent(first, old, size, new, [*path[:at], bytes(32), *path[at + 1 :]])


@given(st.integers(-5, 70), st.integers(-5, 70), st.lists(st.binary(min_size=32, max_size=32), max_size=9))
def test_made_up_paths_prove_nothing(index, size, path) -> None:
    leaf = merkle.leaf_hash(b"leaf")
    if size != 1:
        assert merkle.root_from_inclusion(leaf, index, size, path) != merkle.root_of([leaf, leaf])
    assert not merkle.consistent(index, bytes(32), size, b"\x01" * 32, path)


def test_paths_that_cannot_be_are_not_made() -> None:
    node = stored(LEAVES)
    for index, size in ((-1, 8), (8, 8)):
        with pytest.raises(ValueError, match="leaf"):
            merkle.inclusion_path(index, size, node)
    for first, second in ((0, 8), (5, 4)):
        with pytest.raises(ValueError, match="tree"):
            merkle.consistency_path(first, second, node)
