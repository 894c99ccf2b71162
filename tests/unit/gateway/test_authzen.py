"""AuthZEN's form: what is taken, what is refused, and what a right means in its words."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from solmu.authorisations.v1 import checks_pb2, rights_pb2
from solmu.authorisations.v1.parties_pb2 import ASSURANCE_LEVEL_SUBSTANTIAL, AssuranceLevel, Party
from solmu.types.v1.types_pb2 import NationalIdentifier

from gateway.adapters.authzen import AuthZen
from services.runtime import errors, xfcc

ORIGIN = "https://edge.example"
HELPER, OWNER, FIRM = "persons/" + "h" * 26, "persons/" + "o" * 26, "organisations/" + "f" * 26
SUBJECT: dict[str, Any] = {"type": "person", "id": HELPER}
ACTION: dict[str, Any] = {"name": "themes/taxes"}
RESOURCE: dict[str, Any] = {"type": "person", "id": OWNER}
QUESTION: dict[str, Any] = {"subject": SUBJECT, "action": ACTION, "resource": RESOURCE}
EVALUATION, EVALUATIONS, SEARCH = "/access/v1/evaluation", "/access/v1/evaluations", "/access/v1/search/"
LOA = "http://eidas.europa.eu/LoA/"

Http = TestClient[web.Request, web.Application]


class Service:
    """What the handlers call: remembers requests, answers or refuses as told."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[tuple[str, str]] = []
        self.answers: list[Any] = []
        self.fault: errors.Fault | None = None

    async def call(self, method: str, request: Any, *, metadata: Any) -> Any:
        assert method
        self.requests.append(request)
        self.metadata = list(metadata)
        if self.fault:
            raise self.fault
        return self.answers.pop(0)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def http(service: Service) -> AsyncIterator[Http]:
    application = web.Application()
    application.add_routes(AuthZen(origin=ORIGIN, call=service.call).routes())
    async with TestClient(TestServer(application)) as started:
        yield started


async def ask(http: Http, path: str, body: Any) -> tuple[int, Any]:
    async with http.post(path, json=body) as answer:
        return answer.status, await answer.json(content_type=None)


def allowed(**fields: Any) -> checks_pb2.CheckResponse:
    return checks_pb2.CheckResponse(decision=checks_pb2.DECISION_ALLOWED, **fields)


def denied(**fields: Any) -> checks_pb2.CheckResponse:
    return checks_pb2.CheckResponse(
        decision=checks_pb2.DECISION_DENIED, **{"reason": checks_pb2.DENIAL_REASON_NO_RIGHT, **fields}
    )


def answered(response: checks_pb2.CheckResponse) -> checks_pb2.BatchCheckResponse.Result:
    return checks_pb2.BatchCheckResponse.Result(response=response)


def without(path: str) -> dict[str, Any]:
    """The question without one of its members, such as "subject.id"."""
    question = json.loads(json.dumps(QUESTION))
    entity, _, member = path.partition(".")
    if member:
        del question[entity][member]
    else:
        del question[entity]
    return dict(question)


async def test_an_evaluation_becomes_a_check_in_the_clients_name(http: Http, service: Service):
    service.answers = [
        allowed(
            basis=rights_pb2.RIGHT_BASIS_REPRESENTED_MANDATE, mandates=["mandates/1"], through=Party(name=FIRM),
            consistency_token="7", audit_record="auditRecords/1",
        )
    ]  # fmt: skip
    question = {
        "subject": {**SUBJECT, "properties": {"through": FIRM, "acr": f"{LOA}high", "department": "Sales"}},
        "action": {**ACTION, "properties": {"specifier": "853-1", "method": "GET"}},
        "resource": {**RESOURCE, "properties": {"status": ["active"]}},
        "context": {"at": "2026-01-01T00:00:00Z", "consistency_token": "6", "time": "1985-10-26T01:22-07:00"},
        "future": {"nested": True},
    }
    forwarded = {"Authorization": "Bearer a.b.c", xfcc.HEADER: "Hash=ab"}
    async with http.post(EVALUATION, json=question, headers=forwarded) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        document = await answer.json()
    assert document == {
        "decision": True,
        "context": {
            "basis": "REPRESENTED_MANDATE", "mandates": ["mandates/1"], "through": FIRM,
            "consistency_token": "7", "audit_record": "auditRecords/1",
        },
    }  # fmt: skip
    [check] = service.requests
    assert (check.delegate.name, check.principal.name, check.through.name) == (HELPER, OWNER, FIRM)
    assert (check.theme, check.specifier, check.consistency_token) == ("themes/taxes", "853-1", "6")
    assert check.assurance_level == AssuranceLevel.ASSURANCE_LEVEL_HIGH
    assert check.at.ToJsonString() == "2026-01-01T00:00:00Z", "the caller's `time` is no instant to judge"
    assert service.metadata == [("authorization", "Bearer a.b.c"), ("x-forwarded-client-cert", "Hash=ab")]


