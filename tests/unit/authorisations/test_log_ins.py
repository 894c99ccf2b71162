"""The rules of log-ins: one test per defect of a pushed request, and of a code."""

import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from services.authorisations import log_ins
from services.authorisations.log_ins import LogIn, Request
from services.runtime.errors import Fault, InvalidArgument
from tests.unit.authorisations.builders import NOW, client

BACK = "https://portal.example/back"
VERIFIER = "v" * 43
PORTAL = replace(
    client("portal"), redirect_uris=(BACK, "http://127.0.0.1:8445/"), scopes=("mailbox.read", "mailbox.write")
)
PROVIDERS = ("identityProviders/first", "identityProviders/second")
PERSON = "persons/" + "p" * 26


def request(**changes: str) -> Request:
    values = {
        "response_type": "code",
        "redirect_uri": BACK,
        "scope": "mailbox.read",
        "state": "xyz",
        "code_challenge": log_ins.s256(VERIFIER),
        "code_challenge_method": "S256",
        "acr_values": "",
        "ui_locales": "fi sv",
        "prompt": "",
        "identity_provider": "",
    }
    return Request(**values | changes)


def pushed(**changes: str) -> LogIn:
    return log_ins.pushed(request(**changes), PORTAL, providers=PROVIDERS, log_in=uuid.uuid4(), now=NOW)


def finished(**changes: Any) -> LogIn:
    values: dict[str, Any] = {"party": PERSON, "expire_time": NOW + log_ins.CODE_LIFETIME}
    return replace(pushed(), **values | changes)


def test_a_request_in_order_waits_a_minute_for_the_browser() -> None:
    log_in = pushed()
    assert (log_in.client_id, log_in.provider) == ("portal", PROVIDERS[0])
    assert log_in.expire_time == NOW + timedelta(seconds=60)
    assert pushed(identity_provider=PROVIDERS[1], prompt="login", scope="").provider == PROVIDERS[1]


