"""AuthZEN at a node's edge, by plain HTTP, as a client made for any decision point calls it."""

from __future__ import annotations

import ssl
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from solmu.authorisations.v1 import mandate_service_pb2, mandates_pb2, themes_pb2
from solmu.authorisations.v1.mandate_service_pb2_grpc import MandateServiceStub
from solmu.authorisations.v1.parties_pb2 import ASSURANCE_LEVEL_SUBSTANTIAL, Party, ValidityPeriod
from solmu.authorisations.v1.themes_pb2_grpc import ThemeServiceStub
from solmu.types.v1.types_pb2 import LocalizedText, NationalIdentifier

from deploy.local.node import Node
from gateway.client import Client
from tests.integration.node.people import client_of, organisation, person

LOA = "http://eidas.europa.eu/LoA/"
TEXT = [LocalizedText(language="en", text="Taxes")]


class Pep:
    """A policy enforcement point: it knows the decision point's address, and what the specification says."""

    def __init__(self, client: Client, token: str) -> None:
        self._base = client.profile.edge
        self._token = token
        context = ssl.create_default_context(cafile=str(client.profile.files.authorities))
        context.load_cert_chain(str(client.profile.files.certificate), str(client.profile.files.key))
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))
        self.endpoints: dict[str, str] = {}

    async def discover(self) -> None:
        async with self._http.get(f"{self._base}/.well-known/authzen-configuration") as answer:
            assert (answer.status, answer.content_type) == (200, "application/json")
            self.endpoints = await answer.json()
        assert self.endpoints["policy_decision_point"] == self._base

    async def post(
        self, endpoint: str, body: Any, *, request_id: str = "", token: str | None = None
    ) -> tuple[aiohttp.ClientResponse, Any]:
        bearer = self._token if token is None else token
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        if request_id:
            headers["X-Request-ID"] = request_id
        async with self._http.post(self.endpoints[f"{endpoint}_endpoint"], json=body, headers=headers) as answer:
            return answer, await answer.json(content_type=None)

    async def close(self) -> None:
        await self._http.close()


@dataclass
class World:
    """A helper who may act for an owner in taxes, and for one property in forests; for the office as well, if known
    surely."""

    pep: Pep
    taxes: str
    forests: str
    sure: str
    helper: str
    owner: str
    owner_code: NationalIdentifier
    mandate: str
    office: str


async def _theme(office: Client, **fields: Any) -> str:
    kind = mandates_pb2.Mandate.KIND_ACT
    theme = themes_pb2.Theme(titles=TEXT, longest_terms=[themes_pb2.Theme.LongestTerm(kind=kind, months=12)], **fields)
    stub = office.stub(ThemeServiceStub)
    name = f"test-{uuid.uuid4().hex[:12]}"
    made = await office.call(stub.CreateTheme, themes_pb2.CreateThemeRequest(theme_id=name, theme=theme), attempts=5)
    await office.call(stub.ActivateTheme, themes_pb2.ActivateThemeRequest(name=made.name, etag=made.etag))
    return str(made.name)


@pytest.fixture(scope="module")
async def world(node: Node) -> AsyncIterator[World]:
    owner_code, helper_code = person(), person()
    async with (
        client_of(node, organisation(1234567), "themes.manage", "mandates.check", "mandates.write") as office,
        client_of(node, owner_code, "mandates.write") as owner,
    ):
        rule = themes_pb2.Theme.SpecifierRule(pattern="[0-9]+-[0-9]+", titles=TEXT)
        taxes, forests = await _theme(office), await _theme(office, specifier_rule=rule)
        sure = await _theme(office, assurance_level=ASSURANCE_LEVEL_SUBSTANTIAL)
        given = []
        for giver, theme, specifier in ((owner, taxes, ""), (owner, forests, "853-1"), (office, sure, "")):
            mandate = mandates_pb2.Mandate(
                kind=mandates_pb2.Mandate.KIND_ACT, theme=theme, specifier=specifier,
                delegate=Party(identifier=helper_code), validity=ValidityPeriod(last_day=_in_a_month()),
            )  # fmt: skip
            request = mandate_service_pb2.CreateMandateRequest(mandate=mandate)
            given.append(await giver.call(giver.stub(MandateServiceStub).CreateMandate, request))
        pep = Pep(office, await office.token())
        await pep.discover()
        first, office_name = given[0], given[2].principal.name
        helper = first.delegate.name
        yield World(pep, taxes, forests, sure, helper, first.principal.name, owner_code, first.name, office_name)
        await pep.close()


