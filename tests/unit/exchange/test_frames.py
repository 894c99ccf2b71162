"""Frames of calls and of what is brought: in their order they are read as they came, in any other refused."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solmu.exchange.v1 import calls_pb2, peer_frames_pb2

from services.exchange.frames import Frames
from services.exchange.servicers.peer_deliveries import _Items
from services.runtime.errors import Fault

ExchangeRequest = peer_frames_pb2.ExchangeRequest
KINDS = [ExchangeRequest, peer_frames_pb2.ExchangeResponse, calls_pb2.CallRequest]
STEPS = ["head", "whole", "chunk", "end", "nothing", "unknown"]


def frame(kind, step: str, chunk: bytes):
    """A frame; "unknown" has a field that nobody knows, and nothing else."""
    if step == "unknown":
        return kind.FromString(b"\xfa\x3e\x02hi")
    made = kind()
    if step in {"head", "whole"}:
        made.head.SetInParent()
    if step == "whole":
        made.head.body = chunk
    if step == "chunk":
        made.chunk = chunk
    if step == "end":
        made.end.SetInParent()
    return made


async def read(frames) -> tuple[bytes, bool]:
    """The body, and whether an end came with it. Raises Fault."""
    await frames.head()
    return b"".join([chunk async for chunk in frames.chunks()]), frames.end is not None


async def stream(items):
    for item in items:
        yield item


def expected(steps) -> tuple[bytes, bool] | None:
    """What an order of frames says, by the contract; None where it is none."""
    kinds = [step for step, _ in steps]
    if kinds[:1] == ["whole"]:
        return steps[0][1], False
    if kinds[:1] != ["head"] or "end" not in kinds:
        return None
    last = kinds.index("end")
    return (b"".join(chunk for _, chunk in steps[1:last]), True) if set(kinds[1:last]) <= {"chunk"} else None


orders = st.lists(st.tuples(st.sampled_from(STEPS), st.binary(max_size=5)), max_size=8)
good = st.builds(
    lambda chunks, after: [("head", b""), *(("chunk", chunk) for chunk in chunks), ("end", b""), *after],
    st.lists(st.binary(max_size=5), max_size=5),
    orders,
)


@pytest.mark.parametrize("kind", KINDS)
@given(steps=st.one_of(orders, good))
async def test_frames_are_read_in_their_order_or_refused(kind, steps) -> None:
    frames: Frames = Frames(stream([frame(kind, step, chunk) for step, chunk in steps]), side="peer")
    try:
        found = await read(frames)
    except Fault as fault:
        assert (fault.reason, expected(steps)) == ("FRAMES_INVALID", None)
    else:
        assert found == expected(steps)


@pytest.mark.parametrize("kind", KINDS)
@given(content=st.binary(max_size=120), step=st.sampled_from(["head", "end"]))
async def test_frames_of_any_bytes_are_read_or_refused(kind, content, step) -> None:
    """Where the bytes can be read as a message at all: what cannot, gRPC refuses before."""
    try:
        garbage = kind.FromString(content)
    except Exception:  # noqa: BLE001  # protobuf's own
        return
    before = [] if step == "head" else [frame(kind, "head", b"")]
    try:
        await read(Frames(stream([*before, garbage, frame(kind, "end", b"")]), side="peer"))
    except Fault as fault:
        assert fault.reason == "FRAMES_INVALID"


@pytest.mark.parametrize("before", [[], ["head"], ["head", "chunk"]])
async def test_who_stops_sending_is_left(before) -> None:
    async def stops():
        for step in before:
            yield frame(ExchangeRequest, step, b"a")
        await asyncio.Event().wait()

    frames: Frames = Frames(stops(), side="peer")
    frames.patience(0.01)
    with pytest.raises(Fault) as refusal:
        await read(frames)
    assert (refusal.value.reason, refusal.value.metadata["from"]) == ("STREAM_IDLE", "peer")


# What is brought: envelopes with their bodies, receipts


class Kept:
    """A body that is kept here."""

    def __init__(self) -> None:
        self.content = b""

    @property
    def size(self) -> int:
        return len(self.content)

    async def write(self, chunk: bytes) -> None:
        self.content += chunk


class Said:
    """A statement that says how long a body is."""

    def __init__(self, length: int) -> None:
        self.lines = {"body-bytes": str(length)}


def brought(step: str, chunk: bytes) -> peer_frames_pb2.DeliverRequest:
    made = peer_frames_pb2.DeliverRequest()
    if step == "chunk":
        made.chunk = chunk
    elif step != "nothing":
        getattr(made, step).SetInParent()
    return made


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["envelope", "chunk", "chunk", "chunk", "receipt", "nothing"]), st.binary(max_size=4)
        ),
        max_size=12,
    ),
    st.integers(0, 12),
)
async def test_a_body_is_the_chunks_after_its_envelope_whatever_length_was_said(steps, said) -> None:
    """What is longer is read on as what follows, never as the body of something else; what is shorter ends early."""
    items, body = _Items(stream([brought(*step) for step in steps])), Kept()
    await items.body(body, Said(said))  # type: ignore[arg-type]
    rest = [item async for item in items]
    chunks: list[bytes] = []
    for step, chunk in steps:
        if step != "chunk" or sum(map(len, chunks)) >= said:
            break
        chunks.append(chunk)
    assert body.content == b"".join(chunks)
    assert rest == [brought(*step) for step in steps[len(chunks) :]]


@given(st.lists(st.sampled_from(["envelope", "chunk", "receipt", "nothing"]), max_size=12))
async def test_a_body_that_nobody_wants_is_left_out_and_nothing_else(steps) -> None:
    items = _Items(stream([brought(step, b"a") for step in steps]))
    await items.skip()
    skipped = next((at for at, step in enumerate(steps) if step != "chunk"), len(steps))
    assert [item.WhichOneof("item") for item in [item async for item in items]] == [
        None if step == "nothing" else step for step in steps[skipped:]
    ]
