"""Verification of access tokens: one test per defect."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from services.runtime.errors import Unauthenticated, Unavailable
from services.runtime.identity import Authenticator, TokenVerifier, fingerprint, keys_of, still_valid
from tests import jws_cases
from tests.tokens import ISSUER, Signer, keyed, unsigned

MINE, OTHER = "ab" * 32, "cd" * 32


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def signer() -> Signer:
    return Signer()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verifier(signer: Signer, clock: Clock) -> TokenVerifier:
    async def fetch() -> str:
        return signer.jwks()

    return TokenVerifier(issuer=ISSUER, fetch=fetch, clock=clock)


async def refusal(verifier: TokenVerifier, token: str, certificate: str = MINE) -> str:
    with pytest.raises(Unauthenticated) as refused:
        await verifier.verify(token, certificate)
    assert token not in str(refused.value)
    return refused.value.reason


async def test_a_good_token_tells_who_calls(verifier: TokenVerifier, signer: Signer):
    token = signer.token(MINE)
    for _ in range(2):  # the second time from memory
        claims = await verifier.verify(token, MINE)
        assert (claims["client_id"], claims["scope"]) == ("test", "messages.read messages.send")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": 1_000_000_000}, "TOKEN_EXPIRED"),
        ({"nbf": 4_000_000_000}, "TOKEN_EXPIRED"),
        ({"exp": "soon"}, "TOKEN_INVALID"),
        ({"exp": True}, "TOKEN_INVALID"),
        ({"iat": 1.5}, "TOKEN_INVALID"),
        ({"nbf": "soon"}, "TOKEN_INVALID"),
        ({"iat": 4_000_000_000}, "TOKEN_EXPIRED"),
        ({"exp": None}, "TOKEN_INVALID"),
        ({"iss": "https://other.example"}, "TOKEN_INVALID"),
        ({"aud": "https://other.example"}, "TOKEN_AUDIENCE_MISMATCH"),
        ({"aud": [ISSUER]}, "TOKEN_AUDIENCE_MISMATCH"),
        ({"aud": None}, "TOKEN_INVALID"),
        ({"sub": None}, "TOKEN_INVALID"),
        ({"client_id": 7}, "TOKEN_INVALID"),
        ({"scope": ["messages.send"]}, "TOKEN_INVALID"),
        ({"jti": None}, "TOKEN_INVALID"),
        ({"act": "persons/x"}, "TOKEN_INVALID"),
        ({"act": {}}, "TOKEN_INVALID"),
        ({"act": {"sub": ["persons/x"]}}, "TOKEN_INVALID"),
        ({"authorization_details": {}}, "TOKEN_INVALID"),
        ({"acr": 2}, "TOKEN_INVALID"),
        ({"cnf": None}, "TOKEN_BINDING_MISMATCH"),
        ({"cnf": {"x5t#S256": 5}}, "TOKEN_BINDING_MISMATCH"),
        ({"cnf": "x"}, "TOKEN_BINDING_MISMATCH"),
    ],
)
async def test_a_defect_is_refused_with_its_reason(verifier: TokenVerifier, signer: Signer, changes, reason: str):
    assert await refusal(verifier, signer.token(MINE, **changes)) == reason


@pytest.mark.parametrize("kind", ["JWT", "id+jwt", None, 5])
async def test_another_kind_of_token_is_none(verifier: TokenVerifier, signer: Signer, kind):
    assert await refusal(verifier, signer.token(MINE, headers={"typ": kind})) == "TOKEN_INVALID"


async def test_a_stolen_token_opens_nothing_without_its_certificate(verifier: TokenVerifier, signer: Signer):
    token = signer.token(MINE)
    await verifier.verify(token, MINE)
    assert await refusal(verifier, token, OTHER) == "TOKEN_BINDING_MISMATCH"
    assert await refusal(verifier, token, "") == "TOKEN_BINDING_MISMATCH"


async def test_another_key_signs_nothing(verifier: TokenVerifier, signer: Signer):
    assert await refusal(verifier, Signer().token(MINE)) == "TOKEN_INVALID"
    assert await refusal(verifier, Signer(kid="unknown").token(MINE)) == "TOKEN_INVALID"


async def test_the_algorithm_is_ours_not_the_tokens(verifier: TokenVerifier, signer: Signer):
    token = signer.token(MINE)
    assert await refusal(verifier, unsigned(token)) == "TOKEN_INVALID"
    assert await refusal(verifier, keyed(token, signer.public_pem())) == "TOKEN_INVALID"


@pytest.mark.parametrize("token", ["", "a", "a.b", "a.b.c", "....", "é.é.é"])
async def test_what_is_no_token_is_refused(verifier: TokenVerifier, token: str):
    with pytest.raises(Unauthenticated) as refused:
        await verifier.verify(token, MINE)
    assert refused.value.reason == "TOKEN_INVALID"


@pytest.mark.parametrize("name", [name for name, _ in jws_cases.refused(Signer().token(MINE), Signer().key)])
async def test_a_token_that_is_not_what_it_was_signed_as_is_refused(verifier: TokenVerifier, signer: Signer, name: str):
    await verifier.verify(signer.token(MINE), MINE)
    cases = dict(jws_cases.refused(signer.token(MINE), signer.key))
    with pytest.raises(Unauthenticated) as refused:
        await verifier.verify(cases[name], MINE)
    assert refused.value.reason == "TOKEN_INVALID"


async def test_a_remembered_token_expires_too(verifier: TokenVerifier, signer: Signer, clock: Clock):
    token = signer.token(MINE)
    await verifier.verify(token, MINE)
    clock.now += 304
    await verifier.verify(token, MINE)
    clock.now += 2
    assert await refusal(verifier, token) == "TOKEN_EXPIRED"


async def test_a_new_key_is_fetched_when_a_token_names_it_but_not_for_every_guess(clock: Clock):
    old, new, fetched = Signer(kid="old"), Signer(kid="new"), 0
    published = [old]

    async def fetch() -> str:
        nonlocal fetched
        fetched += 1
        return json.dumps({"keys": [signer.jwk() for signer in published]})

    verifier = TokenVerifier(issuer=ISSUER, fetch=fetch, clock=clock)
    await verifier.verify(old.token(MINE), MINE)
    published.append(new)
    assert await refusal(verifier, new.token(MINE)) == "TOKEN_INVALID"
    assert fetched == 1
    clock.now += 5
    await verifier.verify(new.token(MINE), MINE)
    await verifier.verify(old.token(MINE), MINE)
    assert fetched == 2


async def test_while_the_keys_cannot_be_had_no_token_is_called_wrong(signer: Signer, clock: Clock):
    answers: list[str] = []

    async def fetch() -> str:
        await asyncio.sleep(0)
        if not answers:
            raise Unavailable("UNAVAILABLE", "away")
        return answers.pop()

    verifier = TokenVerifier(issuer=ISSUER, fetch=fetch, clock=clock)
    tokens = [signer.token(MINE, jti=f"urn:{number}") for number in range(3)]
    refused = await asyncio.gather(*(verifier.verify(token, MINE) for token in tokens), return_exceptions=True)
    assert [type(one) for one in refused] == [Unavailable] * 3
    answers.append(signer.jwks())
    assert len(await asyncio.gather(*(verifier.verify(token, MINE) for token in tokens))) == 3


@pytest.mark.parametrize(
    "change",
    [{"use": "enc"}, {"alg": "ES384"}, {"key_ops": ["sign"]}, {"crv": "P-384"}, {"kty": "OKP"}, {"kid": 5}],
)
def test_a_key_for_something_else_verifies_nothing(signer: Signer, change):
    assert keys_of(json.dumps({"keys": [signer.jwk(**change)]})) == {}
    assert list(keys_of(json.dumps({"keys": [signer.jwk()]}))) == ["test"]


@pytest.mark.parametrize(
    ("forwarded", "found"),
    [
        (f'Hash={MINE};Subject="CN=test";URI=spiffe://solmu/client/test', MINE),
        (f"Hash={MINE}", MINE),
        (f"Hash={OTHER};Hash={MINE}", ""),
        (f"By=spiffe://x;Hash={OTHER},Hash={MINE}", ""),
        (f'Hash={MINE};Subject="CN=\\";Hash={OTHER}\\"";URI=spiffe://solmu/client/test', MINE),
        (f"Hash={MINE};Cert=x", ""),
        ("Hash=zz", ""),
        ("", ""),
    ],
)
def test_the_fingerprint_is_that_of_one_certificate(forwarded: str, found: str):
    assert fingerprint(forwarded) == found


async def test_a_revoked_client_is_refused_though_its_token_has_not_expired(verifier: TokenVerifier, signer: Signer):
    revoked: set[str] = set()
    authenticator = Authenticator(verifier=verifier, revoked=revoked.__contains__)
    metadata = {"authorization": f"Bearer {signer.token(MINE)}", "x-forwarded-client-cert": f"Hash={MINE}"}
    assert (await authenticator.client(metadata)).client == "clients/test"
    revoked.add("test")
    with pytest.raises(Unauthenticated) as refused:
        await authenticator.client(metadata)
    assert refused.value.reason == "CLIENT_REVOKED"


async def test_a_token_that_was_taken_back_is_refused_and_ends_streams(verifier: TokenVerifier, signer: Signer):
    revoked: set[str] = set()
    authenticator = Authenticator(verifier=verifier, revoked=revoked.__contains__)
    metadata = {"authorization": f"Bearer {signer.token(MINE, jti='urn:x')}", "x-forwarded-client-cert": f"Hash={MINE}"}
    caller = await authenticator.client(metadata)
    assert still_valid(caller, revoked=revoked.__contains__) is None
    revoked.add("urn:x")
    with pytest.raises(Unauthenticated) as refused:
        await authenticator.client(metadata)
    assert refused.value.reason == "TOKEN_REVOKED"
    ended = still_valid(caller, revoked=revoked.__contains__)
    assert ended is not None
    assert ended.reason == "TOKEN_REVOKED"


async def test_a_revoked_certificate_is_refused_and_ends_streams(verifier: TokenVerifier, signer: Signer):
    revoked: set[str] = set()
    authenticator = Authenticator(verifier=verifier, revoked=revoked.__contains__)
    metadata = {
        "authorization": f"Bearer {signer.token(MINE)}",
        "x-forwarded-client-cert": f"Hash={MINE}",
        "x-edge-certificate-serial": "0a1b",
    }
    caller = await authenticator.client(metadata)
    revoked.add("certificates/0a1c")
    assert still_valid(caller, revoked=revoked.__contains__) is None
    revoked.add("certificates/0a1b")
    with pytest.raises(Unauthenticated) as refused:
        await authenticator.client(metadata)
    ended = still_valid(caller, revoked=revoked.__contains__)
    assert ended is not None
    assert refused.value.reason == ended.reason == "CLIENT_REVOKED"


@pytest.mark.parametrize("header", ["", "Basic abc", "Bearer", "Bearer "])
async def test_a_call_without_a_token_is_refused(verifier: TokenVerifier, header: str):
    authenticator = Authenticator(verifier=verifier, revoked=lambda _: False)
    with pytest.raises(Unauthenticated) as refused:
        await authenticator.client({"authorization": header})
    assert refused.value.reason == "TOKEN_MISSING"
