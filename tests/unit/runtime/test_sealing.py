"""Sealed values open under their key, for their context, unchanged; nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.errors import Internal
from services.runtime.sealing import Vault

ROOT = bytes(range(32))


@given(st.binary(max_size=200))
def test_what_is_sealed_opens(content: bytes):
    vault = Vault(ROOT)
    sealer = vault.sealer(vault.new_key(owner="a"), owner="a")
    sealed = sealer.seal(content, context="x")
    assert sealer.open(sealed, context="x") == content
    assert sealer.seal(content, context="x") != sealed


def test_a_value_opens_for_its_context_only():
    vault = Vault(ROOT)
    sealer = vault.sealer(vault.new_key(owner="a"), owner="a")
    with pytest.raises(Internal):
        sealer.open(sealer.seal(b"secret", context="messages/1"), context="messages/2")


def test_a_key_opens_for_its_owner_and_under_its_root_only():
    vault = Vault(ROOT)
    wrapped = vault.new_key(owner="mailboxes/1")
    with pytest.raises(Internal):
        vault.sealer(wrapped, owner="mailboxes/2")
    with pytest.raises(Internal):
        Vault(bytes(32)).sealer(wrapped, owner="mailboxes/1")


@given(st.integers(0, 400))
def test_one_changed_bit_is_noticed(bit: int):
    vault = Vault(ROOT)
    sealer = vault.sealer(vault.new_key(owner="a"), owner="a")
    sealed = bytearray(sealer.seal(b"some content of a message", context="x"))
    sealed[(bit // 8) % len(sealed)] ^= 1 << bit % 8
    with pytest.raises(Internal):
        sealer.open(bytes(sealed), context="x")


def test_digests_tell_nothing_without_the_key():
    assert Vault(ROOT).digest(b"x") == Vault(ROOT).digest(b"x") != Vault(bytes(32)).digest(b"x")