async def test_a_party_may_be_named_by_its_code(http: Http, service: Service):
    service.answers = [denied()]
    code = {"type": "person", "id": "150390-900B", "properties": {"identifier_scheme": "FI_HETU"}}
    await ask(http, EVALUATION, {**QUESTION, "subject": code})
    assert service.requests[0].delegate.identifier == NationalIdentifier(
        scheme=NationalIdentifier.SCHEME_FI_HETU, value="150390-900B"
    )


@pytest.mark.parametrize(
    ("subject", "level"),
    [
        (SUBJECT, "LOW"),
        ({**SUBJECT, "properties": {"acr": "urn:somebody-else:loa:3"}}, "LOW"),
        ({**SUBJECT, "properties": {"acr": f"{LOA}substantial"}}, "SUBSTANTIAL"),
        ({"type": "organisation", "id": FIRM}, "UNSPECIFIED"),
    ],
)
async def test_a_person_is_known_no_more_surely_than_the_caller_says(
    http: Http, service: Service, subject: Any, level: str
):
    service.answers = [denied()]
    await ask(http, EVALUATION, {**QUESTION, "subject": subject})
    assert service.requests[0].assurance_level == AssuranceLevel.Value(f"ASSURANCE_LEVEL_{level}")


async def test_a_denial_says_what_would_help(http: Http, service: Service):
    needed = denied(
        reason=checks_pb2.DENIAL_REASON_ASSURANCE_TOO_LOW, needed_assurance_level=ASSURANCE_LEVEL_SUBSTANTIAL
    )
    service.answers = [needed]
    status, document = await ask(http, EVALUATION, QUESTION)
    assert (status, document["decision"]) == (200, False)
    assert document["context"]["acr_values"] == f"{LOA}substantial"


@pytest.mark.parametrize(
    "missing", ["subject", "action", "resource", "subject.type", "subject.id", "action.name", "resource.type",
                "resource.id"],
)  # fmt: skip
@pytest.mark.parametrize("path", [EVALUATION, EVALUATIONS])
async def test_what_the_specification_requires_is_required(http: Http, service: Service, path: str, missing: str):
    status, problem = await ask(http, path, without(missing))
    assert (status, problem["reason"]) == (400, "FIELD_INVALID")
    assert missing.rpartition(".")[2] in problem["detail"]
    assert not service.requests


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": "alice"},
        {"subject": None},
        {"action": {"name": 123}},
        {"resource": {**RESOURCE, "id": 7}},
        {"subject": {**SUBJECT, "properties": []}},
        {"action": {**ACTION, "properties": {"specifier": 7}}},
        {"context": "now"},
        {"context": {"at": "yesterday"}},
        {"context": {"at": "2026-01-01T00:00:00"}},
        {"subject": {**SUBJECT, "type": "\ud800"}},
    ],
)
async def test_what_is_of_another_type_is_refused(http: Http, service: Service, wrong: Any):
    status, problem = await ask(http, EVALUATION, {**QUESTION, **wrong})
    assert (status, problem["reason"]) == (400, "FIELD_INVALID")
    assert not service.requests


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (json.dumps(QUESTION), "text/plain"),
        (json.dumps(QUESTION), "application/x-www-form-urlencoded"),
        ("", "application/json"),
        ("{", "application/json"),
        ("[]", "application/json"),
        ("null", "application/json"),
        (json.dumps(QUESTION)[:-1] + ', "action": {"name": "themes/other"}}', "application/json"),
        ('{"context": {"size": NaN}}', "application/json"),
        ("[" * 5000, "application/json"),
        (b'{"subject": "\xff"}', "application/json"),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(http: Http, body: Any, content_type: str):
    async with http.post(EVALUATION, data=body, headers={"content-type": content_type}) as answer:
        assert answer.status == 400
        assert answer.content_type == "application/problem+json"