def _in_a_month() -> str:
    return (datetime.now(UTC).date() + timedelta(days=30)).isoformat()


def question(world: World, theme: str = "", *, action: Any = None, subject: Any = None, **fields: Any) -> Any:
    return {
        "subject": {"type": "person", "id": world.helper, **({"properties": subject} if subject else {})},
        "action": {"name": theme or world.taxes, **({"properties": action} if action else {})},
        "resource": {"type": "person", "id": world.owner},
        **fields,
    }


async def test_an_evaluation_permits_and_denies(world: World):
    answer, document = await world.pep.post("access_evaluation", question(world))
    assert (answer.status, answer.content_type, document["decision"]) == (200, "application/json", True)
    assert document["context"]["mandates"] == [world.mandate]
    back = {**question(world), "subject": {"type": "person", "id": world.owner}}
    back["resource"] = {"type": "person", "id": world.helper}
    answer, document = await world.pep.post("access_evaluation", back)
    assert (answer.status, document["decision"], document["context"]["reason"]) == (200, False, "NO_RIGHT")


async def test_an_owner_is_found_by_the_identity_code(world: World):
    code = {"type": "person", "id": world.owner_code.value, "properties": {"identifier_scheme": "FI_HETU"}}
    answer, document = await world.pep.post("access_evaluation", {**question(world), "resource": code})
    assert (answer.status, document["decision"]) == (200, True)
    code["id"] = "150390-900X"
    answer, document = await world.pep.post("access_evaluation", {**question(world), "resource": code})
    assert (answer.status, document["reason"]) == (400, "IDENTIFIER_INVALID")


async def test_a_specifier_and_a_level_are_properties(world: World):
    for specifier, decision in (("853-1", True), ("853-2", False), ("", False)):
        asked = question(world, world.forests, action={"specifier": specifier} if specifier else None)
        assert (await world.pep.post("access_evaluation", asked))[1]["decision"] is decision
    office = {"type": "organisation", "id": world.office}
    unsurely = {**question(world, world.sure), "resource": office}
    _, document = await world.pep.post("access_evaluation", unsurely)
    assert (document["decision"], document["context"]["acr_values"]) == (False, f"{LOA}substantial")
    surely = {**question(world, world.sure, subject={"acr": f"{LOA}high"}), "resource": office}
    assert (await world.pep.post("access_evaluation", surely))[1]["decision"] is True


async def test_evaluations_in_all_three_semantics(world: World):
    kinds = {"no": {"name": "can_read"}, "unknown": {"name": "themes/never-made"}, "yes": {"name": world.taxes}}

    async def decisions(semantic: str, *actions: str) -> list[bool]:
        body = question(world, options={"evaluations_semantic": semantic} if semantic else {})
        body["evaluations"] = [{"action": kinds[action]} for action in actions]
        answer, document = await world.pep.post("access_evaluations", body)
        assert answer.status == 200
        return [one["decision"] for one in document["evaluations"]]

    assert await decisions("", "yes", "no", "unknown", "yes") == [True, False, False, True]
    assert await decisions("execute_all", "no", "yes") == [False, True]
    assert await decisions("deny_on_first_deny", "yes", "unknown", "yes") == [True, False]
    assert await decisions("permit_on_first_permit", "no", "unknown", "yes", "yes") == [False, False, True]
    assert (await world.pep.post("access_evaluations", question(world, evaluations=[])))[1]["decision"] is True


