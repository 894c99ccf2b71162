"""A gRPC proxy in Python with the edge's checks, to compare it with: certificate, token, binding and scope.

`python -m tests.bench.proxy PORT_BEHIND FOLDER CALLERS_AUTHORITY ISSUER < keys` prints the port that it listens on.
What it leaves out: REST, limits, revocation, problem documents, logs.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import jwt

from services.runtime import tls

SCOPES = {"parcels.write", "parcels.read"}


class Proxy(grpc.GenericRpcHandler):
    """Checks every call, and passes it on as it came."""

    def __init__(self, channel: grpc.aio.Channel, *, keys: str, issuer: str) -> None:
        [key] = json.loads(keys)["keys"]
        self._key = jwt.PyJWK(key).key
        self._issuer = issuer
        self._channel = channel
        self._known: dict[str, dict[str, Any]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        forward: Any = self._channel.unary_unary(handler_call_details.method)

        async def pass_on(request: bytes, context: Any) -> bytes:
            metadata = dict(context.invocation_metadata())
            await self._check(metadata.get("authorization", ""), context)
            answer: bytes = await forward(request, metadata=[("authorization", metadata["authorization"])])
            return answer

        return grpc.unary_unary_rpc_method_handler(pass_on)

    async def _check(self, authorization: str, context: Any) -> None:
        token = authorization.removeprefix("Bearer ")
        claims = self._known.get(token)
        if claims is None:
            try:
                claims = jwt.decode(token, self._key, ["ES256"], audience=self._issuer, issuer=self._issuer)
            except jwt.PyJWTError:
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "not a token of this node")
                raise
            self._known[token] = claims
        certificate = ssl.PEM_cert_to_DER_cert(context.auth_context()["x509_pem_cert"][0].decode())
        bound = claims["cnf"]["x5t_hex"] == hashlib.sha256(certificate).hexdigest()
        if not bound or claims["exp"] < time.time() or not set(claims["scope"].split()) >= SCOPES:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not with this token")


async def main(behind: int, folder: Path, authority: Path, issuer: str, keys: str) -> None:
    """Serves until it is ended."""
    inner = tls.Files(folder / "edge.pem", folder / "edge.key", folder / "internal.pem")
    outer = tls.Files(folder / "edge_public.pem", folder / "edge_public.key", authority)
    channel = grpc.aio.secure_channel(f"localhost:{behind}", tls.channel_credentials(inner))
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Proxy(channel, keys=keys, issuer=issuer),))
    port = server.add_secure_port("127.0.0.1:0", tls.server_credentials(outer))
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    import uvloop

    behind, folder, authority, issuer = sys.argv[1:]
    uvloop.run(main(int(behind), Path(folder), Path(authority), issuer, sys.stdin.read()))
