"""The OAuth endpoints: form in, service called, form out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from solmu.authorisations.v1 import log_in_pb2, tokens_pb2

from gateway.adapters import oauth
from services.runtime import errors, xfcc

ORIGIN = "https://edge.example"
BROWSERS = "https://log-in.example"
HASH = "a" * 64
CERTIFICATE = {xfcc.HEADER: f'Hash={HASH};Subject="CN=city";URI=spiffe://solmu/client/city'}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
REQUEST = "grant_type=client_credentials&client_id=city"


class Service:
    """What the handlers call: remembers requests, answers or refuses as told."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.fault: errors.Fault | None = None
        self.responses: dict[str, Any] = {
            "IssueToken": tokens_pb2.IssueTokenResponse(
                access_token="a.b.c", token_type="Bearer", expires_in=300, scope="messages.send"
            ),
            "IntrospectToken": tokens_pb2.IntrospectTokenResponse(
                active=True, claims='{"sub": "organisations/a", "exp": 7, "active": "forged"}'
            ),
            "RevokeToken": tokens_pb2.RevokeTokenResponse(),
            "PushLogIn": log_in_pb2.PushLogInResponse(request_uri="urn:ietf:params:oauth:request_uri:r", expires_in=60),
        }

    async def call(self, method: str, request: Any) -> Any:
        self.requests.append(request)
        if self.fault:
            raise self.fault
        return self.responses[method]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def client(service: Service) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    handlers = oauth.OAuth(
        issuer=ORIGIN,
        browser_origin=BROWSERS,
        scopes=["messages.read", "messages.send"],
        call=service.call,
        log_in=service.call,
        keys=lambda: '{"keys": [1]}',
    )
    application = web.Application()
    application.add_routes(handlers.routes())
    async with TestClient(TestServer(application)) as started:
        yield started


async def ask(
    client: TestClient[web.Request, web.Application], body: str, path: str = "/oauth2/token", **headers: str
) -> ClientResponse:
    return await client.post(path, data=body, headers={**CERTIFICATE, **FORM, **headers})


async def test_a_token_is_issued(client: TestClient[web.Request, web.Application], service: Service) -> None:
    response = await ask(client, f"{REQUEST}&scope=messages.send+messages.read&resource=https%3A%2F%2Fedge.example")

    assert response.status == 200
    assert await response.json() == {
        "access_token": "a.b.c",
        "token_type": "Bearer",
        "expires_in": 300,
        "scope": "messages.send",
    }
    assert (response.headers["Cache-Control"], response.headers["Pragma"]) == ("no-store", "no-cache")
    assert service.requests == [
        tokens_pb2.IssueTokenRequest(
            grant_type="client_credentials",
            client_id="city",
            scope="messages.send messages.read",
            resource=ORIGIN,
            certificate=tokens_pb2.ClientCertificate(
                sha256=HASH, uri_sans=["spiffe://solmu/client/city"], subject="CN=city"
            ),
        )
    ]


async def test_an_exchanged_token_is_answered_with_its_type_and_details(
    client: TestClient[web.Request, web.Application], service: Service
) -> None:
    service.responses["IssueToken"] = tokens_pb2.IssueTokenResponse(
        access_token="a.b.c", issued_token_type="t", authorization_details='[{"type": "mandate"}]'
    )
    form = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&client_id=city&subject_token=x.y.z"
    document = await (await ask(client, f"{form}&subject_token_type=s&authorization_details=[]")).json()
    assert (document["issued_token_type"], document["authorization_details"]) == ("t", [{"type": "mandate"}])
    assert (service.requests[0].subject_token_type, service.requests[0].authorization_details) == ("s", "[]")


async def test_unknown_and_empty_parameters_are_ignored(
    client: TestClient[web.Request, web.Application], service: Service
) -> None:
    response = await ask(client, f"{REQUEST}&scope=&certificate=forged&nonsense=1")
    assert response.status == 200
    assert service.requests[0].scope == ""
    assert service.requests[0].certificate.sha256 == HASH


async def test_parameters_of_other_grants_are_handed_on(
    client: TestClient[web.Request, web.Application], service: Service
) -> None:
    await ask(client, "grant_type=g&client_assertion=x.y.z&subject_token=t")
    assert (service.requests[0].client_assertion, service.requests[0].subject_token) == ("x.y.z", "t")


