"""What each container of a node is given to read: its certificate, its keys, its configuration, and nothing else.

The node's state (authorities, keys, clients) lies in one volume that only the
jobs mount. From it each process gets a share, a volume of its own, mounted at
`INSIDE`. What is in which share is told here once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from deploy import files, pki
from deploy.local import nats, plan, postgres
from deploy.local.state import State
from services.runtime import mesh, tls

INSIDE = Path("/run/solmu")
"""Where a container finds its share."""

USER = 10001
"""User and group of the services, of NATS and of Envoy in their containers; no user of any host."""

POSTGRES_USER = 999
"""The user `postgres` of the official images that build on Debian; those on Alpine have another."""

NAMED_BY_PERSONAL_CODE = ("authorisations", "messages")
"""The services that turn identity codes into names, and so need the party key."""

PROCESSES = (*mesh.SERVICES, mesh.GATEWAY, mesh.OPERATOR, plan.POSTGRES, plan.NATS)
"""Who has a share. Envoy reads what the gateway renders."""

Contents = Mapping[str, bytes]
"""File names in a share, and what they hold."""


POSTGRES_PORT = 5432
NATS_PORT = 4222
NATS_STORE = Path("/data")
NATS_MONITOR = "127.0.0.1:8222"
"""Of NATS, for the health check of its own container only."""


def owner(process: str) -> int:
    """The user that reads a share."""
    return POSTGRES_USER if process == plan.POSTGRES else USER


def contents(process: str, *, node: str, state: State) -> Contents:
    """What the share of a process holds. Raises OSError where the state lacks it."""
    if process == plan.POSTGRES:
        return _of_postgres(state)
    share = _identity(state.identity(process))
    if process == plan.NATS:
        return share | {nats.CONFIGURATION: nats_configuration(node).encode()}
    if process == mesh.GATEWAY:
        return share | _of_gateway(state)
    if process in mesh.SERVICES:
        share |= {"root.key": state.root_key.read_bytes()}
        if process in NAMED_BY_PERSONAL_CODE:
            share |= {"party.key": state.party_key.read_bytes()}
        if process == "authorisations":
            share |= {"clients.json": state.declared_clients.read_bytes()}
            share |= {f"token-keys/{key.name}": key.read_bytes() for key in state.token_keys.glob("*.pem")}
    return share


def lay(share: Contents, folder: Path, *, user: int | None) -> bool:
    """Brings a share up to date in `folder`, owned by `user`; answers whether anything changed.

    What the share does not name any more goes, so that a key that was taken
    out is out.
    """
    changed = False
    for name in sorted({"."} | {str(Path(name).parent) for name in share}):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
        _own(folder / name, user)
        (folder / name).chmod(0o700)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if str(path.relative_to(folder)) not in share:
            path.unlink()
            changed = True
    for name, content in share.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            files.write(path, content)
            changed = True
        _own(path, user)
    return changed


def nats_configuration(node: str) -> str:
    """The configuration of the embedded node's NATS, moved into a container."""
    inside = tls.Files(INSIDE / pki.CERTIFICATE, INSIDE / pki.KEY, INSIDE / pki.AUTHORITY)
    configuration = json.loads(nats.render(node=node, port=NATS_PORT, store=NATS_STORE, identity=inside))
    configuration |= {"listen": f"0.0.0.0:{NATS_PORT}", "http": NATS_MONITOR}
    return json.dumps(configuration, indent=2) + "\n"


def postgres_configuration() -> str:
    """The same of PostgreSQL. The image's entry point needs a socket to make the cluster."""
    overrides = "listen_addresses = '*'\nunix_socket_directories = '/var/run/postgresql'\n"
    return postgres.configuration(port=POSTGRES_PORT, folder=INSIDE) + overrides


def _of_postgres(state: State) -> Contents:
    identity = state.identity(plan.POSTGRES)
    rules = f"local all {postgres.SUPERUSER} peer\n" + postgres.host_based_authentication(mesh.SERVICES, source="all")
    return {
        "server.pem": identity.certificate.read_bytes(),
        "server.key": identity.key.read_bytes(),
        "ca.pem": identity.authorities.read_bytes(),
        "postgresql.conf": postgres_configuration().encode(),
        "pg_hba.conf": rules.encode(),
        "pg_ident.conf": postgres.identity_map(mesh.SERVICES).encode(),
    }


def _of_gateway(state: State) -> dict[str, bytes]:
    upstream = state.identity(mesh.EDGE)
    return {
        "edge/certificate.pem": (state.edge_identity / pki.CERTIFICATE).read_bytes(),
        "edge/key.pem": (state.edge_identity / pki.KEY).read_bytes(),
        "upstream/certificate.pem": upstream.certificate.read_bytes(),
        "upstream/key.pem": upstream.key.read_bytes(),
        "clients/ca.pem": (state.public / pki.AUTHORITY).read_bytes(),
        "clients/crl.pem": (state.public / pki.REVOCATION_LIST).read_bytes(),
    }


def _identity(identity: tls.Files) -> dict[str, bytes]:
    return {
        pki.CERTIFICATE: identity.certificate.read_bytes(),
        pki.KEY: identity.key.read_bytes(),
        pki.AUTHORITY: identity.authorities.read_bytes(),
    }


def own(folders: Iterable[Path], *, user: int | None) -> None:
    """Gives data folders that a volume made for root to whom they are for, and to nobody else."""
    for folder in folders:
        _own(folder, user)
        folder.chmod(0o700)


def _own(path: Path, user: int | None) -> None:
    if user is not None:
        os.chown(path, user, user)
