"""The state folder: everything a node keeps on disk, and how it is laid out.

    pki/internal/  ca.pem ca.key <service>/{certificate.pem,key.pem}
    pki/public/    ca.pem ca.key crl.pem edge/{certificate.pem,key.pem}
    clients/       <client_id>/{certificate.pem,key.pem,ca.pem,profile.json}
    secrets/       root.key party.key token-keys/*.pem clients.json identity-provider.pem identity-providers.json
    postgres/ nats/ attachments/ edge/    data of the engines, files of the edge
    life           names the node's present life, which ends where a backup is restored
    log/           one log per process and the supervisor's own
    run/           lock node.json ports.json: of the node that runs now

Deleting the folder while the node is down makes a new node of it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy import files, pki
from deploy.local.problems import NodeProblem, of_os_error
from services.runtime import tls

LAYOUT = 1
"""Raised when the folder changes in a way that an older release would not understand."""

FREE_BYTES_TO_START = 500_000_000
"""A fresh node writes about 120 MB (PostgreSQL's cluster and its first journal); the rest is room to work in."""

FREE_BYTES_TO_WARN = 200_000_000
"""Below this a running node warns: PostgreSQL stops for good when it cannot write its journal."""

KEY_BYTES = 32
"""Length of the root key (AES-256) and of the party key (HMAC-SHA-256)."""

LIFE = "life"
"""The name of a file with the name of the node's present life: no backup holds it, so a restored node has another."""

SUBFOLDERS = ("pki", "clients", "secrets", "postgres", "nats", "attachments", "edge", "log", "run")


class State:
    """The paths of one state folder. Making the object touches nothing; `prepare` does."""

    def __init__(self, root: Path) -> None:
        root = root.resolve()
        self.root = root
        self.internal = root / "pki" / "internal"
        self.public = root / "pki" / "public"
        self.trust = root / "pki" / "trust"
        self.edge_identity = self.public / "edge"
        self.clients = root / "clients"
        self.secrets = root / "secrets"
        self.root_key = self.secrets / "root.key"
        self.party_key = self.secrets / "party.key"
        self.token_keys = self.secrets / "token-keys"
        self.declared_clients = self.secrets / "clients.json"
        self.identity_provider_key = self.secrets / "identity-provider.pem"
        self.identity_providers = self.secrets / "identity-providers.json"
        self.postgres = root / "postgres"
        self.nats = root / "nats"
        self.attachments = root / "attachments"
        self.edge = root / "edge"
        self.log = root / "log"
        self.run = root / "run"
        self.lock = self.run / "lock"
        self.node_file = self.run / "node.json"
        self.ports_file = self.run / "ports.json"
        self.layout_file = root / "layout"
        self.life_file = root / LIFE

    @cached_property
    def supervisor_log(self) -> Path:
        """What the supervisor itself says."""
        return self.log / "supervisor.log"

    def identity(self, service: str) -> tls.Files:
        """The certificate, key and authority of one service or engine."""
        folder = self.internal / service
        return tls.Files(
            certificate=folder / pki.CERTIFICATE, key=folder / pki.KEY, authorities=self.internal / pki.AUTHORITY
        )

    def prepare(self) -> None:
        """Makes the folders and checks that this release may write here. Raises NodeProblem.

        Only their owner can look into the folders. Where that is root, others
        may pass through the outermost one, because PostgreSQL then runs as
        another user and must reach the part that is its own.
        """
        try:
            self._refuse_foreign()
            self.root.mkdir(parents=True, exist_ok=True)
            self._check_layout()
            self.root.chmod(0o711 if os.geteuid() == 0 else 0o700)
            for name in SUBFOLDERS:
                (self.root / name).mkdir(mode=0o700, exist_ok=True)
            files.write(self.layout_file, f"{LAYOUT}\n")
        except OSError as error:
            raise of_os_error(error, f"preparing the state folder {self.root}") from error

    def check_space(self) -> None:
        """Raises NodeProblem where the disk has too little room for a node to start."""
        free = self.free_bytes()
        if free < FREE_BYTES_TO_START:
            raise NodeProblem(
                f"the disk of {self.root} has {free // 1_000_000} MB left; "
                f"a node needs {FREE_BYTES_TO_START // 1_000_000} MB to start",
                "free some space, or put the state on another disk with SOLMU_STATE",
            )

    def free_bytes(self) -> int:
        """Bytes that this user may still write on the disk of the state folder."""
        return shutil.disk_usage(self.root).free

    def prepare_secrets(self) -> None:
        """Makes the keys that are missing, and the name of the node's life; what is there stays as it is."""
        if not self.life_file.exists():
            files.write(self.life_file, secrets.token_hex(KEY_BYTES))
        for path in (self.root_key, self.party_key):
            if not path.exists():
                files.write(path, secrets.token_bytes(KEY_BYTES))
        self.token_keys.mkdir(mode=0o700, exist_ok=True)
        if not any(self.token_keys.glob("*.pem")):
            key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            # Named by its age, so that names sort from the oldest to the newest.
            files.write(self.token_keys / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.pem", key)

    def prepare_identities(self, node: str, services: Iterable[str], *, edge: pki.Identity | None = None) -> bool:
        """Renews the certificates that are due and publishes a fresh revocation list.

        `edge` is the public side of the edge, where it has other names than
        those of this machine. Answers whether one of the internal certificates changed. Runs at each
        start and then daily.
        """
        internal = pki.Authority.open(self.internal, f"{node} internal authority")
        changed = [internal.keep(pki.Identity.service(node, name), self.internal / name) for name in services]
        public = pki.Authority.open(self.public, f"{node} public authority")
        public.keep(edge or pki.Identity.edge(), self.edge_identity)
        public.publish_crl()
        return any(changed)

    def _check_layout(self) -> None:
        try:
            found = self.layout_file.read_text().strip()
        except FileNotFoundError:
            return
        if not found.isdigit() or int(found) > LAYOUT:
            raise NodeProblem(
                f"the state folder {self.root} was made by a newer Solmu (layout {found}, this one knows {LAYOUT})",
                "use that release, or name another folder with SOLMU_STATE",
            )

    def _refuse_foreign(self) -> None:
        if not self.root.exists() or self.layout_file.exists() or self.run.is_dir():
            return
        if not self.root.is_dir() or any(self.root.iterdir()):
            raise NodeProblem(
                f"{self.root} is something else than the state of a node",
                "name an empty folder, or one that does not exist, with SOLMU_STATE",
            )
