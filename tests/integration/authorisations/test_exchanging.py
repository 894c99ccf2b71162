"""Token exchange with the database: from a log-in to a person's token, and on to one on another's behalf."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from solmu.authorisations.v1 import tokens_pb2
from solmu.authorisations.v1.checks_pb2 import DECISION_ALLOWED, DECISION_DENIED, CheckRequest, CheckResponse
from solmu.authorisations.v1.clients_pb2 import Client, RevokeClientRequest, UpdateClientRequest
from solmu.authorisations.v1.events_pb2 import TokenRevoked
from solmu.authorisations.v1.parties_pb2 import AssuranceLevel, Party

from services.authorisations.exchange import ACCESS_TOKEN, ID_TOKEN, TOKEN_EXCHANGE
from services.runtime.database import Database
from services.runtime.errors import Fault, InvalidArgument, Unavailable
from tests.integration.authorisations.service import Service, assemble, new_id
from tests.unit.authorisations import test_identity_providers as provider
from tests.unit.authorisations.builders import CERTIFICATE

OTHER = "persons/" + "b" * 26
COMPANY = "organisations/" + "c" * 26


class Mandates:
    """Stands for the mandate check: says what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: CheckResponse | Fault = CheckResponse(decision=DECISION_ALLOWED, mandates=["mandates/1"])
        self.asked: list[CheckRequest] = []

    def deny(self) -> None:
        """There is no mandate, from now on."""
        self.answer = CheckResponse(decision=DECISION_DENIED)

    def until(self, end: datetime) -> None:
        """There is one that ends then."""
        self.answer = CheckResponse(decision=DECISION_ALLOWED, mandates=["mandates/1"])
        self.answer.expire_time.FromDatetime(end)

    async def check(self, question: CheckRequest) -> CheckResponse:
        self.asked.append(question)
        if isinstance(self.answer, Fault):
            raise self.answer
        return self.answer


class Desk:
    """A service with a trusted provider, a portal that is its client there, and a mandate check."""

    def __init__(self, service: Service, mandates: Mandates, portal: Client) -> None:
        self.service = service
        self.mandates = mandates
        self.portal = portal

    async def log_in(self, **claims: Any) -> tokens_pb2.IssueTokenResponse:
        """A person's token, of an id_token with these claims."""
        return await self.exchange(id_token(**claims), subject_token_type=ID_TOKEN)

    async def on_behalf(self, subject_token: str, **fields: Any) -> tokens_pb2.IssueTokenResponse:
        """A token on another's behalf."""
        mandate = {"type": "mandate", "principal": OTHER, "theme": "themes/building-permits"}
        values = {"authorization_details": json.dumps([mandate]), "subject_token_type": ACCESS_TOKEN}
        return await self.exchange(subject_token, **values | fields)

    async def exchange(self, subject_token: str, **fields: Any) -> tokens_pb2.IssueTokenResponse:
        values = {"grant_type": TOKEN_EXCHANGE, "subject_token": subject_token}
        return await self.service.issue(self.portal, **values | fields)

    async def introspected(self, token: str) -> dict[str, Any] | None:
        response = await self.service.tokens.IntrospectToken(tokens_pb2.IntrospectTokenRequest(**self._asking(token)))
        return json.loads(response.claims) if response.active else None

    async def revoke(self, token: str) -> None:
        await self.service.tokens.RevokeToken(tokens_pb2.RevokeTokenRequest(**self._asking(token)))

    def _asking(self, token: str) -> dict[str, Any]:
        certificate = tokens_pb2.ClientCertificate(sha256=CERTIFICATE, uri_sans=[self.portal.certificate_uri])
        return {"token": token, "client_id": self.portal.name.removeprefix("clients/"), "certificate": certificate}


def id_token(**claims: Any) -> str:
    now = int(datetime.now(UTC).timestamp())
    values: dict[str, Any] = {"iat": now, "exp": now + 3600, "acr": "loa3"}
    return provider.id_token(**values | claims)


