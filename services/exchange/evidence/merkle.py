"""Merkle trees as RFC 9162, section 2.1, defines them, with SHA-256.

Pure arithmetic over hashes. Whoever stores a tree stores the hashes of its
complete subtrees and gives them to `inclusion_path` and `consistency_path`
through a function, so that a proof costs reads in the depth of the tree, not
in its size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

EMPTY = hashlib.sha256(b"").digest()
"""The root of a tree without leaves (section 2.1.1)."""

MAX_PATH = 64
"""Nodes of the longest path: the depth of a tree whose size is an int64."""

Node = Callable[[int, int], bytes]
"""The hash of the complete subtree of 2**level leaves that is the index-th of its level: (level, index) -> hash."""


def leaf_hash(content: bytes) -> bytes:
    """The hash of a leaf (section 2.1.1)."""
    return hashlib.sha256(b"\x00" + content).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash over two subtrees (section 2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def peaks(size: int) -> list[tuple[int, int]]:
    """The complete subtrees that a tree of `size` leaves is made of, as (level, index), the largest first."""
    found, start = [], 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            found.append((level, start >> level))
            start += 1 << level
    return found


def append(size: int, hashes: Sequence[bytes], node: Node) -> dict[tuple[int, int], bytes]:
    """The hashes of all subtrees that become complete when leaves of these hashes follow upon the first `size`."""
    fresh: dict[tuple[int, int], bytes] = {}

    def known(level: int, index: int) -> bytes:
        return fresh[level, index] if (level, index) in fresh else node(level, index)

    for position, value in enumerate(hashes, start=size):
        level, index = 0, position
        fresh[level, index] = value
        while index & 1:
            fresh[level + 1, index >> 1] = node_hash(known(level, index - 1), fresh[level, index])
            level, index = level + 1, index >> 1
    return fresh


def root(size: int, node: Node) -> bytes:
    """The root of the tree of the first `size` leaves."""
    return _bagged([node(level, index) for level, index in peaks(size)])


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root of the tree of leaves of these hashes."""
    return root(len(hashes), _in_memory(hashes))


def inclusion_path(index: int, size: int, node: Node) -> list[bytes]:
    """The path that proves the leaf at `index` in the tree of the first `size` leaves (section 2.1.3.1)."""
    if not 0 <= index < size:
        raise ValueError("the tree has no such leaf")
    return _path(index, 0, size, node)


def inclusion_path_of(index: int, hashes: Sequence[bytes]) -> list[bytes]:
    """The same for a tree that is at hand as a whole."""
    return inclusion_path(index, len(hashes), _in_memory(hashes))


def consistency_path(first: int, second: int, node: Node) -> list[bytes]:
    """The path that proves that the tree of `second` leaves continues that of `first` (section 2.1.4.1)."""
    if not 0 < first <= second:
        raise ValueError("the first tree is empty, or larger than the second")
    return _subproof(first, 0, second, node, whole=True)


def root_from_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root to which a leaf's hash and path lead (section 2.1.3.2), or None where they lead nowhere.

    What remains to the caller: that the root is the one of a head that it trusts.
    """
    if not 0 <= index < size or len(path) > MAX_PATH:  # step 1
        return None
    fn, sn, r = index, size - 1, leaf  # steps 2 and 3
    for p in path:  # step 4
        if sn == 0:  # step 4.1
            return None
        if fn & 1 or fn == sn:  # step 4.2
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1  # step 4.3
    return r if sn == 0 else None  # step 5, but for the comparison


def consistent(first: int, first_root: bytes, second: int, second_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether a path proves that the second tree continues the first (section 2.1.4.2)."""
    if not 0 < first <= second or len(path) > MAX_PATH:
        return False
    if first == second:  # the path of a tree to itself is empty
        return not path and first_root == second_root
    if not path:  # step 1
        return False
    nodes = list(path) if first & (first - 1) else [first_root, *path]  # step 2
    fn, sn = first - 1, second - 1  # step 3
    while fn & 1:  # step 4
        fn, sn = fn >> 1, sn >> 1
    fr = sr = nodes[0]  # step 5
    for c in nodes[1:]:  # step 6
        if sn == 0:  # step 6.1
            return False
        if fn & 1 or fn == sn:  # step 6.2
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1  # step 6.3
    return fr == first_root and sr == second_root and sn == 0  # step 7


def _bagged(hashes: Sequence[bytes]) -> bytes:
    if not hashes:
        return EMPTY
    result = hashes[-1]
    for value in reversed(hashes[:-1]):
        result = node_hash(value, result)
    return result


def _range(start: int, size: int, node: Node) -> bytes:
    """The hash of the subtree over `size` leaves from `start` on, which is a multiple of the power of two above."""
    parts, at = [], start
    for level, _ in peaks(size):
        parts.append(node(level, at >> level))
        at += 1 << level
    return _bagged(parts)


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _path(index: int, start: int, size: int, node: Node) -> list[bytes]:
    if size == 1:
        return []
    k = _split(size)
    if index < k:
        return [*_path(index, start, k, node), _range(start + k, size - k, node)]
    return [*_path(index - k, start + k, size - k, node), _range(start, k, node)]


def _subproof(first: int, start: int, size: int, node: Node, *, whole: bool) -> list[bytes]:
    if first == size:
        return [] if whole else [_range(start, size, node)]
    k = _split(size)
    if first <= k:
        return [*_subproof(first, start, k, node, whole=whole), _range(start + k, size - k, node)]
    return [*_subproof(first - k, start + k, size - k, node, whole=False), _range(start, k, node)]


def _in_memory(hashes: Iterable[bytes]) -> Node:
    levels = [list(hashes)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)])
    return lambda level, index: levels[level][index]
