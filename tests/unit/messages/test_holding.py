"""Messages that wait for their attachments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solmu.messages.v1 import attachments_pb2

from services.messages.holding import Outcome, State, settled, waits
from services.runtime.errors import FailedPrecondition


def test_states_have_the_contracts_numbers():
    for state in State:
        assert int(attachments_pb2.Attachment.State.Value(f"STATE_{state.name}")) == int(state)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (None, "ATTACHMENT_NOT_READY"),
        (State.RESERVED, "ATTACHMENT_NOT_READY"),
        (State.PURGED, "ATTACHMENT_NOT_READY"),
        (State.INFECTED, "ATTACHMENT_INFECTED"),
        (State.SCAN_FAILED, "ATTACHMENT_SCAN_FAILED"),
    ],
)
def test_what_can_never_be_delivered_is_refused_at_once(state: State | None, reason: str):
    with pytest.raises(FailedPrecondition) as refused:
        waits(state, attachment="attachments/a")
    assert (refused.value.reason, refused.value.metadata) == (reason, {"attachment": "attachments/a"})


def test_only_a_scan_is_waited_for():
    assert waits(State.SCANNING, attachment="a")
    assert not waits(State.CLEAN, attachment="a")


JUDGED = st.sampled_from([State.SCANNING, State.CLEAN, State.INFECTED, State.SCAN_FAILED])


@given(st.lists(JUDGED, min_size=1), st.booleans())
def test_a_message_is_released_only_if_all_is_clean_and_somebody_can_have_it(states: list[State], deliverable: bool):
    outcome = settled(states, deliverable=deliverable)
    released = outcome == Outcome()
    assert released == (set(states) == {State.CLEAN} and deliverable)
    assert (outcome is None) == (set(states) <= {State.SCANNING, State.CLEAN} and State.SCANNING in states)
    assert settled(list(reversed(states)), deliverable=deliverable) == outcome
