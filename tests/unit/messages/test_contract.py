"""What the contract of messages itself holds: who may call what, and the form of what is sent."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from solmu.messages.v1 import (
    attachments_pb2,
    contacts_pb2,
    feed_pb2,
    inbox_pb2,
    letters_pb2,
    mailboxes_pb2,
    messages_pb2,
    numbers_pb2,
    templates_pb2,
    units_pb2,
)
from solmu.options.v1 import access_pb2
from solmu.types.v1.types_pb2 import LocalizedText

from services.runtime import validation
from services.runtime.errors import InvalidArgument

FILES = (
    attachments_pb2,
    contacts_pb2,
    feed_pb2,
    inbox_pb2,
    letters_pb2,
    mailboxes_pb2,
    messages_pb2,
    numbers_pb2,
    templates_pb2,
    units_pb2,
)
METHODS: dict[str, MethodDescriptor] = {
    method.name: method
    for file in FILES
    for service in descriptor_pool.Default().FindFileByName(file.DESCRIPTOR.name).services_by_name.values()
    for method in service.methods
}


def access(name: str) -> access_pb2.Access:
    return METHODS[name].GetOptions().Extensions[access_pb2.access]


def holders_of(scope: str) -> set[str]:
    return {name for name in METHODS if scope in access(name).scopes}


def test_who_is_enrolled_is_asked_with_a_scope_that_opens_nothing_else():
    assert list(access("LookUpMailboxes").scopes) == ["mailboxes.lookup"]
    assert holders_of("mailboxes.lookup") == {"LookUpMailboxes"}


def test_letters_are_for_print_houses_alone():
    assert holders_of("letters.print") == {"ClaimLetters", "GetLetter", "ReportLetters"}


def test_what_is_the_owners_own_to_decide_is_open_to_nobody_on_its_behalf():
    own = {"OpenMailbox", "CloseMailbox", "OptOut", "ExportMailbox", "GetMailboxExport", "ListAccesses"}
    assert not {name for name in own if access(name).on_behalf}
    assert {"ListInboxMessages", "OpenInboxMessage", "ConfirmReceipt", "WriteToUnit"} <= {
        name for name in METHODS if access(name).on_behalf
    }


@pytest.mark.parametrize(
    ("uri", "taken"),
    [
        ("https://city.example/pay?invoice=7", True),
        ("http://city.example/pay", False),
        ("javascript:alert(1)", False),
        ("https:city.example", False),
        ("", False),
    ],
)
def test_an_action_leads_to_an_https_address_only(uri: str, taken: bool) -> None:
    action = messages_pb2.Action(labels=[LocalizedText(language="en", text="Pay")], uri=uri)
    if taken:
        validation.check(action)
        return
    with pytest.raises(InvalidArgument) as refused:
        validation.check(action)
    assert {field for field, _ in refused.value.violations} == {"uri"}
