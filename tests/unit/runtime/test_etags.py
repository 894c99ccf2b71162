from typing import Any

import pytest
from solmu.messages.v1 import mailboxes_pb2, units_pb2

from services.runtime.errors import InvalidArgument
from services.runtime.etags import Tags


def tags(request: Any, response: Any) -> Tags:
    return Tags(request.DESCRIPTOR, response.DESCRIPTOR)


UPDATE = tags(units_pb2.UpdateUnitRequest, units_pb2.Unit)
CLOSE = tags(mailboxes_pb2.CloseMailboxRequest, mailboxes_pb2.Mailbox)


@pytest.mark.parametrize("header", ['"7"', 'W/"7"', "7"])
def test_if_match_stands_where_the_method_looks_for_it(header: str):
    update, close = units_pb2.UpdateUnitRequest(), mailboxes_pb2.CloseMailboxRequest()
    UPDATE.take(update, {"if-match": header})
    CLOSE.take(close, {"if-match": header})
    assert (update.unit.etag, close.etag) == ("7", "7")


def test_any_version_is_no_tag_and_a_tag_in_the_body_goes_first():
    close = mailboxes_pb2.CloseMailboxRequest()
    CLOSE.take(close, {"if-match": "*"})
    assert close.etag == ""
    close.etag = "6"
    CLOSE.take(close, {"if-match": '"7"'})
    assert close.etag == "6"


def test_a_condition_that_nobody_checks_is_refused():
    get = tags(units_pb2.GetUnitRequest, units_pb2.Unit)
    with pytest.raises(InvalidArgument) as refused:
        get.take(units_pb2.GetUnitRequest(), {"if-match": '"7"'})
    assert refused.value.reason == "FIELD_INVALID"


def test_an_answer_tells_its_version_in_the_header_too():
    assert UPDATE.header(units_pb2.Unit(etag="8")) == (("etag", '"8"'),)
    assert UPDATE.header(units_pb2.Unit()) == ()
    listing = tags(units_pb2.ListUnitsRequest, units_pb2.ListUnitsResponse)
    assert listing.header(units_pb2.ListUnitsResponse()) == ()