async def test_a_json_type_with_parameters_is_taken(http: Http, service: Service):
    service.answers = [denied()]
    headers = {"content-type": "application/json; charset=utf-8"}
    async with http.post(EVALUATION, data=json.dumps(QUESTION), headers=headers) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    "entity",
    [
        {"subject": {"type": "user", "id": "alice"}},
        {"subject": {"type": "organisation", "id": HELPER}},
        {"subject": {**SUBJECT, "properties": {"identifier_scheme": "XX_CODE"}}},
        {"subject": {"type": "person", "id": "1" * 33, "properties": {"identifier_scheme": "FI_HETU"}}},
        {"subject": {**SUBJECT, "properties": {"through": "a firm"}}},
        {"action": {"name": "can_read"}},
        {"action": {**ACTION, "properties": {"specifier": "x" * 201}}},
        {"resource": {"type": "record", "id": "record-1"}},
    ],
)
async def test_what_the_node_does_not_know_is_denied_and_found_nowhere(http: Http, service: Service, entity: Any):
    status, document = await ask(http, EVALUATION, {**QUESTION, **entity})
    assert (status, document["decision"], document["context"]["error"]["status"]) == (200, False, 404)
    assert not service.requests


async def test_a_theme_that_is_not_there_is_denied(http: Http, service: Service):
    service.fault = errors.InvalidArgument("THEME_UNSUITABLE", "there is no such theme")
    assert (await ask(http, EVALUATION, QUESTION))[1]["decision"] is False


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (errors.InvalidArgument("CONSISTENCY_TOKEN_UNKNOWN", "no"), 400),
        (errors.Unauthenticated("TOKEN_EXPIRED", "no"), 401),
        (errors.PermissionDenied("THEME_NOT_YOURS", "no"), 403),
        (errors.ResourceExhausted("RATE_LIMITED", "no", retry_after=1.2), 429),
        (errors.Unavailable("REGISTER_STALE", "no", retry_after=1.0), 503),
        (errors.DeadlineExceeded("DEADLINE_EXCEEDED", "no"), 504),
        (errors.Internal("INTERNAL", "no"), 500),
    ],
)
async def test_a_refusal_is_never_a_decision(http: Http, service: Service, fault: errors.Fault, status: int):
    service.fault = fault
    async with http.post(EVALUATION, json=QUESTION) as answer:
        document = await answer.json(content_type=None)
        assert (answer.status, document["reason"]) == (status, fault.reason)
        assert "decision" not in document
        assert ("Retry-After" in answer.headers) == (fault.retry_after is not None)
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize("body", [QUESTION, {**QUESTION, "evaluations": []}])
async def test_evaluations_without_any_are_one_evaluation(http: Http, service: Service, body: Any):
    service.answers = [allowed()]
    assert (await ask(http, EVALUATIONS, body))[1]["decision"] is True


async def test_each_evaluation_takes_over_what_it_leaves_out_whole(http: Http, service: Service):
    service.answers = [
        checks_pb2.BatchCheckResponse(results=[answered(allowed()), answered(denied()), answered(denied())])
    ]
    other = {"type": "organisation", "id": FIRM}
    body = {
        "subject": {**SUBJECT, "properties": {"acr": f"{LOA}high"}},
        "action": {**ACTION, "properties": {"specifier": "1"}},
        "resource": RESOURCE,
        "context": {"consistency_token": "5"},
        "options": {"another_option": "value"},
        "evaluations": [{}, {"action": ACTION, "context": {}}, {"subject": SUBJECT, "resource": other}],
    }
    status, document = await ask(http, EVALUATIONS, body)
    assert (status, [one["decision"] for one in document["evaluations"]]) == (200, [True, False, False])
    assert "decision" not in document
    first, second, third = service.requests[0].checks
    assert (first.specifier, first.consistency_token, first.assurance_level) == ("1", "5", 3)
    assert (second.specifier, second.consistency_token) == ("", ""), "an entity is replaced, not merged"
    assert (third.principal.name, third.assurance_level) == (FIRM, 1)


@pytest.mark.parametrize(
    ("semantic", "meant"),
    [
        ("execute_all", "SEMANTICS_ALL"),
        ("deny_on_first_deny", "SEMANTICS_STOP_AT_DENIED"),
        ("permit_on_first_permit", "SEMANTICS_STOP_AT_ALLOWED"),
    ],
)
async def test_the_three_semantics(http: Http, service: Service, semantic: str, meant: str):
    service.answers = [checks_pb2.BatchCheckResponse(results=[answered(allowed())])]
    body = {**QUESTION, "options": {"evaluations_semantic": semantic}, "evaluations": [{}, {}]}
    _, document = await ask(http, EVALUATIONS, body)
    assert len(document["evaluations"]) == 1, "as many as the service answered"
    assert service.requests[0].semantics == checks_pb2.BatchCheckRequest.Semantics.Value(meant)