async def test_searches_find_what_evaluations_permit(world: World):
    _, found = await world.pep.post("search_subject", question(world))
    assert found["results"] == [{"type": "person", "id": world.helper}]
    _, found = await world.pep.post("search_resource", {**question(world), "resource": {"type": "person"}})
    assert found["results"] == [{"type": "person", "id": world.owner}]
    body = question(world)
    del body["action"]
    _, found = await world.pep.post("search_action", body)
    expected = [{"name": world.taxes}, {"name": world.forests, "properties": {"specifier": "853-1"}}]
    assert sorted(found["results"], key=str) == sorted(expected, key=str)
    for action in found["results"]:
        decided = {**body, "action": action}
        assert (await world.pep.post("access_evaluation", decided))[1]["decision"] is True
    for acr, results in ((None, []), ("high", [world.office])):
        subject = {"acr": f"{LOA}{acr}"} if acr else None
        asked = {**question(world, world.sure, subject=subject), "resource": {"type": "organisation"}}
        _, found = await world.pep.post("search_resource", asked)
        assert [one["id"] for one in found["results"]] == results, "as sure as an evaluation wants it"
    _, found = await world.pep.post("search_subject", {**question(world), "subject": {"type": "spaceship"}})
    assert found["results"] == []


async def test_a_search_goes_page_by_page(world: World):
    body = question(world, page={"limit": 1})
    del body["action"]
    found, token = [], ""
    for _ in range(4):
        page = {"token": token} if token else {"limit": 1}
        _, document = await world.pep.post("search_action", {**body, "page": page})
        found += [one["name"] for one in document["results"]]
        token = document["page"]["next_token"]
        if not token:
            break
    assert found == sorted([world.taxes, world.forests])
    _, document = await world.pep.post("search_action", body)
    other = {**body, "resource": body["subject"], "page": {"token": document["page"]["next_token"]}}
    assert (await world.pep.post("search_action", other))[0].status == 400


@pytest.mark.parametrize("request_id", ["bfe9eb29-ab87-4ca3-be83-a1d5d8305716", 'any "string" {at} all, %REQ(:path)%'])
async def test_the_callers_request_id_comes_back_whatever_the_answer(world: World, request_id: str):
    answer, _ = await world.pep.post("access_evaluation", question(world), request_id=request_id)
    assert (answer.status, answer.headers.getall("X-Request-ID")) == (200, [request_id])
    answer, _ = await world.pep.post("access_evaluation", {}, request_id=request_id)
    assert (answer.status, answer.headers.getall("X-Request-ID")) == (400, [request_id])
    for token in ("", "a.b.c"):
        answer, problem = await world.pep.post("access_evaluation", question(world), request_id=request_id, token=token)
        assert (answer.status, answer.headers.getall("X-Request-ID")) == (401, [request_id])
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert problem["reason"] in ("TOKEN_MISSING", "TOKEN_INVALID")
    answer, _ = await world.pep.post("access_evaluation", question(world))
    assert answer.headers["X-Request-ID"], "the edge names what the caller does not"


async def test_a_client_without_the_scope_or_with_anothers_token_is_refused(node: Node, world: World):
    async with client_of(node, person(), "mandates.read") as reader:
        pep = Pep(reader, await reader.token())
        await pep.discover()
        try:
            for endpoint in ("access_evaluation", "access_evaluations", "search_subject", "search_action"):
                answer, problem = await pep.post(endpoint, question(world))
                assert (answer.status, problem["reason"]) == (403, "SCOPE_MISSING")
                assert 'scope="mandates.check"' in answer.headers["WWW-Authenticate"]
            stolen = world.pep._token
            answer, problem = await pep.post("access_evaluation", question(world), token=stolen)
            assert (answer.status, problem["reason"]) == (401, "TOKEN_BINDING_MISMATCH")
        finally:
            await pep.close()
