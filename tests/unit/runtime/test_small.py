"""Page tokens, ids, the mesh, statuses and log lines."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import uuid
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.runtime import errors, ids, mesh, pages, status, telemetry
from services.runtime.errors import FailedPrecondition, Fault, InvalidArgument


def test_a_page_token_goes_on_where_it_was_made():
    token = pages.token("units/abc", question="q")
    assert pages.key(token, question="q") == "units/abc"
    assert pages.key("", question="q") == ""


@pytest.mark.parametrize("token", ["x", "{}", "WzFd", pages.token("a", question="another"), "é", "A" * 5000])
def test_a_page_token_of_something_else_is_refused(token: str):
    with pytest.raises(InvalidArgument) as refused:
        pages.key(token, question="q")
    assert refused.value.reason == "NAME_INVALID"


def test_ids_sort_by_the_time_they_were_made():
    made = [ids.new_id() for _ in range(10_000)]
    assert made == sorted(set(made))
    assert {(one.version, one.variant) for one in made} == {(7, uuid.RFC_4122)}


def test_ids_that_belong_together_follow_each_other():
    before, run, after = ids.new_id(), ids.new_ids(4), ids.new_id()
    assert [one.int - run[0].int for one in run] == [0, 1, 2, 3]
    assert before < run[0]
    assert run[-1] < after
    assert ids.new_ids(0) == []


@given(st.uuids())
def test_an_id_is_read_as_it_is_written(one: uuid.UUID):
    assert ids.id_of(str(one)) == one


@pytest.mark.parametrize("written", ["", "-" * 36, "a" * 36, "0" * 31 + "-" * 5, "é" * 36])
def test_what_is_no_id_is_not_read(written: str):
    with pytest.raises(ValueError):  # noqa: PT011  # whatever the library says
        ids.id_of(written)


async def test_a_stream_that_breaks_while_it_is_written_is_a_broken_connection():
    silent = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    address = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    async with silent, grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.stream_unary("/a.Service/Method")()
        call._cython_call.set_internal_error("as where a message could not be written")
        with pytest.raises(grpc.aio.AioRpcError) as broken:
            await call._raise_for_status()
        call.cancel()
    assert broken.value.code() is grpc.StatusCode.INTERNAL
    assert status.fault_of(broken.value).code == "UNAVAILABLE"


def test_a_service_exports_its_events_to_those_who_consume_them():
    assert mesh.consumers("messages") == ()
    assert set(mesh.consumers("authorisations")) == {"messages", "exchange"}
    assert mesh.api_prefix("authorisations") == "JS.authorisations.API"


def test_a_fault_travels_as_a_status_and_comes_back():
    fault = FailedPrecondition(
        "MAILBOX_NOT_ACTIVE", "no mailbox", violations=[("a.b", "is wrong")], retry_after=1.5, message="units/x"
    )
    told = status.to_status(fault, service="messages")
    info = error_details_pb2.ErrorInfo()
    assert told.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("MAILBOX_NOT_ACTIVE", "messages.solmu")
    back = status.from_status(told)
    assert type(back) is FailedPrecondition
    assert (back.reason, back.message, back.violations, back.retry_after, back.metadata) == (
        fault.reason,
        fault.message,
        fault.violations,
        fault.retry_after,
        fault.metadata,
    )


_details = st.one_of(
    st.builds(
        error_details_pb2.ErrorInfo,
        reason=st.one_of(st.text(max_size=70), st.sampled_from(["ACCESS_DENIED", "A\n", "\0"])),
        metadata=st.dictionaries(
            st.one_of(st.text(max_size=8), st.sampled_from(["violations", "retry_after", "self", "reason", "side"])),
            st.text(max_size=8),
            max_size=3,
        ),
    ),
    st.builds(
        error_details_pb2.RetryInfo,
        retry_delay=st.builds(
            duration_pb2.Duration, seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-(2**31), 2**31 - 1)
        ),
    ),
)


@st.composite
def strange_statuses(draw) -> status_pb2.Status:
    """What another node may answer that is not as it should be."""
    made = status_pb2.Status(code=draw(st.integers(-(2**31), 2**31 - 1)), message=draw(st.text(max_size=20)))
    for detail in draw(st.lists(_details, max_size=3)):
        packed = made.details.add()
        packed.Pack(detail)
        if draw(st.booleans()):
            packed.value = draw(st.binary(max_size=20))
    return made


@given(strange_statuses())
def test_any_status_of_others_is_a_fault_with_a_reason_that_can_be_one(strange):
    fault = status.from_status(strange)
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{0,61}[A-Z0-9]", fault.reason)
    assert fault.retry_after is None or fault.retry_after >= 0
    told = status.to_status(fault, service="exchange")
    assert told.code in code_pb2.Code.values()


def test_shared_reasons_have_the_nodes_domain():
    told = status.to_status(errors.not_found("units/x"), service="messages")
    info = error_details_pb2.ErrorInfo()
    told.details[0].Unpack(info)
    assert info.domain == "node.solmu"


def test_a_reason_that_is_not_documented_does_not_leave():
    told = status.to_status(InvalidArgument("MADE_UP", "secret"), service="messages")
    assert told.code == 13
    assert "secret" not in str(told)


def test_every_kind_of_fault_is_a_canonical_code():
    assert {kind.code for kind in Fault.__subclasses__()} == set(errors.BY_CODE)


def test_a_log_line_tells_where_an_exception_came_from_but_not_what_it_said():
    try:
        try:
            raise ValueError("row (hetu)=(131052-308T)")
        except ValueError as cause:
            raise RuntimeError("Matti Meikäläinen") from cause
    except RuntimeError:
        record = logging.getLogger("x").makeRecord(
            "x", logging.ERROR, __file__, 1, "failed", (), __import__("sys").exc_info(), extra={"error_id": "e1"}
        )
    line = json.loads(telemetry.JsonLines("messages").format(record))
    assert (line["message"], line["error_id"], line["service"]) == ("failed", "e1", "messages")
    assert [entry for entry in line["exception"] if not entry.startswith(" ")] == [
        "builtins.RuntimeError",
        "builtins.ValueError",
    ]
    assert "131052" not in json.dumps(line)
    assert "Matti" not in json.dumps(line, ensure_ascii=False)
