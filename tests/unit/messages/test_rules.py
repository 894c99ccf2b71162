"""Rules of mailboxes and file names, and that rules and contract number their states alike."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.messages import deliveries, files, legal, lifecycle, mailboxes
from services.messages.mailboxes import Mailbox
from services.runtime.errors import FailedPrecondition, InvalidArgument

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_states_have_the_contracts_numbers():
    from solmu.messages.v1 import mailboxes_pb2, messages_pb2

    for enum, contract, prefix in (
        (deliveries.State, messages_pb2.Delivery.State, "STATE_"),
        (deliveries.Channel, messages_pb2.Delivery.Channel, "CHANNEL_"),
        (lifecycle.State, messages_pb2.Message.State, "STATE_"),
        (legal.Kind, messages_pb2.Message.Kind, "KIND_"),
        (legal.State, messages_pb2.LegalEffect.State, "STATE_"),
        (legal.Basis, messages_pb2.LegalEffect.Basis, "BASIS_"),
    ):
        assert {f"{prefix}{member.name}": int(member) for member in enum if member} == {
            name: number for name, number in contract.items() if number
        }
    for mailbox_state in mailboxes.State:
        assert int(mailboxes_pb2.Mailbox.State.Value(f"STATE_{mailbox_state.name}")) == int(mailbox_state)


def mailbox_in(state: mailboxes.State, opt_out_end_time: datetime | None = None) -> Mailbox:
    return Mailbox(UUID(int=1), state, b"key", opt_out_end_time)


@pytest.mark.parametrize(
    ("mailbox", "receives"),
    [
        (None, False),
        (mailbox_in(mailboxes.State.OPEN), True),
        (mailbox_in(mailboxes.State.CLOSED), False),
        (mailbox_in(mailboxes.State.ERASED), False),
        (mailbox_in(mailboxes.State.OPTED_OUT, NOW + timedelta(seconds=1)), False),
        (mailbox_in(mailboxes.State.OPTED_OUT, NOW), True),
        (mailbox_in(mailboxes.State.OPTED_OUT), False),
    ],
)
def test_an_open_mailbox_receives_and_an_opt_out_ends_by_itself(mailbox: Mailbox | None, receives: bool):
    if receives:
        assert mailboxes.receiving(mailbox, now=NOW) is mailbox
    else:
        with pytest.raises(FailedPrecondition) as refused:
            mailboxes.receiving(mailbox, now=NOW)
        assert refused.value.reason == "MAILBOX_NOT_ACTIVE"


@given(st.text(max_size=40))
def test_a_name_that_is_taken_can_be_saved_anywhere(name: str):
    try:
        taken = files.file_name(name)
    except InvalidArgument as refused:
        assert refused.reason == "FILE_NAME_INVALID"
    else:
        assert not set(taken) & set('/\\:*?"<>|')
        assert taken not in ("", ".", "..")
        assert files.file_name(taken) == taken


@pytest.mark.parametrize(("size", "received"), [(0, files.MAX_BYTES), (10, 10)])
def test_what_is_larger_than_reserved_or_than_two_gibibytes_is_refused_as_it_comes(size: int, received: int):
    assert files.MAX_BYTES == 2 * 1024**3
    files.not_beyond(received, size=size)
    with pytest.raises(InvalidArgument) as refused:
        files.not_beyond(received + 1, size=size)
    assert refused.value.reason == "ATTACHMENT_SIZE_MISMATCH"


def test_the_same_letters_make_the_same_name():
    assert files.file_name("pa\u0308a\u0308to\u0308s.pdf") == "päätös.pdf"
