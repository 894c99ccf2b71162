"""Log-ins with the database and an identity provider over TLS: the embedded node's own."""

import asyncio
import html
import json
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from solmu.authorisations.v1 import log_in_pb2, tokens_pb2
from solmu.authorisations.v1.audit_pb2 import AuditRecord, SearchAuditRecordsRequest
from solmu.authorisations.v1.clients_pb2 import Client, UpdateClientRequest
from solmu.authorisations.v1.events_pb2 import TokenRevoked
from solmu.types.v1.types_pb2 import NationalIdentifier

from deploy import pki
from deploy.local import ports
from deploy.local.identity_provider.people import PEOPLE
from deploy.local.identity_provider.provider import ASSURANCE, CODE_CLAIM, IdentityProvider, Registered, key_set
from services.authorisations import log_ins, relying_party, token_store
from services.runtime.database import Database
from services.runtime.errors import Fault
from tests.integration.authorisations.service import BROWSERS, PARTIES, Service, assemble, new_id
from tests.unit.authorisations.builders import CERTIFICATE, ISSUER

BACK = "https://portal.example/back"
VERIFIER = "v" * 43
RENEWED = "cd" * 32
HIGH, SUBSTANTIAL, LOW = ASSURANCE
SCOPES = ["messages.read", "messages.send"]


class Clock:
    """The time, or some time later."""

    def __init__(self) -> None:
        self.later = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.later


@dataclass
class House:
    """A service, the provider that it trusts, a portal to which people log in, and a clock to put forward."""

    service: Service
    portal: Client
    http: aiohttp.ClientSession
    runner: web.AppRunner
    clock: Clock

    async def push(self, **changes: Any) -> str:
        """The reference of a pushed request."""
        values: dict[str, Any] = {
            "client_id": self.portal.name.removeprefix("clients/"),
            "certificate": self.certificate(CERTIFICATE),
            "response_type": "code",
            "redirect_uri": BACK,
            "state": "of the portal",
            "code_challenge": log_ins.s256(VERIFIER),
            "code_challenge_method": "S256",
        }
        request = log_in_pb2.PushLogInRequest(**values | changes)
        return (await self.service.log_ins.PushLogIn(request)).request_uri

    async def start(self, reference: str, client_id: str = "") -> log_in_pb2.StartLogInResponse:
        """Where the browser is sent on to."""
        client_id = client_id or self.portal.name.removeprefix("clients/")
        request = log_in_pb2.StartLogInRequest(client_id=client_id, request_uri=reference)
        return await self.service.log_ins.StartLogIn(request)

    async def choose(self, location: str, person: int | None = 0, acr: str = HIGH) -> dict[str, str]:
        """What the provider sends the browser back with when somebody is chosen; None: nobody is."""
        async with self.http.get(location) as page:
            text = await page.text()
            assert page.status == 200, text
        hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', text))
        form = {name: html.unescape(value) for name, value in hidden.items()}
        form |= {"cancel": "yes"} if person is None else {"person": str(person), "acr": acr}
        async with self.http.post(location.partition("?")[0], data=form, allow_redirects=False) as answer:
            assert answer.status == 303
            return query(answer.headers["location"])

    async def finish(self, secret: str, **answer: str) -> dict[str, str]:
        """What the browser brings the portal."""
        request = log_in_pb2.FinishLogInRequest(browser_secret=secret, **answer)
        location = (await self.service.log_ins.FinishLogIn(request)).location
        assert location.startswith(BACK + "?")
        return query(location)

    async def log_in(self, person: int | None = 0, acr: str = HIGH, **pushed: Any) -> dict[str, str]:
        """All of it up to the portal."""
        started = await self.start(await self.push(**pushed))
        return await self.finish(started.browser_secret, **await self.choose(started.location, person, acr))

    async def redeem(self, code: str, **changes: Any) -> tokens_pb2.IssueTokenResponse:
        """The token for a code."""
        values = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK, "code_verifier": VERIFIER}
        return await self.service.issue(self.portal, **values | changes)

    def certificate(self, sha256: str) -> tokens_pb2.ClientCertificate:
        """A certificate of the portal."""
        return tokens_pb2.ClientCertificate(sha256=sha256, uri_sans=[self.portal.certificate_uri])

    async def records(self, kind: AuditRecord.Kind.ValueType) -> list[AuditRecord]:
        """What the record says of the portal, the oldest first."""
        request = SearchAuditRecordsRequest(client=self.portal.name, kinds=[kind], purpose="test")
        return list(reversed((await self.service.audit.SearchAuditRecords(request)).records))


def query(location: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(location).query, strict_parsing=True))


def party(person: int) -> str:
    code = NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_HETU, value=PEOPLE[person].code)
    return PARTIES.name_of(code)