async def test_a_bad_evaluation_is_denied_by_itself(http: Http, service: Service):
    kind, fault = checks_pb2.BatchCheckResponse.Result, checks_pb2.BatchCheckResponse.CheckFault
    service.answers = [
        checks_pb2.BatchCheckResponse(
            results=[
                answered(allowed()),
                kind(fault=fault(reason="THEME_UNSUITABLE", message="no such theme")),
                kind(fault=fault(reason="REGISTER_STALE", message="later")),
                kind(fault=fault(reason="IDENTIFIER_INVALID", message="no code")),
            ]
        )
    ]
    body = {
        **without("resource"),
        "evaluations": [{"resource": RESOURCE}, {}, {"resource": {"type": "record", "id": "1"}}]
        + [{"resource": RESOURCE}] * 3,
    }
    status, document = await ask(http, EVALUATIONS, body)
    found = [(one["decision"], one["context"].get("error", {}).get("status")) for one in document["evaluations"]]
    assert (status, found) == (
        200,
        [(True, None), (False, 400), (False, 404), (False, 404), (False, 503), (False, 400)],
    )
    assert len(service.requests[0].checks) == 4


async def test_a_bad_evaluation_ends_what_ends_at_the_first_denial(http: Http, service: Service):
    service.answers = [checks_pb2.BatchCheckResponse(results=[answered(allowed())])]
    body = {
        **without("resource"),
        "options": {"evaluations_semantic": "deny_on_first_deny"},
        "evaluations": [{"resource": RESOURCE}, {}, {"resource": RESOURCE}],
    }
    _, document = await ask(http, EVALUATIONS, body)
    assert [one["decision"] for one in document["evaluations"]] == [True, False]
    assert len(service.requests[0].checks) == 1


@pytest.mark.parametrize(
    ("semantic", "answer", "decision"),
    [("deny_on_first_deny", denied(), False), ("permit_on_first_permit", allowed(), True)],
)
async def test_nothing_comes_after_the_decision_that_ends_it(
    http: Http, service: Service, semantic: str, answer: checks_pb2.CheckResponse, decision: bool
):
    service.answers = [checks_pb2.BatchCheckResponse(results=[answered(answer)])]
    body = {
        **without("resource"),
        "options": {"evaluations_semantic": semantic},
        "evaluations": [{"resource": RESOURCE}, {}],
    }
    _, document = await ask(http, EVALUATIONS, body)
    assert [one["decision"] for one in document["evaluations"]] == [decision]


@pytest.mark.parametrize(
    "wrong",
    [
        {"evaluations": {}},
        {"evaluations": [1]},
        {"evaluations": [{}], "options": []},
        {"evaluations": [{}], "options": {"evaluations_semantic": "any"}},
        {"evaluations": [{}] * 10_001},
    ],
)
async def test_evaluations_of_another_form_are_refused_whole(http: Http, service: Service, wrong: Any):
    assert (await ask(http, EVALUATIONS, {**QUESTION, **wrong}))[0] == 400
    assert not service.requests


def right(**fields: Any) -> rights_pb2.Right:
    return rights_pb2.Right(
        **{"delegate": Party(name=HELPER), "principal": Party(name=OWNER), "theme": "themes/taxes", **fields}
    )


async def test_subjects_of_the_type_that_may_whatever_id_they_have(http: Http, service: Service):
    service.answers = [
        rights_pb2.ListDelegatesResponse(
            rights=[
                right(delegate=Party(name=FIRM)),
                right(),
                right(specifier="853-1"),
                right(delegate=Party(name="persons/" + "p" * 26), specifier="853-2"),
                right(delegate=Party(name="persons/" + "q" * 26), needed_assurance_level=ASSURANCE_LEVEL_SUBSTANTIAL),
            ]
        )
    ]
    body = {**QUESTION, "action": {**ACTION, "properties": {"specifier": "853-1"}}}
    status, document = await ask(http, f"{SEARCH}subject", body)
    assert (status, document["results"]) == (200, [{"type": "person", "id": HELPER}])
    assert document["page"] == {"next_token": "", "count": 1}
    assert next(iter(document)) == "page"
    [asked] = service.requests
    assert (asked.principal.name, asked.theme) == (OWNER, "themes/taxes")


