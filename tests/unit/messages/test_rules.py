"""Rules of deliveries, mailboxes and file names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.messages import deliveries, files, mailboxes
from services.messages.deliveries import Delivery, State, opened
from services.messages.mailboxes import Mailbox
from services.runtime.errors import FailedPrecondition, InvalidArgument

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=10))
def test_the_first_opening_counts_however_often_it_is_opened(seconds: list[int]):
    delivery = Delivery(State.AVAILABLE)
    for later in seconds:
        delivery = opened(delivery, now=NOW + timedelta(seconds=later))
    assert delivery == Delivery(State.OPENED, NOW + timedelta(seconds=seconds[0]))


@pytest.mark.parametrize(("state", "reason"), [(State.QUEUED, "MESSAGE_STATE"), (State.WITHDRAWN, "MESSAGE_WITHDRAWN")])
def test_what_is_not_available_is_not_opened(state: State, reason: str):
    with pytest.raises(FailedPrecondition) as refused:
        opened(Delivery(state), now=NOW)
    assert refused.value.reason == reason


def test_states_have_the_contracts_numbers():
    from solmu.messages.v1 import mailboxes_pb2, messages_pb2

    for state in deliveries.State:
        assert int(messages_pb2.Delivery.State.Value(f"STATE_{state.name}")) == int(state)
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


def test_the_same_letters_make_the_same_name():
    assert files.file_name("pa\u0308a\u0308to\u0308s.pdf") == "päätös.pdf"
