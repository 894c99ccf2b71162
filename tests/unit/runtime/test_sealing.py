"""Sealed values open under their key, for their context, unchanged; nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.errors import Internal
from services.runtime.sealing import FIRST, UNMARKED, Vault

KEY = bytes(range(32))


def vault_of(key: bytes, generation: int = FIRST) -> Vault:
    return Vault({generation: key}, current=generation)


@given(st.binary(max_size=200))
def test_what_is_sealed_opens(content: bytes):
    vault = vault_of(KEY)
    sealer = vault.sealer(vault.new_key(owner="a"), owner="a")
    sealed = sealer.seal(content, context="x")
    assert sealer.open(sealed, context="x") == content
    assert sealer.seal(content, context="x") != sealed


def test_a_value_opens_for_its_context_only():
    vault = vault_of(KEY)
    sealer = vault.sealer(vault.new_key(owner="a"), owner="a")
    with pytest.raises(Internal):
        sealer.open(sealer.seal(b"secret", context="messages/1"), context="messages/2")


def test_a_key_opens_for_its_owner_and_under_its_service_key_only():
    vault = vault_of(KEY)
    wrapped = vault.new_key(owner="mailboxes/1")
    with pytest.raises(Internal):
        vault.sealer(wrapped, owner="mailboxes/2")
    with pytest.raises(Internal):
        vault_of(bytes(32)).sealer(wrapped, owner="mailboxes/1")


@given(st.integers(0, 400))
def test_one_changed_bit_is_noticed(bit: int):
    vault = vault_of(KEY)
    sealer = vault.sealer(vault.new_key(owner="a"), owner="a")
    sealed = bytearray(sealer.seal(b"some content of a message", context="x"))
    sealed[(bit // 8) % len(sealed)] ^= 1 << bit % 8
    with pytest.raises(Internal):
        sealer.open(bytes(sealed), context="x")


def test_digests_tell_nothing_without_the_key():
    assert vault_of(KEY).digest(b"x") == vault_of(KEY).digest(b"x") != vault_of(bytes(32)).digest(b"x")


def test_data_keys_open_under_every_generation_and_are_wrapped_by_the_current_one():
    vault = vault_of(KEY)
    old = vault.new_key(owner="a")
    sealed = vault.sealer(old, owner="a").seal(b"before", context="x")
    vault.take({2: bytes(32)})
    vault.use(2)
    new = vault.new_key(owner="a")
    assert vault.sealer(old, owner="a").open(sealed, context="x") == b"before"
    with pytest.raises(Internal, match="generation"):
        vault_of(KEY).sealer(new, owner="a")
    with pytest.raises(Internal):
        vault_of(KEY, 2).sealer(new, owner="a")
    assert vault.sealer(new, owner="a")
    assert vault.digest(b"x") == vault_of(KEY).digest(b"x"), "digests stay what they were"


def test_data_keys_from_before_service_keys_open():
    vault = vault_of(KEY, UNMARKED)
    wrapped = vault.new_key(owner="a")
    assert len(wrapped) == 60
    vault.take({FIRST: bytes(32)})
    vault.use(FIRST)
    assert vault.sealer(wrapped, owner="a")
    assert len(vault.new_key(owner="a")) == 64
