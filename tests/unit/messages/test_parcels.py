"""Parcels between nodes: what is packed is read back, and anything else is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solmu.messages.v1 import parcels_pb2

from services.messages.abroad import parcels
from services.messages.abroad.parcels import Parcel
from services.runtime.errors import InvalidArgument

MESSAGE = "01890f3c-0000-7000-8000-000000000001"
FINDING = Parcel(finding=parcels_pb2.Finding(message=MESSAGE, reachable=True))


def read(pieces: Sequence[bytes]) -> tuple[Parcel, bytes]:
    """What is read of a body that comes in pieces: the parcel, and all that follows it."""

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def whole() -> tuple[Parcel, bytes]:
        source = body()
        parcel, behind = await parcels.unpacked(source)
        return parcel, behind + b"".join([piece async for piece in source])

    return asyncio.run(whole())


@given(st.binary(max_size=300), st.integers(1, 40))
def test_a_parcel_is_read_back_with_what_follows_it(content, size):
    body = parcels.packed(FINDING) + content
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    assert read(pieces) == (FINDING, content)


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_bytes_are_a_parcel_or_are_refused(pieces):
    try:
        read(pieces)
    except InvalidArgument as refusal:
        assert refusal.reason == "FIELD_INVALID"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0",
        parcels.packed(FINDING)[:-1],
        (parcels.MAX_PARCEL + 1).to_bytes(4) + b"x",
        (3).to_bytes(4) + b"\xff\xff\xff",
    ],
    ids=["empty", "shorter than its length", "cut off", "too long", "no message"],
)
def test_what_is_no_parcel_is_refused(body):
    with pytest.raises(InvalidArgument, match="FIELD_INVALID"):
        read([body])


def test_a_foreign_unit_has_a_name_here_that_nobody_can_take_and_of_its_member_only():
    city, other = "subsystems/FI~MUN~1~solmu", "subsystems/FI~MUN~2~solmu"
    name = parcels.unit_id(city, "permits")
    assert name == parcels.unit_id(city, "permits")
    assert len({name, parcels.unit_id(other, "permits"), parcels.unit_id(city, "other")}) == 3
    assert name[0].isdigit(), "no unit that is made here begins so"
    assert parcels.member(city) == "members/FI~MUN~1"


def test_nodes_are_read_from_the_setting():
    assert parcels.nodes("FI/COM/2/solmu, FI/COM/3/solmu") == ("subsystems/FI~COM~2~solmu", "subsystems/FI~COM~3~solmu")
    assert parcels.nodes("") == ()
    with pytest.raises(ValueError, match="is not a list"):
        parcels.nodes("FI/COM/2/letters")