async def test_resources_and_actions(http: Http, service: Service):
    service.answers = [
        rights_pb2.ListPrincipalsResponse(rights=[right(principal=Party(name=FIRM)), right()]),
        rights_pb2.ListAllowedThemesResponse(rights=[right(), right(specifier="853-1")]),
    ]
    _, document = await ask(http, f"{SEARCH}resource", {**QUESTION, "resource": {"type": "organisation"}})
    assert document["results"] == [{"type": "organisation", "id": FIRM}]
    assert service.requests[0].delegate.name == HELPER
    _, document = await ask(http, f"{SEARCH}action", without("action"))
    assert document["results"] == [
        {"name": "themes/taxes"},
        {"name": "themes/taxes", "properties": {"specifier": "853-1"}},
    ]
    assert (service.requests[1].delegate.name, service.requests[1].principal.name) == (HELPER, OWNER)


async def test_pages_are_filled_and_belong_to_one_search(http: Http, service: Service):
    firm = right(principal=Party(name=FIRM))
    service.answers = [
        rights_pb2.ListPrincipalsResponse(rights=[firm, right()], next_page_token="A"),
        rights_pb2.ListPrincipalsResponse(
            rights=[right(principal=Party(name="persons/" + "p" * 26))], next_page_token="B"
        ),
        rights_pb2.ListPrincipalsResponse(rights=[firm]),
    ]
    body = {**QUESTION, "page": {"limit": 2}}
    _, first = await ask(http, f"{SEARCH}resource", body)
    assert (first["page"]["count"], len(first["results"])) == (2, 2)
    assert [(one.page_size, one.page_token) for one in service.requests] == [(2, ""), (1, "A")]
    token = first["page"]["next_token"]

    for changed in (
        {"page": {"token": token, "limit": 3}},
        {"page": {"token": token}, "subject": {"type": "person", "id": OWNER}},
        {"page": {"token": "rubbish"}},
        {"page": {"token": "WzEsMl0="}},
    ):
        assert (await ask(http, f"{SEARCH}resource", {**body, **changed}))[0] == 400
    assert (await ask(http, f"{SEARCH}subject", {**body, "page": {"token": token}}))[0] == 400

    _, last = await ask(http, f"{SEARCH}resource", {**body, "page": {"token": token}})
    assert last == {"page": {"next_token": "", "count": 0}, "results": []}
    assert (service.requests[2].page_size, service.requests[2].page_token) == (2, "B")


async def test_a_page_of_nothing_goes_on_at_the_beginning(http: Http, service: Service):
    _, document = await ask(http, f"{SEARCH}resource", {**QUESTION, "page": {"limit": 0}})
    assert document["results"] == []
    assert document["page"]["next_token"]
    assert not service.requests


@pytest.mark.parametrize("page", [{"limit": -1}, {"limit": True}, {"limit": "2"}, {"token": 1}, []])
async def test_a_page_of_another_form_is_refused(http: Http, page: Any):
    assert (await ask(http, f"{SEARCH}resource", {**QUESTION, "page": page}))[0] == 400


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("subject", "action"),
        ("subject", "resource.id"),
        ("subject", "subject.type"),
        ("resource", "subject"),
        ("resource", "subject.id"),
        ("resource", "resource.type"),
        ("action", "resource"),
        ("action", "subject.id"),
    ],
)
async def test_a_search_needs_all_but_what_it_is_for(http: Http, kind: str, missing: str):
    assert (await ask(http, f"{SEARCH}{kind}", without(missing)))[0] == 400


@pytest.mark.parametrize(
    ("kind", "entity"),
    [
        ("subject", {"subject": {"type": "spaceship"}}),
        ("subject", {"resource": {"type": "record", "id": "record-1"}}),
        ("resource", {"resource": {"type": "record"}}),
        ("resource", {"action": {"name": "can_read"}}),
        ("action", {"subject": {"type": "user", "id": "nobody"}}),
    ],
)
async def test_of_what_the_node_does_not_know_nothing_is_found(http: Http, service: Service, kind: str, entity: Any):
    status, document = await ask(http, f"{SEARCH}{kind}", {**QUESTION, **entity})
    assert (status, document["results"], document["page"]["next_token"]) == (200, [], "")
    assert not service.requests


async def test_the_metadata_leads_to_every_endpoint(http: Http):
    async with http.get("/.well-known/authzen-configuration") as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        document = await answer.json()
    assert document == {
        "policy_decision_point": ORIGIN,
        "access_evaluation_endpoint": f"{ORIGIN}{EVALUATION}",
        "access_evaluations_endpoint": f"{ORIGIN}{EVALUATIONS}",
        "search_subject_endpoint": f"{ORIGIN}{SEARCH}subject",
        "search_resource_endpoint": f"{ORIGIN}{SEARCH}resource",
        "search_action_endpoint": f"{ORIGIN}{SEARCH}action",
    }
