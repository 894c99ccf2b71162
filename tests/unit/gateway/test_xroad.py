"""X-Road's form of calls and refusals."""

import json
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.xroad import errors, requests
from gateway.adapters.xroad.errors import BadRequestError, Style
from services.runtime.errors import PermissionDenied

CLIENT = [("X-Road-Client", b"FI/MUN/1/letters")]


def made(code="Server.ServerProxy.AccessDenied", accept="", style=Style.CAMEL):
    return errors.refusal(code, "no <right>", detail="7", accept=accept, style=style)


def test_codes_are_spelt_in_both_styles():
    assert made().code == "Server.ServerProxy.AccessDenied"
    assert made(style=Style.SNAKE).code == "server.serverproxy.access_denied"
    assert errors.snake("Server.ClientProxy.SslAuthenticationFailed") == "server.clientproxy.ssl_authentication_failed"
    assert errors.snake("Server.ServerProxy.ServiceFailed.HttpError") == "server.serverproxy.service_failed.http_error"
    assert errors.snake(errors.BAD_REQUEST) == "client.bad_request"


def test_servers_refuse_with_500_and_wrong_clients_get_400():
    assert (made().status, made(errors.BAD_REQUEST).status) == (500, 400)
    assert (made(style=Style.SNAKE).status, made(errors.BAD_REQUEST, style=Style.SNAKE).status) == (500, 400)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/*", "text/xml"),
        ("application/xml;q=0.1, application/json", "application/xml"),
        ("application/json, text/xml", "application/json"),
    ],
)
def test_the_first_type_that_fits_is_given(accept, media_type):
    refusal = made(accept=accept)
    assert refusal.content_type == f"{media_type};charset=utf-8"
    if media_type == "application/json":
        assert json.loads(refusal.body)["message"] == "no <right>"
    else:
        assert b"<message>no &lt;right&gt;</message>" in refusal.body


def test_reasons_say_on_which_side_they_arose():
    assert errors.code_of(PermissionDenied("ACCESS_DENIED", "", side="provider")) == "Server.ServerProxy.AccessDenied"
    assert errors.code_of(PermissionDenied("ACCESS_DENIED", "", side="consumer")) == "Server.ClientProxy.AccessDenied"
    assert errors.code_of(PermissionDenied("SOMETHING_ELSE", "")) == "Server.ClientProxy.InternalError"


def test_a_call_is_read_with_path_and_query_as_they_are():
    call = requests.read("GET", b"/r1/FI/COM/2/re%20g/ser%2Fvice/a%2Fb/?c=%zz", CLIENT)
    assert call.service == ("FI", "COM", "2", "re g", "ser/vice")
    assert call.target == b"/a%2Fb/?c=%zz"
    assert requests.name_of("subsystems", call.service[:4]) == "subsystems/FI~COM~2~re%20g"


@pytest.mark.parametrize(
    "path",
    [b"/r2/FI/COM/2/a/b", b"/r1/FI/COM/2/a", b"/r1/FI/COM//a/b", b"/r1/FI/COM/../a/b", b"/r1/FI/COM/2/a/%ff", b"x"],
)
def test_what_is_no_path_of_the_protocol_is_refused(path):
    with pytest.raises(BadRequestError):
        requests.read("GET", path, CLIENT)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("X-Road-Client", b"FI/MUN/1")],
        [*CLIENT, ("X-Road-Security-Server", b"FI/MUN/1")],
        [*CLIENT, ("X-Road-Represented-Party", b"a/b/c")],
        [("X-Road-Client", b"FI/MUN/1/\xff")],
    ],
)
def test_headers_that_are_malformed_or_missing_are_refused(headers):
    with pytest.raises(BadRequestError):
        requests.read("GET", b"/r1/FI/COM/2/a/b", headers)


def test_of_headers_that_stand_twice_the_last_counts():
    call = requests.read("GET", b"/r1/FI/COM/2/a/b", [("x-road-client", b"FI/MUN/1/first"), *CLIENT])
    assert call.client == ("FI", "MUN", "1", "letters")
    assert call.target == b"/"


_wild = st.one_of(
    st.binary(max_size=20), st.sampled_from([b"", b"..", b"%2e%2e", b"%2F", b"%00", b"%zz", b"a~b", b"\xff"])
)
_headers = st.lists(
    st.tuples(
        st.sampled_from(
            ["X-Road-Client", "x-road-client", "X-ROAD-ID", "X-Road-Security-Server", "X-Road-Represented-Party",
             "x-road-request-id", "X-Road-Request-Hash", "Transfer-Encoding", "Host", "Accept", "Solmu-Principal"]
        ),
        st.one_of(_wild, st.lists(_wild, max_size=6).map(b"/".join), st.just(b"FI/MUN/1/letters")),
    ),
    max_size=8,
)  # fmt: skip


@given(st.lists(_wild, max_size=9).map(b"/".join), st.booleans(), _headers)
def test_any_path_and_headers_are_a_call_that_names_one_service_or_refused(path, right, headers):
    path = b"/r1/" + path if right else path
    try:
        call = requests.read("GET", path, headers)
    except BadRequestError as error:
        assert str(error).isascii(), "nothing of the call stands in the refusal"
        return
    assert path.endswith(call.target.removeprefix(b"/"))
    assert len(call.service) == 5
    for parts in (call.service, call.client, *([call.node] if call.node else [])):
        name = requests.name_of("subsystems", parts)
        assert name.count("/") == 1
        assert [unquote(part) for part in name.partition("/")[2].split("~")] == list(parts)
    assert not {name.lower() for name, _ in call.headers} & requests.DROPPED
    assert len(requests.RequestHash().value(call, exchange_id="e", message_id="m")) == 88


# What `openssl dgst -sha512 -binary` says of bytes that were written by hand from PR-REST, sections 4.3 and 4.6:
#   printf 'GET\r\n/r1/...\r\nName:Value\r\n...x-road-request-id:...\r\n'   by itself where there is no body, else
#   (openssl dgst -sha512 -binary part; openssl dgst -sha512 -binary body) | openssl dgst -sha512 -binary
EXCHANGE = "5f2a1b7e-0000-4000-8000-000000000001"
DROPPED = [("Host", b"localhost"), ("User-Agent", b"me"), ("Content-Length", b"6"), ("X-Road-Request-Hash", b"forged")]


def test_the_request_hash_of_a_call_without_a_body_is_what_openssl_makes_of_it():
    headers = [*CLIENT, *DROPPED, ("X-Road-Id", b"case-7"), ("Accept", b"application/json")]
    call = requests.read("GET", b"/r1/FI/COM/2/register/persons/7?full=1", headers)
    assert requests.RequestHash().value(call, exchange_id=EXCHANGE, message_id="case-7") == (
        "qRu9gzlUHIODHRvxHaWfcLLTrMNrXQjvNBFCTdknaEKBNtwj061NzLhoBLf+onxwxc4Ncc/b28NsegH8b2lT6Q=="
    )


def test_the_request_hash_of_a_call_with_a_body_is_what_openssl_makes_of_both():
    headers = [*CLIENT, ("Content-Type", b"text/plain"), *DROPPED]
    call = requests.read("POST", b"/r1/FI/COM/2/register/persons/%C3%A4?", headers)
    digest = requests.RequestHash()
    for chunk in (b"hy", "vä\n".encode()):
        digest.update(chunk)
    assert digest.value(call, exchange_id=EXCHANGE, message_id="FI-1") == (
        "lS8v/cDIombkl2ULR9kU1SOCiGm2agavVmNsjHc7zMeGVgbMpK0B9PnFBhc33/zvFfh5GfSq6nrQZCpldOdfEQ=="
    )
