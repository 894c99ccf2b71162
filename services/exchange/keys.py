"""The keys with which this node signs and proves itself, as they are in use now.

Software keys lie sealed in the database and are opened once per process. Every
process follows what another changes.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from solmu.exchange.v1 import directory_pb2, keys_pb2, statements_pb2

from services.exchange import key_store
from services.exchange.batch_signing import BatchSigner
from services.exchange.evidence import signatures
from services.exchange.evidence.signatures import Algorithm, PinnedKey, PrivateKey
from services.exchange.evidence.statements import Statement
from services.exchange.proofs import signature_message
from services.runtime.database import PASSING, Database, Row
from services.runtime.errors import FailedPrecondition, Unavailable
from services.runtime.sealing import Vault

logger = logging.getLogger(__name__)

SOFTWARE = "keyTokens/software"
PKCS11 = "keyTokens/pkcs11"
FOLLOW_INTERVAL = 1.0
"""Seconds between two looks at what other processes have changed."""

ACTIVE = keys_pb2.OrganisationKey.STATE_ACTIVE
DESTROYED = keys_pb2.OrganisationKey.STATE_DESTROYED


@dataclass(frozen=True)
class OrganisationKey:
    """A key of this node or of a member that it serves, opened."""

    key_id: UUID
    use: int
    holder: str
    algorithm: Algorithm
    state: int
    public_key: bytes
    """SubjectPublicKeyInfo, DER."""
    certificate: bytes
    """DER; empty while it has none."""
    private: PrivateKey
    batch: bool = False
    """Whether one signature is to cover several statements."""

    @cached_property
    def certificate_sha256(self) -> bytes:
        """How signatures name it."""
        return hashlib.sha256(self.certificate).digest()

    @cached_property
    def pinned(self) -> PinnedKey:
        """As the directory pins it."""
        return PinnedKey(self.certificate, self.algorithm, self.holder)

    def sign(self, content: bytes) -> bytes:
        """The signature value in the form of the key's algorithm."""
        return signatures.raw_sign(self.private, self.algorithm, content)


class KeyToken(Protocol):
    """Something that holds keys and never gives them away, such as `tokens.Token`.

    All of it raises Unavailable, KEY_TOKEN_UNAVAILABLE, and may take its time.
    """

    def describe(self) -> str:
        """Maker and model."""

    def generate(self, algorithm: Algorithm, key_id: bytes) -> PrivateKey:
        """Makes a key, to be found again by its id."""

    def key(self, key_id: bytes) -> PrivateKey:
        """The key of an id."""

    def destroy(self, key_id: bytes) -> None:
        """Erases a key."""


