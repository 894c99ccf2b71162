"""Calls that the other side ends while they are written: what it said is heard, at whatever moment the writing fails."""

import asyncio
import random

import grpc
import pytest

from services.runtime.streams import NotWantedError, Stream

MESSAGE = bytes(20_000)
TRAILERS = (("reason", "enough"),)


async def _answers(requests, context):
    async for _ in requests:
        await asyncio.sleep(random.random() * 0.002)
        yield b"answered"
        context.set_trailing_metadata(TRAILERS)
        return


async def _refuses(requests, context):
    async for _ in requests:
        await asyncio.sleep(random.random() * 0.002)
        yield b"answered"
        await context.abort(grpc.StatusCode.NOT_FOUND, "nothing of that name", TRAILERS)


async def _one(requests, context):
    async for _ in requests:
        await asyncio.sleep(random.random() * 0.002)
        await context.abort(grpc.StatusCode.NOT_FOUND, "nothing of that name", TRAILERS)
    return b"answered"


@pytest.fixture(scope="module")
async def channel():
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler] = {
        "Answers": grpc.stream_stream_rpc_method_handler(_answers),
        "Refuses": grpc.stream_stream_rpc_method_handler(_refuses),
        "One": grpc.stream_unary_rpc_method_handler(_one),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


async def write(stream):
    """Writes on and on, until nothing is wanted any more."""
    while True:
        await stream.write(MESSAGE)


async def read(stream):
    """What was answered, and how it ended: the error's code, text and trailers, or nothing."""
    found = []
    try:
        async for message in stream.answers():
            found.append(message)
    except grpc.aio.AioRpcError as error:
        return found, (error.code(), error.details(), tuple(error.trailing_metadata()))
    return found, None


REFUSAL = (grpc.StatusCode.NOT_FOUND, "nothing of that name", TRAILERS)


@pytest.mark.parametrize(("method", "end"), [("Answers", None), ("Refuses", REFUSAL)])
@pytest.mark.parametrize("late", [True, False], ids=["read after the writing failed", "read meanwhile"])
async def test_what_was_answered_is_heard_whatever_becomes_of_the_writing(channel, method, end, late):
    for _ in range(30):
        stream = Stream(channel.stream_stream(f"/test.Service/{method}")())
        writing = asyncio.create_task(write(stream))
        if late:
            await asyncio.wait({writing})
        assert await read(stream) == ([b"answered"], end)
        code, details, trailers = end or (grpc.StatusCode.OK, "", TRAILERS)
        assert tuple(await stream.status()) == (code, details, grpc.aio.Metadata(*trailers))
        with pytest.raises(NotWantedError):
            await writing


async def test_the_refusal_of_a_call_with_one_answer_is_heard(channel):
    for _ in range(30):
        stream = Stream(channel.stream_unary("/test.Service/One")())
        with pytest.raises(NotWantedError):
            await write(stream)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stream.answer()
        assert (error.value.code(), error.value.details(), tuple(error.value.trailing_metadata())) == REFUSAL


async def test_a_connection_that_breaks_is_told_from_a_refusal(channel):
    """Nobody listens: there is no status of the other side, and none is made up."""
    async with grpc.aio.insecure_channel("127.0.0.1:1") as nobody:
        stream = Stream(nobody.stream_stream("/test.Service/Answers")())
        with pytest.raises(NotWantedError):
            await write(stream)
        found, end = await read(stream)
        assert (found, end[0]) == ([], grpc.StatusCode.UNAVAILABLE)


async def test_a_task_that_is_cancelled_while_it_writes_ends(channel):
    stream = Stream(channel.stream_stream("/test.Service/Answers")())
    writing = asyncio.create_task(write(stream))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    stream.cancel()
