"""OpenID AuthZEN Authorization API 1.0 (final, January 2026): translations to `CheckService`.

    POST /access/v1/evaluation              section 6
    POST /access/v1/evaluations             section 7
    POST /access/v1/search/subject          section 8.4
    POST /access/v1/search/resource         section 8.5
    POST /access/v1/search/action           section 8.6
    GET  /.well-known/authzen-configuration section 9

What the entities mean here is in `authzen_mapping.py`. The caller's token goes
on to the service, which checks it again, counts the call and keeps its record;
a denial is an answer of status 200. Refusals are problem documents (RFC 9457).
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

from aiohttp import hdrs, web
from google.protobuf.message import Message
from solmu.authorisations.v1 import checks_pb2

from gateway.adapters import authzen_mapping as mapping
from gateway.adapters.authzen_mapping import Malformed, Search, Unknown
from gateway.problems import MEDIA_TYPE, NODE_DOMAIN, STATUS_OF_CODE, problem
from gateway.routes import Endpoint
from services.runtime import xfcc
from services.runtime.errors import Fault

EVALUATION_PATH = "/access/v1/evaluation"
EVALUATIONS_PATH = "/access/v1/evaluations"
SUBJECTS_PATH = "/access/v1/search/subject"
RESOURCES_PATH = "/access/v1/search/resource"
ACTIONS_PATH = "/access/v1/search/action"
METADATA_PATH = "/.well-known/authzen-configuration"

SCOPE = "mandates.check"
"""What the token needs; the methods behind it ask for the same."""

MAX_REQUEST_BYTES = 64 << 10
"""One question; a real one has some 500 bytes."""

MAX_BATCH_BYTES = 4 << 20
"""As many questions as a batch of checks takes, at some 400 bytes each."""

MAX_EVALUATIONS = 10_000
"""What `BatchCheck` takes."""

METADATA_SECONDS = 60
"""How long others may keep the metadata, which changes with a release only."""

READS_OF_A_PAGE = 20
"""Pages of the service read for one page of results, where most rights on them are not what was searched for."""


def _endpoint(path: str, max_request_bytes: int = MAX_REQUEST_BYTES) -> Endpoint:
    return Endpoint(path, max_request_bytes, scopes=(SCOPE,), echoes_request_id=True)


ENDPOINTS = (
    _endpoint(EVALUATION_PATH),
    _endpoint(EVALUATIONS_PATH, MAX_BATCH_BYTES),
    _endpoint(SUBJECTS_PATH),
    _endpoint(RESOURCES_PATH),
    _endpoint(ACTIONS_PATH),
    Endpoint(METADATA_PATH, 1024, echoes_request_id=True),
)

_METADATA = {
    "access_evaluation_endpoint": EVALUATION_PATH,
    "access_evaluations_endpoint": EVALUATIONS_PATH,
    "search_subject_endpoint": SUBJECTS_PATH,
    "search_resource_endpoint": RESOURCES_PATH,
    "search_action_endpoint": ACTIONS_PATH,
}

Json = dict[str, Any]


class Call(Protocol):
    """Calls the method of `CheckService` of this name for the client that the metadata proves; raises Fault."""

    def __call__(self, method: str, request: Message, *, metadata: Sequence[tuple[str, str]]) -> Awaitable[Any]:
        """The answer."""


Handler = Callable[["AuthZen", web.Request], Awaitable[Json]]


def _answering(handler: Handler) -> Callable[[AuthZen, web.Request], Awaitable[web.Response]]:
    """Gives answers and refusals their form."""

    @functools.wraps(handler)
    async def answer(self: AuthZen, request: web.Request) -> web.Response:
        try:
            return web.json_response(await handler(self, request))
        except Malformed as fault:
            return _refused("FIELD_INVALID", status=400, detail=str(fault))
        except Fault as fault:
            return _refused_by_service(fault)

    return answer


class AuthZen:
    """The handlers. `origin` is that of the edge, which is also the identifier of the decision point."""

    def __init__(self, *, origin: str, call: Call) -> None:
        self._call = call
        self._configuration = {"policy_decision_point": origin} | {
            name: origin + path for name, path in _METADATA.items()
        }

    def routes(self) -> list[web.RouteDef]:
        """For the application of the gateway."""
        return [
            web.post(EVALUATION_PATH, self.evaluation),
            web.post(EVALUATIONS_PATH, self.evaluations),
            web.post(SUBJECTS_PATH, self.subjects),
            web.post(RESOURCES_PATH, self.resources),
            web.post(ACTIONS_PATH, self.actions),
            web.get(METADATA_PATH, self.metadata),
        ]

    @_answering
    async def evaluation(self, request: web.Request) -> Json:
        """One decision."""
        return await self._one(await _body(request), _caller(request))

    @_answering
    async def evaluations(self, request: web.Request) -> Json:
        """Many decisions; without questions of its own the body is one (section 7.1)."""
        body, caller = await _body(request), _caller(request)
        each = mapping.evaluations(body)
        if not each:
            return await self._one(body, caller)
        if len(each) > MAX_EVALUATIONS:
            raise Malformed(f"evaluations has more than {MAX_EVALUATIONS} elements")
        return {"evaluations": await self._many(each, mapping.semantics(body), caller)}

    @_answering
    async def subjects(self, request: web.Request) -> Json:
        """Who may."""
        return await self._search(mapping.subject_search(await _body(request)), _caller(request))

    @_answering
    async def resources(self, request: web.Request) -> Json:
        """For whom."""
        return await self._search(mapping.resource_search(await _body(request)), _caller(request))

    @_answering
    async def actions(self, request: web.Request) -> Json:
        """In what."""
        return await self._search(mapping.action_search(await _body(request)), _caller(request))

    async def metadata(self, _: web.Request) -> web.Response:
        """What this decision point is and can do."""
        return web.json_response(self._configuration, headers={hdrs.CACHE_CONTROL: f"max-age={METADATA_SECONDS}"})

    async def _one(self, body: Json, caller: _Caller) -> Json:
        try:
            check = mapping.check(body)
            return mapping.decision(await self._call("Check", check, metadata=caller))
        except Unknown as unknown:
            return mapping.denied(unknown)
        except Fault as fault:
            if fault.reason not in mapping.UNKNOWN_REASONS:
                raise
            return mapping.denied(Unknown(fault.message))

    async def _many(
        self, each: Sequence[Json], semantics: checks_pb2.BatchCheckRequest.Semantics.ValueType, caller: _Caller
    ) -> list[Json]:
        """Decisions in order, up to the one that ends them. What cannot be asked is denied by itself."""
        kind = checks_pb2.BatchCheckRequest
        ends = {kind.SEMANTICS_STOP_AT_DENIED: False, kind.SEMANTICS_STOP_AT_ALLOWED: True}.get(semantics)
        asked: list[checks_pb2.CheckRequest | Json] = []
        for one in each:
            asked.append(_check_or_denial(one))
            if isinstance(asked[-1], dict) and ends is False:
                break
        checks = [one for one in asked if isinstance(one, checks_pb2.CheckRequest)]
        results: Iterable[Any] = ()
        if checks:
            results = (
                await self._call("BatchCheck", kind(checks=checks, semantics=semantics), metadata=caller)
            ).results
        return list(_up_to(ends, _in_order(asked, results)))

    async def _search(self, search: Search, caller: _Caller) -> Json:
        """A page of what was found: rights that are not what was searched for are passed over."""
        results: list[Json] = []
        token = search.token
        for _ in range(READS_OF_A_PAGE if search.question else 0):
            wanted = search.limit - len(results)
            if wanted <= 0:
                break
            page = await self._call(search.method, search.request(page_size=wanted, page_token=token), metadata=caller)
            for right in page.rights:
                entity = search.entity(right)
                if entity is not None and entity not in results[-1:]:
                    results.append(entity)
            token = page.next_page_token
            if not token:
                return mapping.page(results, "")
        return mapping.page(results, search.next_token(token) if search.question else "")


_Caller = list[tuple[str, str]]


def _caller(request: web.Request) -> _Caller:
    """What proves the client to the service: its token, and its certificate as the edge saw it."""
    forwarded = ",".join(request.headers.getall(xfcc.HEADER, []))
    return [("authorization", request.headers.get(hdrs.AUTHORIZATION, "")), (xfcc.HEADER.lower(), forwarded)]


async def _body(request: web.Request) -> Json:
    """The JSON object that the call carries (section 10.1.1; RFC 7493). Raises Malformed."""
    if request.content_type != "application/json":
        raise Malformed("the content type must be application/json")
    try:
        body = json.loads((await request.read()).decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Malformed("the body is not JSON, or has a member twice") from None
    if not isinstance(body, dict):
        raise Malformed("the body is not a JSON object")
    return body


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError
    return members


def _no_number(_: str) -> None:
    raise ValueError


def _check_or_denial(one: Json) -> checks_pb2.CheckRequest | Json:
    try:
        return mapping.check(one)
    except Unknown as unknown:
        return mapping.denied(unknown)
    except Malformed as fault:
        return mapping.failed(400, str(fault))


def _in_order(asked: Sequence[checks_pb2.CheckRequest | Json], results: Iterable[Any]) -> Iterable[Json]:
    """The decisions, for as long as the service answered."""
    answers = iter(results)
    for one in asked:
        if isinstance(one, dict):
            yield one
            continue
        result = next(answers, None)
        if result is None:
            return
        yield mapping.result(result)


def _up_to(end: bool | None, decisions: Iterable[Json]) -> Iterable[Json]:
    """The decisions up to and with the first that is `end`."""
    for one in decisions:
        yield one
        if one["decision"] is end:
            return


def _refused_by_service(fault: Fault) -> web.Response:
    status = STATUS_OF_CODE.get(fault.code, 500)
    refusal = _refused(fault.reason, status=status, detail=fault.message)
    if status == 401:
        refusal.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer error="invalid_token"'
    if fault.retry_after is not None:
        refusal.headers[hdrs.RETRY_AFTER] = str(math.ceil(fault.retry_after))
    return refusal


def _refused(reason: str, *, status: int, detail: str) -> web.Response:
    document = problem(reason, status=status, detail=detail, domain=NODE_DOMAIN)
    return web.Response(status=status, text=json.dumps(document), content_type=MEDIA_TYPE)
