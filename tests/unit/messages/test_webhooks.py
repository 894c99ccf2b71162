"""Where events may be posted, how posts are signed, and how long they are tried."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.messages import webhooks
from services.runtime.errors import InvalidArgument


@pytest.mark.parametrize(
    "uri",
    ["https://example.org/hook?a=b", "https://example.org:8443/", "https://93.184.216.34/", "https://[2606:2800::1]/"],
)
def test_public_addresses_are_taken(uri: str):
    webhooks.check_address(uri, private=False)


@pytest.mark.parametrize(
    "uri",
    [
        "http://example.org/",
        "https:///path",
        "https://user:word@example.org/",
        "https://example.org/#part",
        "https://example.org:99999/",
        "https://localhost/",
        "https://metadata.internal/",
        "https://printer.local./",
        "https://2130706433/",
        "https://127.0.0.1/",
        "https://10.1.2.3/",
        "https://169.254.169.254/latest",
        "https://100.64.0.1/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://[::1]/",
        "https://[fd00::1]/",
        "https://[fe80::1%25eth0]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "https://[2002:a00:1::]/",
    ],
)
def test_addresses_of_the_inside_are_refused(uri: str):
    with pytest.raises(InvalidArgument) as refused:
        webhooks.check_address(uri, private=False)
    assert refused.value.reason == "WEBHOOK_ADDRESS_REFUSED"


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text: str):
    try:
        webhooks.check_address(f"https://{text}", private=False)
    except InvalidArgument as refused:
        assert refused.reason == "WEBHOOK_ADDRESS_REFUSED"


def test_a_post_is_signed_as_standard_webhooks_has_it():
    secret, body = bytes(range(32)), b'{"specversion":"1.0"}'
    made = webhooks.headers(body, event_id="e1", secret=secret, now=datetime(2026, 3, 1, tzinfo=UTC))
    assert made["webhook-timestamp"] == "1772323200"
    key = base64.b64decode(webhooks.shown(secret).removeprefix("whsec_"))
    expected = base64.b64encode(hmac.digest(key, b"e1.1772323200." + body, hashlib.sha256)).decode()
    assert made["webhook-signature"] == f"v1,{expected}"


def test_tries_come_ever_later_and_end():
    waits = [webhooks.next_try(attempts) for attempts in range(1, len(webhooks.RETRIES) + 2)]
    assert waits[-1] is None
    told = [wait for wait in waits if wait is not None]
    assert told == sorted(told)
    assert timedelta(hours=12) < sum(told, timedelta()) < timedelta(hours=24)


def test_an_address_that_is_gone_is_left_alone():
    assert webhooks.suspended(1, status=410)
    assert webhooks.suspended(webhooks.MAX_FAILURES, status=500)
    assert not webhooks.suspended(webhooks.MAX_FAILURES - 1, status=500)
