"""The HTTP server behind the edge: mutual TLS, and only for those who should come.

Adapters speak HTTP, so they stand here and not in a service. The edge brings
the calls; the node's own tools may ask whether the process is alive.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import ssl
from collections.abc import Iterable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from opentelemetry.trace import SpanKind

from gateway.problems import MEDIA_TYPE, problem
from gateway.routes import Endpoint
from services.runtime import mesh, telemetry, tls
from services.runtime.config import Address
from services.runtime.server import within
from services.runtime.telemetry import Telemetry

logger = logging.getLogger(__name__)

HEALTH_PATH = "/healthz"

ENDPOINTS = (Endpoint(HEALTH_PATH, 1024),)

MAX_REQUEST_BYTES = 4 << 20
"""What any adapter reads into memory at most; the edge has a limit per path."""

DRAIN_NOTICE = 1.0
"""Seconds in which a process that stops still answers, each time with the word that the connection ends: closed without
it, a connection may have the next request on its way."""

LOOK_SECONDS = 1.0
"""Between two looks at the files of the server's certificate."""

SHUTDOWN_SECONDS = 5.0
"""Time for calls under way when the process stops."""


def application(routes: Iterable[web.RouteDef], *, node: str, traces: Telemetry) -> web.Application:
    """The application: the adapters' routes, and health."""
    application = web.Application(
        middlewares=[_observed(traces), _as_problems(), _known_peers_only(node)],
        client_max_size=MAX_REQUEST_BYTES,
    )
    application.add_routes([*routes, web.get(HEALTH_PATH, _health)])
    return application


async def serve(application: web.Application, *, listen: Address, files: tls.Files, stop: asyncio.Event) -> None:
    """Serves until `stop` is set, with certificates that may change meanwhile."""
    context, stamp = tls.server_context(files), files.stamp()

    async def close_when_stopping(_: web.Request, response: web.StreamResponse) -> None:
        if stop.is_set():
            response.force_close()

    application.on_response_prepare.append(close_when_stopping)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, listen.host, listen.port, ssl_context=context, reuse_port=True)
        await site.start()
        logger.info("serving", extra={"listen": str(listen)})
        while not await within(stop, LOOK_SECONDS):
            stamp = _refreshed(context, files, stamp)
        await asyncio.sleep(DRAIN_NOTICE)
    finally:
        await runner.cleanup()
        logger.info("stopped")


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"status": "serving"})


def _known_peers_only(node: str) -> Middleware:
    edge, operator = mesh.service_uri(node, mesh.EDGE), mesh.service_uri(node, mesh.OPERATOR)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        peer = _peer_uri(request)
        if peer != edge and not (peer == operator and request.path == HEALTH_PATH):
            return _refusal("CALLER_NOT_ALLOWED", status=403, detail="this peer may not call the adapters")
        return await handler(request)

    return middleware


def _as_problems() -> Middleware:
    """Gives every refusal of the server itself the form of a problem document."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            refusal = _refusal("METHOD_UNKNOWN", status=405, detail="there is no such method here")
            refusal.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
            return refusal
        except web.HTTPRequestEntityTooLarge:
            return _refusal("BODY_TOO_LARGE", status=413, detail="the request body is too large")
        except web.HTTPNotFound:
            return _refusal("METHOD_UNKNOWN", status=404, detail="there is no such path")
        except Exception:
            error_id = secrets.token_hex(8)
            logger.exception("an adapter failed", extra={"error_id": error_id})
            return _refusal("INTERNAL", status=500, detail=f"a fault of the node, logged as {error_id}")

    return middleware


def _observed(traces: Telemetry) -> Middleware:
    """Counts, times and traces calls, by the path of the endpoint."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        endpoint = request.match_info.route.resource
        method = f"{request.method} {endpoint.canonical}" if endpoint else "unknown"
        with (
            traces.span(method, SpanKind.SERVER, carrier=request.headers),
            telemetry.CALL_SECONDS.labels(method).time(),
        ):
            response = await handler(request)
        telemetry.CALLS.labels(method, str(response.status)).inc()
        return response

    return middleware


def _peer_uri(request: web.Request) -> str | None:
    connection: ssl.SSLObject | None = request.get_extra_info("ssl_object")
    certificate: dict[str, Any] = (connection.getpeercert() if connection else None) or {}
    uris = [name for kind, name in certificate.get("subjectAltName", ()) if kind == "URI"]
    return uris[0] if len(uris) == 1 else None


def _refusal(reason: str, *, status: int, detail: str) -> web.Response:
    document = json.dumps(problem(reason, status=status, detail=detail))
    return web.Response(status=status, body=document.encode(), content_type=MEDIA_TYPE)


def _refreshed(context: ssl.SSLContext, files: tls.Files, stamp: tls.Stamp) -> tls.Stamp:
    try:
        now = files.stamp()
        if now != stamp:
            tls.check(files)
            tls.refresh(context, files)
    except (OSError, ValueError):
        return stamp  # half a rotation: keep what works, look again soon
    return now