def claims_of(response: tokens_pb2.IssueTokenResponse) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(response.access_token, options={"verify_signature": False})
    return claims


@pytest.fixture
async def desk(authorisations_database: Database, tmp_path: Path) -> Desk:
    mandates, client_id = Mandates(), new_id()
    keys = tmp_path / "keys"
    keys.mkdir()
    service = assemble(
        authorisations_database,
        keys,
        clock=lambda: datetime.now(UTC),
        providers=provider.file(tmp_path, provider.entry(clients={"portal-there": client_id})),
        check=mandates.check,
    )
    return Desk(service, mandates, await service.register(client_id, scopes=["messages.read", "messages.send"]))


async def refused(attempt: Any) -> str:
    with pytest.raises(Fault) as refusal:
        await attempt
    return refusal.value.reason


async def test_a_log_in_becomes_a_persons_token_bound_to_the_certificate(desk: Desk) -> None:
    response = await desk.log_in(auth_time=1_795_000_000)
    claims = claims_of(response)
    assert (response.issued_token_type, response.expires_in) == (ACCESS_TOKEN, 300)
    assert claims["sub"].startswith("persons/")
    assert claims["acr"] == "http://eidas.europa.eu/LoA/high"
    assert claims["auth_time"] == 1_795_000_000
    assert claims["client_id"] == desk.portal.name.removeprefix("clients/")
    assert claims["cnf"]["x5t_hex"] == CERTIFICATE
    assert "act" not in claims
    assert provider.CODE not in json.dumps(claims)


async def test_a_persons_token_ends_with_the_providers_word(desk: Desk) -> None:
    now = int(datetime.now(UTC).timestamp())
    response = await desk.log_in(exp=now + 60)
    assert claims_of(response)["exp"] == now + 60
    assert response.expires_in <= 60
    assert await refused(desk.log_in(exp=now - 5)) == "OAUTH_INVALID_GRANT"


async def test_another_clients_log_in_is_of_no_use(desk: Desk) -> None:
    desk.portal = await desk.service.register()
    assert await refused(desk.log_in()) == "OAUTH_INVALID_GRANT"


async def test_an_access_token_is_no_log_in_and_a_log_in_no_access_token(desk: Desk) -> None:
    token = (await desk.log_in()).access_token
    assert await refused(desk.exchange(token, subject_token_type=ID_TOKEN)) == "OAUTH_INVALID_GRANT"
    assert await refused(desk.on_behalf(id_token())) == "OAUTH_INVALID_GRANT"


async def test_a_person_acts_for_another_by_a_mandate(desk: Desk) -> None:
    person = await desk.log_in()
    response = await desk.on_behalf(person.access_token)
    claims, who = claims_of(response), claims_of(person)["sub"]
    assert (claims["sub"], claims["act"]) == (OTHER, {"sub": who})
    assert json.loads(response.authorization_details) == claims["authorization_details"]
    assert claims["authorization_details"] == [
        {"type": "mandate", "theme": "themes/building-permits", "mandates": ["mandates/1"]}
    ]
    assert desk.mandates.asked == [
        CheckRequest(
            delegate=Party(name=who),
            principal=Party(name=OTHER),
            theme="themes/building-permits",
            assurance_level=AssuranceLevel.ASSURANCE_LEVEL_HIGH,
        )
    ]
    assert claims["exp"] <= claims_of(person)["exp"]


async def test_an_organisation_in_between_is_named_and_nothing_longer(desk: Desk) -> None:
    mandates = ["mandates/1", "mandates/2"]
    desk.mandates.answer = CheckResponse(
        decision=DECISION_ALLOWED, mandates=mandates, through=Party(name=COMPANY), consistency_token="t-1"
    )
    person = await desk.log_in()
    claims = claims_of(await desk.on_behalf(person.access_token))
    assert claims["act"] == {"sub": claims_of(person)["sub"], "act": {"sub": COMPANY}}
    (detail,) = claims["authorization_details"]
    assert (detail["mandates"], detail["consistency_token"]) == (mandates, "t-1")


