"""What the connector passes on, and from whom."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.connector import Connector, RefusedError, checked
from gateway.client.profile import Profile
from services.runtime import tls

FILES = tls.Files(Path("certificate.pem"), Path("key.pem"), Path("ca.pem"))
PROFILE = Profile(edge="https://edge.example:8443", client_id="permits", files=FILES, scopes=())


def head(*lines: str) -> bytes:
    return "\r\n".join(["GET /v1/units HTTP/1.1", *lines, "", ""]).encode()


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "localhost", "[::1]:8080"])
def test_a_program_on_this_machine_is_passed_on_as_it_is(host: str):
    sent = head(f"Host: {host}", "Authorization: Bearer x")
    assert checked(sent) == sent


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Host: evil.example:8080",),
        ("Host: localhost.evil.example",),
        ("Host: localhost:8080", "Origin: https://evil.example"),
        ("Host: localhost:8080", "Origin: null"),
        ("Host: localhost:8080", "Sec-Fetch-Site: cross-site"),
        ("Host: localhost:8080", "sec-fetch-site: same-site"),
        ("Host: localhost:8080", "Host: evil.example"),
        ("Host: localhost:8080@evil.example",),
    ],
)
def test_a_page_of_another_site_is_refused(lines: tuple[str, ...]):
    with pytest.raises(RefusedError) as refused:
        checked(head(*lines))
    assert b"CALLER_NOT_ALLOWED" in refused.value.answer()


def test_a_page_of_its_own_has_one_request_a_connection():
    sent = head("Host: localhost:1", "Connection: keep-alive", "Sec-Fetch-Site: same-origin")
    assert checked(sent) == head("Host: localhost:1", "Sec-Fetch-Site: same-origin", "connection: close")


@given(st.binary(max_size=200))
def test_no_head_breaks_it(content: bytes):
    try:
        assert checked(content + b"\r\n\r\n")
    except RefusedError:
        pass


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::"])  # noqa: S104 - refused
async def test_it_listens_on_loopback_only(host: str):
    with pytest.raises(ValueError, match="loopback"):
        Connector(PROFILE, host=host)