def claims_of(response: tokens_pb2.IssueTokenResponse) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(response.access_token, options={"verify_signature": False})
    return claims


async def taken_back(house: House, token_id: str) -> bool:
    return await token_store.refused(house.service.database, token_id)


async def refused(attempt: Any) -> str:
    with pytest.raises(Fault) as refusal:
        await attempt
    return refusal.value.reason


@pytest.fixture
async def house(authorisations_database: Database, tmp_path: Path) -> AsyncIterator[House]:
    authority = pki.Authority.open(tmp_path, "provider")
    authority.keep(pki.Identity.edge(), tmp_path / "edge")
    port = ports.free()
    issuer, key = f"https://localhost:{port}", ec.generate_private_key(ec.SECP256R1())
    path, keys = tmp_path / "providers.json", tmp_path / "keys"
    path.write_text(json.dumps({"identity_providers": [entry(issuer, key, authority.certificate_path)]}))
    keys.mkdir()
    trusting = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(authority.certificate_path)))
    async with aiohttp.ClientSession(connector=trusting) as browser, relying_party.session() as http:
        clock = Clock()
        service = assemble(authorisations_database, keys, clock=clock, providers=path, http=http)
        provider = IdentityProvider(
            issuer=issuer,
            key=key,
            clients={"node": Registered((BROWSERS + relying_party.REDIRECT_PATH,), service.keys.key_set)},
        )
        runner = web.AppRunner(provider.application())
        await runner.setup()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tmp_path / "edge" / pki.CERTIFICATE, tmp_path / "edge" / pki.KEY)
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
        house = House(service, Client(), browser, runner, clock)
        house.portal = await service.register(new_id(), scopes=SCOPES, redirect_uris=[BACK])
        yield house
        await runner.cleanup()


def entry(issuer: str, key: ec.EllipticCurvePrivateKey, authorities: Path) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "jwks": key_set(key),
        "algorithms": ["ES256"],
        "clients": {},
        "identifier": {"claim": CODE_CLAIM, "scheme": "FI_HETU"},
        "assurance": {HIGH: "HIGH", SUBSTANTIAL: "SUBSTANTIAL"},
        "log_in": {
            "id": "invented",
            "display_name": "Invented people",
            "client_id": "node",
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "pushed_authorization_request_endpoint": f"{issuer}/par",
            "authorities": str(authorities),
        },
    }


async def test_who_logs_in_gives_the_portal_a_token_in_their_name(house: House) -> None:
    answer = await house.log_in(person=1, acr=SUBSTANTIAL, scope="messages.read")
    assert answer.keys() == {"code", "state", "iss"}
    assert (answer["state"], answer["iss"]) == ("of the portal", ISSUER)
    response = await house.redeem(answer["code"])
    claims = claims_of(response)
    assert claims["sub"] == party(1)
    assert claims["acr"] == "http://eidas.europa.eu/LoA/substantial"
    assert abs(claims["auth_time"] - claims["iat"]) < 60
    assert (claims["scope"], response.scope) == ("messages.read", "messages.read")
    assert claims["client_id"] == house.portal.name.removeprefix("clients/")
    assert claims["cnf"]["x5t_hex"] == CERTIFICATE
    assert response.expires_in <= 300
    assert response.issued_token_type == ""
    assert PEOPLE[1].code not in json.dumps(claims)


async def test_who_is_known_by_a_level_that_the_node_does_not_know_is_known_by_none(house: House) -> None:
    answer = await house.log_in(acr=LOW)
    assert "acr" not in claims_of(await house.redeem(answer["code"]))


async def test_who_does_not_want_to_is_sent_back_with_that(house: House) -> None:
    assert await house.log_in(person=None) == {"error": "access_denied", "state": "of the portal", "iss": ISSUER}
    [record] = await house.records(AuditRecord.KIND_LOG_IN)
    assert (record.refusal, record.actor.party, list(record.parties)) == ("access_denied", "", [])


async def test_the_browser_learns_nothing_on_the_way_but_references(house: House) -> None:
    started = await house.start(await house.push())
    assert query(started.location).keys() == {"client_id", "request_uri"}
    answer = await house.choose(started.location)
    assert answer.keys() == {"code", "state", "iss"}


async def test_a_reference_is_used_once_in_time_and_by_its_client(house: House) -> None:
    reference = await house.push()
    assert await refused(house.start(reference, "another-portal")) == "LOG_IN_UNKNOWN"
    assert await refused(house.start(reference + "x")) == "LOG_IN_UNKNOWN"
    await house.start(reference)
    assert await refused(house.start(reference)) == "LOG_IN_UNKNOWN"
    lapsed = await house.push()
    house.clock.later = log_ins.REQUEST_LIFETIME
    assert await refused(house.start(lapsed)) == "LOG_IN_UNKNOWN"