async def test_a_client_acts_for_another_by_its_own_token(desk: Desk) -> None:
    own = await desk.service.issue(desk.portal)
    assert claims_of(await desk.on_behalf(own.access_token))["act"] == {"sub": desk.portal.party}


async def test_no_mandate_no_token(desk: Desk) -> None:
    person = await desk.log_in()
    unknown_theme = InvalidArgument("THEME_UNSUITABLE", "there is no such theme", theme="themes/building-permits")
    for answer in (CheckResponse(decision=DECISION_DENIED), CheckResponse(), unknown_theme):
        desk.mandates.answer = answer
        assert await refused(desk.on_behalf(person.access_token)) == "OAUTH_INVALID_AUTHORIZATION_DETAILS"


async def test_a_client_acts_in_the_themes_that_it_is_registered_with_and_in_no_other(desk: Desk) -> None:
    person = (await desk.log_in()).access_token
    for themes, allowed in ((["themes/taxes"], False), (["themes/building-permits", "themes/taxes"], True)):
        change = Client(name=desk.portal.name, themes=themes)
        await desk.service.clients.UpdateClient(UpdateClientRequest(client=change))
        if allowed:
            assert await desk.on_behalf(person)
        else:
            assert await refused(desk.on_behalf(person)) == "OAUTH_INVALID_AUTHORIZATION_DETAILS"
            assert not desk.mandates.asked, "what is not the client's to know is not looked up"


async def test_where_it_cannot_be_known_whether_a_mandate_holds_there_is_no_token_now(desk: Desk) -> None:
    person = (await desk.log_in()).access_token
    acting = (await desk.on_behalf(person)).access_token
    desk.mandates.answer = Unavailable("NOT_FRESH", "the facts may be old")
    assert await refused(desk.on_behalf(person)) == "NOT_FRESH"
    assert await refused(desk.introspected(acting)) == "NOT_FRESH"


@pytest.mark.parametrize(("acr", "allowed"), [("", False), ("loa2", True), ("loa3", True)])
async def test_who_is_not_known_surely_enough_does_not_act(desk: Desk, acr: str, allowed: bool) -> None:
    desk.mandates.answer = CheckResponse(
        decision=DECISION_ALLOWED, needed_assurance_level=AssuranceLevel.ASSURANCE_LEVEL_SUBSTANTIAL
    )
    person = await desk.log_in(acr=acr)
    if allowed:
        assert await desk.on_behalf(person.access_token)
    else:
        assert await refused(desk.on_behalf(person.access_token)) == "OAUTH_INVALID_AUTHORIZATION_DETAILS"
    own = await desk.service.issue(desk.portal)
    assert await desk.on_behalf(own.access_token), "levels are of persons"


async def test_nobody_acts_on_their_own_behalf(desk: Desk) -> None:
    person = await desk.log_in()
    mandate = {"type": "mandate", "principal": claims_of(person)["sub"], "theme": "themes/building-permits"}
    attempt = desk.on_behalf(person.access_token, authorization_details=json.dumps([mandate]))
    assert await refused(attempt) == "OAUTH_INVALID_AUTHORIZATION_DETAILS"


async def test_a_node_that_judges_no_mandates_gives_no_such_token(service: Service) -> None:
    client = await service.register()
    own = (await service.issue(client)).access_token
    details = json.dumps([{"type": "mandate", "principal": OTHER, "theme": "themes/building-permits"}])
    fields = {"grant_type": TOKEN_EXCHANGE, "subject_token": own, "subject_token_type": ACCESS_TOKEN}
    assert await refused(service.issue(client, **fields, authorization_details=details)) == (
        "OAUTH_INVALID_AUTHORIZATION_DETAILS"
    )


async def test_a_token_on_anothers_behalf_becomes_nothing_further(desk: Desk) -> None:
    acting = (await desk.on_behalf((await desk.log_in()).access_token)).access_token
    assert await refused(desk.on_behalf(acting)) == "OAUTH_INVALID_GRANT"