class KeyRing:
    """The keys of a process. `changed` is called after each load that brought something new.

    `tokens` are those that the node has besides its own database, by name.
    """

    def __init__(self, *, database: Database, vault: Vault, tokens: Mapping[str, KeyToken] | None = None) -> None:
        self._database = database
        self._vault = vault
        self.tokens = tokens or {}
        self._signers: dict[UUID, BatchSigner] = {}
        self._keys: dict[UUID, OrganisationKey] = {}
        self._active: dict[tuple[int, str], OrganisationKey] = {}
        self._stamp = (-1, -1)
        self._loading = asyncio.Lock()
        self.changed: list[Callable[[], None]] = []

    async def load(self) -> None:
        """Takes the keys as they are in the database now.

        One load goes after the other, so that none brings back what the next has replaced.
        """
        async with self._loading:
            stamp = await key_store.stamp(self._database)
            if stamp == self._stamp:
                return
            rows = await key_store.keys(self._database, use=0, before=None, limit=None)
            opened = await asyncio.to_thread(lambda: [self._open(row) for row in rows if row["state"] != DESTROYED])
            self._keys = {key.key_id: key for key in opened if key is not None}
            self._signers = {}
            self._active = {(key.use, key.holder): key for key in self._keys.values() if key.state == ACTIVE}
            self._stamp = stamp
            for callback in self.changed:
                callback()

    async def follow(self) -> None:
        """Loads what other processes change, for as long as the process runs."""
        while True:
            await asyncio.sleep(FOLLOW_INTERVAL)
            try:
                await self.load()
            except PASSING as error:
                logger.warning("keys not read", extra={"error": type(error).__qualname__})

    def active(self, use: int, holder: str) -> OrganisationKey | None:
        """The key in use for something."""
        return self._active.get((use, holder))

    def certificates(self, use: int) -> list[bytes]:
        """The certificates (DER) of all keys in use for something."""
        return [key.certificate for (each, _), key in self._active.items() if each == use]

    def by_certificate(self, certificate: bytes) -> OrganisationKey | None:
        """The key of a certificate (DER)."""
        return next((key for key in self._keys.values() if key.certificate == certificate), None)

    def by_public_key(self, public_key: bytes) -> OrganisationKey | None:
        """The key of a SubjectPublicKeyInfo (DER)."""
        return next((key for key in self._keys.values() if key.public_key == public_key), None)

    def signing_key(self, holder: str) -> OrganisationKey:
        """The key with which a member signs now. Raises FailedPrecondition, KEY_MISSING."""
        key = self.active(directory_pb2.KEY_USE_STATEMENTS, holder)
        if key is None:
            raise FailedPrecondition("KEY_MISSING", "there is no active key with which to sign", holder=holder)
        return key

    def sign(self, statement: Statement, key: OrganisationKey) -> statements_pb2.Signature:
        """Signs a statement."""
        signed = signatures.sign(statement, key=key.private, pinned=key.pinned, now=int(time.time()))
        return signature_message(signed)

    def seal(self, private: PrivateKey, *, key_id: UUID) -> tuple[bytes, bytes]:
        """A private key, sealed, and the wrapped data key under which it is."""
        data_key = self._vault.new_key(owner=_owner(key_id))
        content = private.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self._vault.sealer(data_key, owner=_owner(key_id)).seal(content, context="private key"), data_key

    async def sign_soon(self, statement: Statement, key: OrganisationKey) -> statements_pb2.Signature:
        """Signs a statement, with others that come meanwhile where the key is one of a slow token."""
        if not key.batch:
            return self.sign(statement, key)
        signer = self._signers.get(key.key_id)
        if signer is None:
            signer = self._signers[key.key_id] = BatchSigner(key=key.private, pinned=key.pinned)
        return signature_message(await signer.sign(statement))

    def _open(self, row: Row) -> OrganisationKey | None:
        """A key; None where its token cannot be used now."""
        try:
            private = self._private(row)
        except Unavailable as fault:
            logger.warning("a key cannot be used", extra={"reason": fault.reason})
            return None
        return OrganisationKey(
            row["organisation_key_id"],
            row["use"],
            row["holder"],
            Algorithm(row["algorithm"]),
            row["state"],
            row["public_key"],
            row["certificate"],
            private,
            row["batch"],
        )

    def _private(self, row: Row) -> PrivateKey:
        if row["token"] != SOFTWARE:
            return self.token(row["token"]).key(row["organisation_key_id"].bytes)
        owner = _owner(row["organisation_key_id"])
        content = self._vault.sealer(row["data_key"], owner=owner).open(row["private_key"], context="private key")
        private = serialization.load_der_private_key(content, password=None)
        assert isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
        return private

    def token(self, name: str) -> KeyToken:
        """The token of a name. Raises Unavailable, KEY_TOKEN_UNAVAILABLE."""
        found = self.tokens.get(name)
        if found is None:
            raise Unavailable("KEY_TOKEN_UNAVAILABLE", "the node has no such token", token=name)
        return found


def generate(algorithm: Algorithm) -> PrivateKey:
    """A new private key."""
    if algorithm is Algorithm.RSA_PKCS1_SHA256:
        return rsa.generate_private_key(65537, signatures.MIN_RSA_BITS)
    return ec.generate_private_key(ec.SECP256R1() if algorithm is Algorithm.ECDSA_P256_SHA256 else ec.SECP384R1())


def spki(private: PrivateKey) -> bytes:
    """The SubjectPublicKeyInfo of a key, DER."""
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def pem(certificate: bytes) -> bytes:
    """A certificate (DER) as PEM."""
    return x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM)


def private_pem(private: PrivateKey) -> bytes:
    """A private key as PEM, for TLS libraries."""
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _owner(key_id: UUID) -> str:
    return f"organisationKeys/{key_id}"
