"""Callers of a node's edge, by gRPC and REST, with whatever certificate and token a test wants."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.local.node import Node
from gateway.client import Profile
from services.runtime import status, tls
from services.runtime.errors import Fault
from tests.tokens import Signer


@dataclass(frozen=True)
class Refusal:
    """What a caller was told."""

    status: str
    reason: str


class Caller:
    """Calls the edge with one certificate."""

    def __init__(self, edge: str, files: tls.Files, token: str | None) -> None:
        self.edge = edge
        self.files = files
        self.token = token
        self.fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(files.certificate.read_text())).hexdigest()

    @staticmethod
    def context(files: tls.Files) -> ssl.SSLContext:
        """For connections with a certificate."""
        context = ssl.create_default_context(cafile=str(files.authorities))
        context.load_cert_chain(str(files.certificate), str(files.key))
        return context

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """A fresh connection by gRPC."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        target = self.edge.removeprefix("https://")
        async with grpc.aio.secure_channel(target, tls.channel_credentials(self.files), options=options) as channel:
            yield channel

    def metadata(self) -> list[tuple[str, str]]:
        """The token."""
        return [("authorization", f"Bearer {self.token}")] if self.token is not None else []

    async def grpc(self, stub: Any, method: str, request: Any) -> Refusal:
        """The refusal of a unary call."""
        async with self.channel() as channel:
            try:
                await getattr(stub(channel), method)(request, metadata=self.metadata(), timeout=10)
            except grpc.RpcError as error:
                fault: Fault = status.fault_of(error)
                return Refusal(fault.code, fault.reason)
        raise AssertionError("it was not refused")

    async def rest(
        self, verb: str, path: str, body: Any = None, *, raw: bytes | None = None, stream: bool = False
    ) -> tuple[int, Any]:
        """Status and document of a REST call; of a `stream` its first object."""
        context = self.context(self.files)
        headers = dict(self.metadata()) | {"content-type": "application/json"}
        data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
            session.request(verb, self.edge + path, data=data, headers=headers) as answer,
        ):
            endless = stream and answer.status == 200
            text = (await answer.content.readline()).decode() if endless else await answer.text()
            return answer.status, json.loads(text) if text else None


def profile(node: Node, client: str) -> Profile:
    """The profile of a demo client."""
    return Profile.load(node.state.clients / client)


def issuer(node: Node) -> Signer:
    """The node's own signing key: to make tokens that only their defect keeps from being good."""
    (file,) = node.state.token_keys.glob("*.pem")
    key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Signer(key, thumbprint(key), node.edge)


def thumbprint(key: ec.EllipticCurvePrivateKey) -> str:
    """RFC 7638."""
    numbers = key.public_key().public_numbers()
    x, y = (
        base64.urlsafe_b64encode(value.to_bytes(32, "big")).decode().rstrip("=") for value in (numbers.x, numbers.y)
    )
    canonical = json.dumps({"crv": "P-256", "kty": "EC", "x": x, "y": y}, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).decode().rstrip("=")


def files_in(folder: Path, authorities: Path) -> tls.Files:
    """The certificate in a folder."""
    return tls.Files(folder / "certificate.pem", folder / "key.pem", authorities)