async def test_scopes_only_shrink(desk: Desk) -> None:
    person = await desk.exchange(id_token(), subject_token_type=ID_TOKEN, scope="messages.read")
    assert person.scope == "messages.read"
    assert (await desk.on_behalf(person.access_token)).scope == "messages.read"
    assert await refused(desk.on_behalf(person.access_token, scope="messages.send")) == "OAUTH_INVALID_SCOPE"
    await desk.service.clients.UpdateClient(
        UpdateClientRequest(client=Client(name=desk.portal.name, scopes=["messages.send"]))
    )
    assert await refused(desk.on_behalf(person.access_token)) == "OAUTH_INVALID_SCOPE"


async def test_the_mandates_end_ends_the_token(desk: Desk) -> None:
    person = await desk.log_in()
    ends = datetime.now(UTC) + timedelta(seconds=40)
    desk.mandates.until(ends)
    assert claims_of(await desk.on_behalf(person.access_token))["exp"] == int(ends.timestamp())
    desk.mandates.until(datetime.now(UTC))
    assert await refused(desk.on_behalf(person.access_token)) == "OAUTH_INVALID_GRANT"


async def test_the_subject_token_must_be_the_clients_own_and_of_this_certificate(desk: Desk) -> None:
    person = (await desk.log_in()).access_token
    renewed = tokens_pb2.ClientCertificate(sha256="cd" * 32, uri_sans=[desk.portal.certificate_uri])
    assert await refused(desk.on_behalf(person, certificate=renewed)) == "OAUTH_INVALID_GRANT"
    desk.portal = await desk.service.register()
    assert await refused(desk.on_behalf(person)) == "OAUTH_INVALID_GRANT"
    assert await refused(desk.on_behalf("a.b.c")) == "OAUTH_INVALID_GRANT"


async def test_a_revoked_client_exchanges_nothing(desk: Desk) -> None:
    person = (await desk.log_in()).access_token
    await desk.service.clients.RevokeClient(RevokeClientRequest(name=desk.portal.name))
    assert await refused(desk.on_behalf(person)) == "OAUTH_INVALID_CLIENT"


async def revoked_ids(service: Service) -> set[str]:
    rows = await service.database.fetch("select payload from outbox where type = $1", TokenRevoked.DESCRIPTOR.full_name)
    return {TokenRevoked.FromString(row["payload"]).token_id for row in rows}


async def test_taking_a_persons_token_back_takes_back_what_came_of_it(desk: Desk) -> None:
    person, own = await desk.log_in(), await desk.service.issue(desk.portal)
    acting = [await desk.on_behalf(person.access_token) for _ in range(2)]
    apart = await desk.on_behalf(own.access_token)
    await desk.revoke(person.access_token)
    gone = {claims_of(token)["jti"] for token in (person, *acting)}
    assert gone <= await revoked_ids(desk.service)
    assert [await desk.introspected(token.access_token) for token in acting] == [None, None]
    assert await desk.introspected(apart.access_token) is not None
    assert await refused(desk.on_behalf(person.access_token)) == "OAUTH_INVALID_GRANT"


async def test_no_exchange_slips_past_a_revocation_at_the_same_instant(desk: Desk) -> None:
    for _ in range(5):
        person = (await desk.log_in()).access_token

        async def attempt(token: str = person) -> dict[str, Any] | None:
            try:
                return claims_of(await desk.on_behalf(token))
            except Fault:
                return None

        outcomes = await asyncio.gather(attempt(), attempt(), desk.revoke(person), attempt(), attempt())
        issued = {claims["jti"] for claims in outcomes if claims}
        assert issued <= await revoked_ids(desk.service)


async def test_a_token_is_no_longer_good_when_its_mandate_is_not(desk: Desk) -> None:
    acting = (await desk.on_behalf((await desk.log_in()).access_token)).access_token
    assert await desk.introspected(acting) is not None
    assert desk.mandates.asked[0] == desk.mandates.asked[1], "the same question as when it was issued"
    desk.mandates.deny()
    assert await desk.introspected(acting) is None