WRONG = {
    "no grant type": ("client_id=city", 400, "invalid_request"),
    "an empty grant type": ("grant_type=&client_id=city", 400, "invalid_request"),
    "no client": ("grant_type=client_credentials", 400, "invalid_request"),
    "a client twice": (f"{REQUEST}&client_id=other", 400, "invalid_request"),
    "an unknown parameter twice": (f"{REQUEST}&x=1&x=2", 400, "invalid_request"),
    "two resources": (f"{REQUEST}&resource=a&resource=b", 400, "invalid_target"),
    "a secret": (f"{REQUEST}&client_secret=s", 401, "invalid_client"),
    "no form": ("{}", 400, "invalid_request"),
    "nothing": ("", 400, "invalid_request"),
    "what is not UTF-8": (f"{REQUEST}&scope=%ff", 400, "invalid_request"),
    "what is not ASCII": (f"{REQUEST}&scope=ä", 400, "invalid_request"),
    "too many parameters": (REQUEST + "".join(f"&p{number}=1" for number in range(70)), 400, "invalid_request"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_wrong_form_is_refused(
    client: TestClient[web.Request, web.Application], service: Service, case: str
) -> None:
    body, status, error = WRONG[case]
    response = await ask(client, body)
    assert (response.status, (await response.json())["error"]) == (status, error)
    assert response.headers["Cache-Control"] == "no-store"
    assert not service.requests


async def test_json_is_no_form(client: TestClient[web.Request, web.Application]) -> None:
    response = await ask(client, "{}", **{"Content-Type": "application/json"})
    assert (response.status, (await response.json())["error"]) == (400, "invalid_request")


async def test_the_authorization_header_is_no_way_in(
    client: TestClient[web.Request, web.Application], service: Service
) -> None:
    response = await ask(client, REQUEST, Authorization="Basic Y2l0eTpz")
    assert (response.status, (await response.json())["error"]) == (401, "invalid_client")
    assert not service.requests


@pytest.mark.parametrize("header", [None, "", "Hash=1", f"Hash={HASH},Hash={HASH}"])
async def test_without_a_certificate_there_is_no_client(
    client: TestClient[web.Request, web.Application], service: Service, header: str | None
) -> None:
    headers = FORM if header is None else {**FORM, xfcc.HEADER: header}
    response = await client.post("/oauth2/token", data=REQUEST, headers=headers)
    assert (response.status, (await response.json())["error"]) == (401, "invalid_client")
    assert not service.requests


FAULTS = {
    "invalid_client": (errors.Unauthenticated("OAUTH_INVALID_CLIENT", 'no "such" client ä'), 401),
    "invalid_scope": (errors.InvalidArgument("OAUTH_INVALID_SCOPE", "not yours"), 400),
    "unsupported_grant_type": (errors.InvalidArgument("OAUTH_UNSUPPORTED_GRANT_TYPE", "no such grant"), 400),
    "invalid_request": (errors.InvalidArgument("FIELD_INVALID", "too long"), 400),
    "temporarily_unavailable": (errors.Unavailable("UNAVAILABLE", "10.0.0.1 is away"), 503),
    "server_error": (errors.Internal("INTERNAL", "trace"), 500),
}


@pytest.mark.parametrize("error", FAULTS)
async def test_a_refusal_of_the_service_becomes_one_of_oauth(
    client: TestClient[web.Request, web.Application], service: Service, error: str
) -> None:
    service.fault, status = FAULTS[error]
    response = await ask(client, REQUEST)
    document = await response.json()
    assert (response.status, document["error"]) == (status, error)
    assert '"' not in document["error_description"]
    assert document["error_description"].isascii()
    assert not {"10.0.0.1", "trace"} & set(document["error_description"].split())
    assert response.headers["Cache-Control"] == "no-store"


async def test_an_introspection_tells_the_claims_of_a_good_token(
    client: TestClient[web.Request, web.Application], service: Service
) -> None:
    response = await ask(client, "token=a.b.c&token_type_hint=x&client_id=city", "/oauth2/introspect")
    assert (response.status, response.headers["Cache-Control"]) == (200, "no-store")
    assert await response.json() == {"active": True, "sub": "organisations/a", "exp": 7}
    (request,) = service.requests
    assert (request.token, request.token_type_hint, request.client_id) == ("a.b.c", "x", "city")
    assert request.certificate.sha256 == HASH


async def test_an_introspection_says_nothing_of_a_token_that_is_not_good(
    client: TestClient[web.Request, web.Application], service: Service
) -> None:
    service.responses["IntrospectToken"] = tokens_pb2.IntrospectTokenResponse(active=False)
    response = await ask(client, "token=a.b.c&client_id=city", "/oauth2/introspect")
    assert (response.status, await response.json()) == (200, {"active": False})


async def test_a_revocation_is_answered_with_nothing(
    client: TestClient[web.Request, web.Application], service: Service
) -> None:
    form = "token=a.b.c&client_assertion=x.y.z&client_assertion_type=t"
    response = await ask(client, form, "/oauth2/revoke")
    assert (response.status, await response.read()) == (200, b"")
    (request,) = service.requests
    assert (request.token, request.client_assertion, request.client_assertion_type) == ("a.b.c", "x.y.z", "t")


@pytest.mark.parametrize("path", ["/oauth2/introspect", "/oauth2/revoke"])
async def test_a_form_without_token_or_client_is_refused(
    client: TestClient[web.Request, web.Application], service: Service, path: str
) -> None:
    for form in ("client_id=city", "token=a.b.c", "token=&client_id=city", "token=a&token=b&client_id=city"):
        response = await ask(client, form, path)
        assert (response.status, (await response.json())["error"]) == (400, "invalid_request")
    assert service.requests == []
    service.fault = errors.Unauthenticated("OAUTH_INVALID_CLIENT", "no")
    response = await ask(client, "token=a&client_id=city", path)
    assert (response.status, (await response.json())["error"]) == (401, "invalid_client")


async def test_the_key_set_can_be_kept_and_asked_about(client: TestClient[web.Request, web.Application]) -> None:
    first = await client.get("/oauth2/jwks")
    again = await client.get("/oauth2/jwks", headers={"If-None-Match": first.headers["ETag"]})
    other = await client.get("/oauth2/jwks", headers={"If-None-Match": '"other"'})

    assert await first.json(content_type="application/jwk-set+json") == {"keys": [1]}
    assert first.headers["Cache-Control"] == "max-age=60"
    assert (again.status, await again.read()) == (304, b"")
    assert other.status == 200


async def test_the_metadata_is_what_rfc_8414_and_rfc_8705_ask_for(
    client: TestClient[web.Request, web.Application],
) -> None:
    response = await client.get("/.well-known/oauth-authorization-server")
    assert await response.json() == {
        "issuer": ORIGIN,
        "token_endpoint": f"{ORIGIN}/oauth2/token",
        "jwks_uri": f"{ORIGIN}/oauth2/jwks",
        "scopes_supported": ["messages.read", "messages.send"],
        "authorization_endpoint": f"{BROWSERS}/oauth2/authorize",
        "authorization_response_iss_parameter_supported": True,
        "code_challenge_methods_supported": ["S256"],
        "pushed_authorization_request_endpoint": f"{ORIGIN}/oauth2/par",
        "require_pushed_authorization_requests": True,
        "response_modes_supported": ["query"],
        "response_types_supported": ["code"],
        "grant_types_supported": [
            "authorization_code",
            "client_credentials",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ],
        "introspection_endpoint": f"{ORIGIN}/oauth2/introspect",
        "revocation_endpoint": f"{ORIGIN}/oauth2/revoke",
        **{
            f"{name}_endpoint_auth_methods_supported": ["tls_client_auth", "private_key_jwt"]
            for name in ("token", "introspection", "revocation")
        },
        **{
            f"{name}_endpoint_auth_signing_alg_values_supported": ["PS256", "ES256", "EdDSA"]
            for name in ("token", "introspection", "revocation")
        },
        "tls_client_certificate_bound_access_tokens": True,
    }


async def test_a_node_to_which_nobody_logs_in_says_so() -> None:
    service = Service()
    handlers = oauth.OAuth(
        issuer=ORIGIN, browser_origin="", scopes=[], call=service.call, log_in=service.call, keys=lambda: ""
    )
    application = web.Application()
    application.add_routes(handlers.routes())
    async with TestClient(TestServer(application)) as client:
        metadata = await (await client.get("/.well-known/oauth-authorization-server")).json()
    assert metadata["response_types_supported"] == []
    assert "authorization_code" not in metadata["grant_types_supported"]
    assert "authorization_endpoint" not in metadata


PUSHED = "client_id=city&response_type=code&redirect_uri=https%3A%2F%2Fcity.example%2F&state=s&code_challenge=c"


async def test_a_log_in_is_pushed_as_its_form_says(
    service: Service, client: TestClient[web.Request, web.Application]
) -> None:
    response = await ask(client, PUSHED + "&prompt=login&display=page", "/oauth2/par")
    assert (response.status, response.headers["Cache-Control"]) == (201, "no-store")
    assert await response.json() == {"request_uri": "urn:ietf:params:oauth:request_uri:r", "expires_in": 60}
    [request] = service.requests
    assert (request.client_id, request.redirect_uri, request.prompt) == ("city", "https://city.example/", "login")
    assert request.certificate.sha256 == HASH


@pytest.mark.parametrize("defect", ["&request_uri=urn%3Ax", "&request=a.b.c", "&state=again", "&client_secret=s"])
async def test_what_a_pushed_request_must_not_have_is_refused(
    service: Service, client: TestClient[web.Request, web.Application], defect: str
) -> None:
    response = await ask(client, PUSHED + defect, "/oauth2/par")
    assert (await response.json())["error"] in ("invalid_request", "invalid_client")
    assert service.requests == []


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        (errors.InvalidArgument("REDIRECT_URI_UNKNOWN", "x"), 400, "invalid_request"),
        (errors.InvalidArgument("OAUTH_UNSUPPORTED_RESPONSE_TYPE", "x"), 400, "unsupported_response_type"),
        (errors.PermissionDenied("OAUTH_UNAUTHORIZED_CLIENT", "x"), 400, "unauthorized_client"),
        (errors.Unauthenticated("OAUTH_INVALID_CLIENT", "x"), 401, "invalid_client"),
    ],
)
async def test_a_refused_log_in_is_told_as_oauth_has_it(
    service: Service,
    client: TestClient[web.Request, web.Application],
    fault: errors.Fault,
    status: int,
    error: str,
) -> None:
    service.fault = fault
    response = await ask(client, PUSHED, "/oauth2/par")
    assert (response.status, (await response.json())["error"]) == (status, error)
