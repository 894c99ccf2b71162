"""What a provider publishes about itself, over TLS."""

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from solmu.types.v1.types_pb2 import NationalIdentifier

from deploy import pki
from deploy.local import ports
from services.authorisations import relying_party
from services.authorisations.identity_providers import IdentityProviders
from services.authorisations.provider_file import Endpoints, LogIn, Provider
from services.authorisations.provider_metadata import KEPT_SECONDS, PATH, ProviderMetadata
from services.runtime.errors import Fault
from tests.integration.authorisations.service import PARTIES
from tests.unit.authorisations import test_identity_providers as provider_files


@dataclass
class Publisher:
    """A provider's server, what it says, and how often it was asked."""

    issuer: str
    context: ssl.SSLContext
    http: aiohttp.ClientSession
    answer: web.Response | None = None
    members: dict[str, Any] = field(default_factory=dict)
    asked: int = 0
    now: float = 0.0

    async def serve(self, _: web.Request) -> web.Response:
        self.asked += 1
        return self.answer or web.json_response(self.said() | self.members)

    def said(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "pushed_authorization_request_endpoint": f"{self.issuer}/par",
        }

    def metadata(self) -> ProviderMetadata:
        return ProviderMetadata(http=self.http, clock=lambda: self.now)

    async def endpoints(self, metadata: ProviderMetadata) -> Endpoints:
        log_in = LogIn(id="bank", display_name="Bank", client_id="node", endpoints=None, context=self.context)
        scheme = NationalIdentifier.SCHEME_FI_HETU
        provider = Provider(
            issuer=self.issuer, keys={}, clients={}, claim="code", scheme=scheme, assurance={}, log_in=log_in
        )
        return await metadata.endpoints(provider, log_in)


@pytest.fixture
async def publisher(tmp_path: Path) -> AsyncIterator[Publisher]:
    authority = pki.Authority.open(tmp_path, "provider")
    authority.keep(pki.Identity.edge(), tmp_path / "edge")
    port = ports.free()
    trusting = ssl.create_default_context(cafile=str(authority.certificate_path))
    async with relying_party.session() as http:
        found = Publisher(f"https://localhost:{port}", trusting, http)
        application = web.Application()
        application.router.add_get(PATH, found.serve)
        runner = web.AppRunner(application)
        await runner.setup()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tmp_path / "edge" / pki.CERTIFICATE, tmp_path / "edge" / pki.KEY)
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
        yield found
        await runner.cleanup()


async def test_what_a_provider_publishes_is_read_once_and_again_when_it_is_old(publisher: Publisher) -> None:
    metadata = publisher.metadata()
    first = await publisher.endpoints(metadata)
    assert first.token_endpoint == f"{publisher.issuer}/token"
    publisher.members["token_endpoint"] = f"{publisher.issuer}/moved"
    publisher.now = KEPT_SECONDS - 1
    assert await publisher.endpoints(metadata) == first
    assert publisher.asked == 1
    publisher.now = KEPT_SECONDS
    assert (await publisher.endpoints(metadata)).token_endpoint == f"{publisher.issuer}/moved"


@pytest.mark.parametrize(
    "members",
    [
        {"issuer": "https://another.example"},
        {"issuer": None},
        {"token_endpoint": None},
        {"token_endpoint": "http://localhost/token"},
        {"authorization_endpoint": "https:///authorize"},
        {"authorization_endpoint": "https://localhost/authorize#part"},
        {"pushed_authorization_request_endpoint": ["https://localhost/par"]},
    ],
)
async def test_metadata_of_another_issuer_or_without_good_endpoints_is_not_believed(
    publisher: Publisher, members: dict[str, Any]
) -> None:
    publisher.members = members
    with pytest.raises(Fault, match="identity provider") as refused:
        await publisher.endpoints(publisher.metadata())
    assert refused.value.reason == "IDENTITY_PROVIDER_AWAY"


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 404},
        {"status": 302, "headers": {"location": "https://another.example"}},
        {"text": "no JSON"},
        {"text": '{"issuer": "a", "issuer": "b"}'},
        {"text": " " * 100_000},
    ],
)
async def test_what_is_no_metadata_is_not_believed(publisher: Publisher, answer: dict[str, Any]) -> None:
    metadata = publisher.metadata()
    publisher.answer = web.Response(**answer)
    with pytest.raises(Fault, match="identity provider") as refused:
        await publisher.endpoints(metadata)
    assert refused.value.reason == "IDENTITY_PROVIDER_AWAY"
    publisher.answer = None
    assert await publisher.endpoints(metadata), "a failure is not kept"


def test_a_file_names_all_endpoints_or_none(tmp_path: Path) -> None:
    terms = {name: text for name, text in provider_files.log_in().items() if not name.endswith("_endpoint")}
    path = provider_files.file(tmp_path, provider_files.entry(log_in=terms))
    found = IdentityProviders(path, parties=PARTIES).for_log_in()
    assert [provider.log_in and provider.log_in.endpoints for provider in found] == [None]