async def test_of_two_browsers_with_one_reference_one_goes_on(house: House) -> None:
    reference = await house.push()
    outcomes = await asyncio.gather(*(house.start(reference) for _ in range(4)), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["InvalidArgument"] * 3 + ["StartLogInResponse"]


async def test_nobody_finishes_what_another_began(house: House) -> None:
    mine, other = [await house.start(await house.push()) for _ in range(2)]
    answer = await house.choose(mine.location)
    assert await refused(house.finish(other.browser_secret, **answer)) == "LOG_IN_UNKNOWN"
    assert await refused(house.finish("", **answer)) == "LOG_IN_UNKNOWN"
    assert await refused(house.finish(mine.browser_secret, **answer | {"state": other.state})) == "LOG_IN_UNKNOWN"
    assert "code" in await house.finish(mine.browser_secret, **answer)
    assert await refused(house.finish(mine.browser_secret, **answer)) == "LOG_IN_UNKNOWN"


async def test_a_log_in_lapses(house: House) -> None:
    started = await house.start(await house.push())
    answer = await house.choose(started.location)
    house.clock.later = log_ins.LOG_IN_LIFETIME
    assert await refused(house.finish(started.browser_secret, **answer)) == "LOG_IN_UNKNOWN"


@pytest.mark.parametrize("iss", ["", "https://other.example"])
async def test_an_answer_that_does_not_say_it_is_the_providers_is_not_looked_at(house: House, iss: str) -> None:
    started = await house.start(await house.push())
    answer = await house.choose(started.location)
    assert (await house.finish(started.browser_secret, **answer | {"iss": iss}))["error"] == "server_error"


@pytest.mark.parametrize(
    ("error", "told"), [("login_required", "login_required"), ("invalid_scope", "server_error"), ("", "server_error")]
)
async def test_the_client_is_told_what_concerns_it(house: House, error: str, told: str) -> None:
    started = await house.start(await house.push())
    answer = {"state": started.state, "iss": (await house.choose(started.location))["iss"], "error": error}
    assert (await house.finish(started.browser_secret, **answer))["error"] == told


async def test_a_code_of_another_log_in_at_the_provider_is_of_no_use(house: House) -> None:
    victim, thief = [await house.start(await house.push()) for _ in range(2)]
    stolen = await house.choose(victim.location)
    injected = stolen | {"state": thief.state}
    assert (await house.finish(thief.browser_secret, **injected))["error"] == "server_error"


async def test_levels_that_were_asked_for_are_held_to(house: House) -> None:
    assert "code" in await house.log_in(acr=SUBSTANTIAL, acr_values=f"{HIGH} {SUBSTANTIAL}")
    assert (await house.log_in(acr=LOW, acr_values=HIGH))["error"] == "unmet_authentication_requirements"


async def test_while_the_provider_is_away_nothing_is_used_up(house: House) -> None:
    reference, started = await house.push(), await house.start(await house.push())
    answer = await house.choose(started.location)
    await house.runner.cleanup()
    assert await refused(house.start(reference)) == "IDENTITY_PROVIDER_AWAY"
    assert await refused(house.start(reference)) == "IDENTITY_PROVIDER_AWAY", "it may still be begun"
    assert (await house.finish(started.browser_secret, **answer))["error"] == "temporarily_unavailable"


async def test_a_code_works_once_and_shown_again_takes_its_token_back(house: House) -> None:
    code = (await house.log_in())["code"]
    first = claims_of(await house.redeem(code))
    assert await refused(house.redeem(code)) == "OAUTH_INVALID_GRANT"
    rows = await house.service.database.fetch(
        "select payload from outbox where type = $1", TokenRevoked.DESCRIPTOR.full_name
    )
    assert first["jti"] in {TokenRevoked.FromString(row["payload"]).token_id for row in rows}
    assert await taken_back(house, first["jti"])
    taken = (await house.records(AuditRecord.KIND_TOKEN))[-2:]
    assert {(record.resource, record.refusal) for record in taken} == {(first["jti"], ""), ("", "OAUTH_INVALID_GRANT")}


async def test_of_two_uses_of_a_code_at_one_instant_none_leaves_a_good_token(house: House) -> None:
    code = (await house.log_in())["code"]
    outcomes = await asyncio.gather(*(house.redeem(code) for _ in range(3)), return_exceptions=True)
    [issued] = [outcome for outcome in outcomes if isinstance(outcome, tokens_pb2.IssueTokenResponse)]
    assert await taken_back(house, claims_of(issued)["jti"])


@pytest.mark.parametrize("defect", [{"code_verifier": "w" * 43}, {"redirect_uri": BACK + "/"}, {"code": "unknown"}])
async def test_a_code_that_does_not_fit_gets_no_token_and_loses_nothing(house: House, defect: dict[str, str]) -> None:
    code = (await house.log_in())["code"]
    assert await refused(house.redeem(**{"code": code} | defect)) == "OAUTH_INVALID_GRANT"
    assert (await house.redeem(code)).access_token


async def test_a_code_is_its_clients_alone_and_for_a_minute(house: House) -> None:
    code, portal = (await house.log_in())["code"], house.portal
    house.portal = await house.service.register(scopes=SCOPES, redirect_uris=[BACK])
    assert await refused(house.redeem(code)) == "OAUTH_INVALID_GRANT"
    house.portal, house.clock.later = portal, log_ins.CODE_LIFETIME
    assert await refused(house.redeem(code)) == "OAUTH_INVALID_GRANT"


async def test_another_client_that_shows_a_used_code_takes_nothing_back(house: House) -> None:
    code = (await house.log_in())["code"]
    first = claims_of(await house.redeem(code))
    house.portal = await house.service.register(scopes=SCOPES, redirect_uris=[BACK])
    assert await refused(house.redeem(code)) == "OAUTH_INVALID_GRANT"
    assert not await taken_back(house, first["jti"])


async def test_a_client_whose_certificate_was_renewed_goes_on_with_the_new_one(house: House) -> None:
    code = (await house.log_in())["code"]
    claims = claims_of(await house.redeem(code, certificate=house.certificate(RENEWED)))
    assert claims["cnf"]["x5t_hex"] == RENEWED
    foreign = tokens_pb2.ClientCertificate(sha256=RENEWED, uri_sans=["spiffe://solmu/client/another"])
    code = (await house.log_in())["code"]
    assert await refused(house.redeem(code, certificate=foreign)) == "OAUTH_INVALID_CLIENT"


async def test_a_scope_that_the_client_lost_meanwhile_is_not_in_the_token(house: House) -> None:
    code = (await house.log_in())["code"]
    fewer = Client(name=house.portal.name, scopes=["messages.read"])
    await house.service.clients.UpdateClient(UpdateClientRequest(client=fewer))
    assert (await house.redeem(code)).scope == "messages.read"
    code = (await house.log_in())["code"]
    assert await refused(house.redeem(code, scope="messages.send")) == "OAUTH_INVALID_SCOPE"


async def test_nobody_begins_a_log_in_without_proof(house: House) -> None:
    foreign = tokens_pb2.ClientCertificate(sha256=CERTIFICATE, uri_sans=["spiffe://solmu/client/another"])
    assert await refused(house.push(certificate=foreign)) == "OAUTH_INVALID_CLIENT"
    assert await refused(house.push(redirect_uri="https://elsewhere.example/")) == "REDIRECT_URI_UNKNOWN"


async def test_the_database_holds_nothing_with_which_anybody_could_go_on(house: House) -> None:
    reference = await house.push()
    started = await house.start(reference)
    answer = await house.choose(started.location)
    code = (await house.finish(started.browser_secret, **answer))["code"]
    rows = await house.service.database.fetch("select to_jsonb(kept)::text as text from log_in as kept")
    text = "\n".join(row["text"] for row in rows)
    secrets = [reference.rpartition(":")[2], started.state, started.browser_secret, answer["code"], code, VERIFIER]
    assert not [secret for secret in [*secrets, PEOPLE[0].code, PEOPLE[0].name] if secret in text]
    assert party(0) in text


async def test_providers_are_listed_page_by_page(house: House) -> None:
    listed = await house.service.log_ins.ListIdentityProviders(log_in_pb2.ListIdentityProvidersRequest(page_size=1))
    [provider] = listed.identity_providers
    assert (provider.name, provider.display_name, provider.test) == (
        "identityProviders/invented",
        "Invented people",
        True,
    )
    assert listed.next_page_token == ""


async def test_log_ins_and_tokens_stand_in_the_record(house: House) -> None:
    answer = await house.log_in(person=2)
    token = claims_of(await house.redeem(answer["code"]))
    [record] = await house.records(AuditRecord.KIND_LOG_IN)
    assert (record.actor.party, record.refusal) == (party(2), "")
    assert [one.name for one in record.parties] == [party(2)]
    assert record.method.endswith("LogInService/FinishLogIn")
    [record] = await house.records(AuditRecord.KIND_TOKEN)
    assert (record.resource, record.actor.party) == (token["jti"], party(2))
    assert PEOPLE[2].code.encode() not in record.SerializeToString()