@pytest.mark.parametrize(
    ("defect", "reason"),
    [
        ({"response_type": ""}, "OAUTH_UNSUPPORTED_RESPONSE_TYPE"),
        ({"response_type": "token"}, "OAUTH_UNSUPPORTED_RESPONSE_TYPE"),
        ({"response_type": "code id_token"}, "OAUTH_UNSUPPORTED_RESPONSE_TYPE"),
        ({"redirect_uri": ""}, "REDIRECT_URI_UNKNOWN"),
        ({"redirect_uri": BACK + "/"}, "REDIRECT_URI_UNKNOWN"),
        ({"redirect_uri": BACK + "?a=b"}, "REDIRECT_URI_UNKNOWN"),
        ({"redirect_uri": BACK.upper()}, "REDIRECT_URI_UNKNOWN"),
        ({"redirect_uri": "http://127.0.0.1:8446/"}, "REDIRECT_URI_UNKNOWN"),
        ({"code_challenge_method": ""}, "OAUTH_INVALID_REQUEST"),
        ({"code_challenge_method": "plain"}, "OAUTH_INVALID_REQUEST"),
        ({"code_challenge": ""}, "OAUTH_INVALID_REQUEST"),
        ({"code_challenge": "a" * 42}, "OAUTH_INVALID_REQUEST"),
        ({"code_challenge": "a" * 42 + "="}, "OAUTH_INVALID_REQUEST"),
        ({"state": "a\r\nset-cookie: b"}, "OAUTH_INVALID_REQUEST"),
        ({"acr_values": "\x00"}, "OAUTH_INVALID_REQUEST"),
        ({"ui_locales": "fi\n"}, "OAUTH_INVALID_REQUEST"),
        ({"prompt": "none"}, "OAUTH_INVALID_REQUEST"),
        ({"identity_provider": "identityProviders/third"}, "OAUTH_INVALID_REQUEST"),
        ({"scope": "clients.manage"}, "OAUTH_INVALID_SCOPE"),
        ({"scope": "mailbox.read openid"}, "OAUTH_INVALID_SCOPE"),
        ({"scope": "mailbox.read  mailbox.write"}, "OAUTH_INVALID_SCOPE"),
    ],
)
def test_a_defect_begins_nothing(defect: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        pushed(**defect)
    assert refusal.value.reason == reason


def test_a_client_that_sends_people_nowhere_begins_no_log_in() -> None:
    system = replace(PORTAL, redirect_uris=())
    with pytest.raises(Fault) as refusal:
        log_ins.pushed(request(), system, providers=PROVIDERS, log_in=uuid.uuid4(), now=NOW)
    assert (refusal.value.code, refusal.value.reason) == ("PERMISSION_DENIED", "OAUTH_UNAUTHORIZED_CLIENT")


def test_without_providers_nobody_logs_in() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        log_ins.pushed(request(), PORTAL, providers=(), log_in=uuid.uuid4(), now=NOW)
    assert refusal.value.metadata == {"parameter": "identity_provider"}


def test_a_code_is_worth_the_scopes_asked_for_until_the_providers_word_ends() -> None:
    log_in = finished(acr="http://eidas.europa.eu/LoA/high", auth_time=5, provider_until=1_900_000_000)
    basis = log_ins.redeemed(log_in, PORTAL, redirect_uri=BACK, code_verifier=VERIFIER, now=NOW)
    assert basis.scopes == {"mailbox.read"}
    assert basis.expires == 1_900_000_000
    assert basis.claims == {"sub": PERSON, "acr": "http://eidas.europa.eu/LoA/high", "auth_time": 5}


def test_no_scope_asked_for_is_all_and_one_taken_away_meanwhile_is_gone() -> None:
    reader = replace(PORTAL, scopes=("mailbox.write",))
    arguments: dict[str, Any] = {"redirect_uri": BACK, "code_verifier": VERIFIER, "now": NOW}
    assert log_ins.redeemed(finished(scope=""), PORTAL, **arguments).scopes == set(PORTAL.scopes)
    assert log_ins.redeemed(finished(), reader, **arguments).scopes == set()


@pytest.mark.parametrize(
    ("log_in", "shown"),
    [
        (finished(client_id="another"), {}),
        (finished(), {"redirect_uri": "http://127.0.0.1:8445/"}),
        (finished(), {"redirect_uri": ""}),
        (finished(expire_time=NOW), {}),
        (finished(party=""), {}),
        (finished(), {"code_verifier": ""}),
        (finished(), {"code_verifier": "w" * 43}),
        (finished(), {"code_verifier": log_ins.s256(VERIFIER)}),
        (finished(code_challenge=log_ins.s256("v" * 42)), {"code_verifier": "v" * 42}),
        (finished(code_challenge=log_ins.s256("v" * 129)), {"code_verifier": "v" * 129}),
        (finished(code_challenge=log_ins.s256("ä" * 43)), {"code_verifier": "ä" * 43}),
    ],
)
def test_a_code_is_worth_nothing_to_another_elsewhere_too_late_or_unproven(
    log_in: LogIn, shown: dict[str, str]
) -> None:
    arguments = {"redirect_uri": BACK, "code_verifier": VERIFIER} | shown
    with pytest.raises(InvalidArgument) as refusal:
        log_ins.redeemed(log_in, PORTAL, now=NOW, **arguments)
    assert refusal.value.reason == "OAUTH_INVALID_GRANT"


@pytest.mark.parametrize("uri", [BACK, BACK + "?from=solmu"])
def test_the_way_back_says_whose_answer_it_is_and_gives_the_state_back(uri: str) -> None:
    location = log_ins.back(finished(redirect_uri=uri, client_state="a b&c"), issuer="https://node", code="1/2")
    assert location.startswith(uri)
    parameters = dict(parse_qsl(urlsplit(location).query, strict_parsing=True))
    parameters.pop("from", None)
    assert parameters == {"code": "1/2", "state": "a b&c", "iss": "https://node"}
    assert "state" not in log_ins.back(finished(client_state=""), issuer="https://node", error="access_denied")


def test_pkce_is_that_of_the_rfc() -> None:
    # RFC 7636, appendix B.
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert log_ins.s256(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
