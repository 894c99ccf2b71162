"""Settings of the gateway process, and the plan of the edge that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gateway import adapters
from gateway.adapters.xroad.errors import Style
from gateway.envoy.plan import ADAPTERS, Limits, Plan
from gateway.routes import Route
from services.runtime.config import (
    Address,
    ConfigError,
    Instances,
    ProcessSettings,
    address,
    file,
    instances,
    natural,
    setting,
)

_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


def origin(value: str) -> str:
    """An https origin: issuer and audience of the tokens, to which paths are appended."""
    parts = urlsplit(value)
    if parts.scheme != "https" or not parts.hostname or value != f"https://{parts.netloc}":
        raise ValueError(f"{value!r} is not an origin such as https://edge.example.org")
    return value


def new_folder(value: str) -> Path:
    """A folder, made for its owner alone where it is not there."""
    path = Path(value).absolute()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@dataclass(frozen=True, kw_only=True)
class GatewaySettings(ProcessSettings):
    """What the gateway process reads."""

    listen: Address = setting("SOLMU_LISTEN", address, doc="host:port on which it serves the adapters to the edge")
    reached_at: Address | None = setting(
        "SOLMU_GATEWAY", address, default=None, doc="host:port at which the edge reaches it, if not SOLMU_LISTEN"
    )
    metrics_listen: Address | None = setting(
        "SOLMU_METRICS_LISTEN", address, default=None, doc="host:port of /metrics for Prometheus"
    )
    issuer: str = setting("SOLMU_ISSUER", origin, doc="origin of the edge: issuer and audience of its tokens")
    client_rate: int = setting(
        "SOLMU_CLIENT_RATE", natural, default=Limits.client_calls_per_second, doc="calls per second of one client"
    )
    client_burst: int = setting(
        "SOLMU_CLIENT_BURST", natural, default=Limits.client_burst, doc="calls that a client may make after a pause"
    )
    folder: Path = setting("SOLMU_EDGE_STATE", new_folder, doc="folder for the files that Envoy reads")
    edge_listen: Address = setting("SOLMU_EDGE_LISTEN", address, doc="host:port of the public port")
    browser_listen: Address | None = setting(
        "SOLMU_BROWSER_LISTEN", address, default=None, doc="host:port of the public port for browsers; none without it"
    )
    browser_origin: str = setting(
        "SOLMU_BROWSER_ORIGIN", origin, default="", doc="origin at which browsers reach that port; people log in there"
    )
    edge_certificate: Path = setting("SOLMU_EDGE_TLS_CERTIFICATE", file, doc="certificate chain of the edge, PEM")
    edge_key: Path = setting("SOLMU_EDGE_TLS_KEY", file, doc="private key of the edge, PEM")
    client_authorities: Path = setting(
        "SOLMU_CLIENT_AUTHORITIES", file, doc="certificates of the authorities that vouch for clients, PEM"
    )
    client_crl: Path = setting("SOLMU_CLIENT_CRL", file, doc="a revocation list of each of those authorities, PEM")
    upstream_certificate: Path = setting(
        "SOLMU_EDGE_UPSTREAM_CERTIFICATE", file, doc="certificate of the identity `edge`, PEM"
    )
    upstream_key: Path = setting("SOLMU_EDGE_UPSTREAM_KEY", file, doc="private key of the identity `edge`, PEM")
    messages: Instances = setting(
        "SOLMU_MESSAGES", instances, doc="host:port of the service messages; of several processes, with commas"
    )
    authorisations: Instances = setting(
        "SOLMU_AUTHORISATIONS", instances, doc="host:port of the service authorisations; of several, with commas"
    )
    exchange: Instances = setting(
        "SOLMU_EXCHANGE", instances, doc="host:port of the service exchange; of several, with commas"
    )
    xroad_errors: Style = setting(
        "SOLMU_XROAD_ERRORS", Style, default=Style.CAMEL, doc="spelling of X-Road's error codes: camel or snake (7.8)"
    )

    @property
    def upstreams(self) -> dict[str, Instances]:
        """Where the edge finds the processes of each service, by name."""
        own = self.reached_at or self.listen
        if own.host in _WILDCARDS:
            own = Address("127.0.0.1", own.port)
        return {
            "messages": self.messages,
            "authorisations": self.authorisations,
            "exchange": self.exchange,
            ADAPTERS: Instances((own,)),
        }


def plan(settings: GatewaySettings, *, routes: tuple[Route, ...], descriptors: str) -> Plan:
    """The plan of the edge. `descriptors` is the name of the file with the descriptor set.

    Raises ConfigError where a route leads to a service that no setting names.
    """
    unknown = sorted({route.upstream for route in routes} - set(settings.upstreams))
    if unknown:
        raise ConfigError([f"the contracts have a service {name}, and no setting says where it is" for name in unknown])
    return Plan(
        node=settings.node,
        issuer=settings.issuer,
        listen=settings.edge_listen,
        browser_listen=settings.browser_listen,
        folder=settings.folder,
        upstreams=settings.upstreams,
        routes=routes,
        endpoints=adapters.ENDPOINTS,
        descriptors=descriptors,
        traces=address(settings.otlp_endpoint) if settings.otlp_endpoint else None,
        trace_ratio=settings.trace_ratio,
        limits=Limits(client_calls_per_second=settings.client_rate, client_burst=settings.client_burst),
    )
