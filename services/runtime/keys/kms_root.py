"""A root in a key management service, behind a plugin of Kubernetes' KMS v2 (`proto/kms/v2`).

The same plugins serve an API server: there are some for Vault and OpenBao, for
hardware modules, and for every large cloud. A plugin listens on a Unix socket
and knows by itself how to prove itself to its service; the node holds nothing
for that.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from kms.v2 import kms_pb2, kms_pb2_grpc

from services.runtime.keys.root import RootError

SCHEME = "unix"

PATIENCE = 30.0
"""Seconds for the plugin to answer: it starts beside us, and may have to log in first."""

CONTEXT_BYTES = 32


@dataclass(frozen=True)
class KmsRoot:
    """A key behind the plugin at a socket: whoever may connect to the socket may use it."""

    address: str
    patience: float = PATIENCE

    @property
    def name(self) -> str:
        """The plugin's address. Which key its service used is kept with what it wrapped."""
        return self.address

    async def wrap(self, key: bytes, *, context: str) -> bytes:
        """The plugin's answer, as it wants to be given it back. The context is wrapped with the key."""
        async with self._plugin() as plugin:
            answer = await plugin.Encrypt(
                kms_pb2.EncryptRequest(plaintext=_digest(context) + key, uid=str(uuid.uuid4())),
                timeout=self.patience,
                wait_for_ready=True,
            )
        return bytes(answer.SerializeToString(deterministic=True))

    async def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        """The key."""
        try:
            kept = kms_pb2.EncryptResponse.FromString(wrapped)
        except DecodeError:
            raise RootError("what was kept for the KMS is not what a plugin answers") from None
        request = kms_pb2.DecryptRequest(
            ciphertext=kept.ciphertext, uid=str(uuid.uuid4()), key_id=kept.key_id, annotations=kept.annotations
        )
        async with self._plugin() as plugin:
            opened = (await plugin.Decrypt(request, timeout=self.patience, wait_for_ready=True)).plaintext
        if not hmac.compare_digest(opened[:CONTEXT_BYTES], _digest(context)):
            raise RootError("the KMS opened something else than the key that was asked for")
        return bytes(opened[CONTEXT_BYTES:])

    @asynccontextmanager
    async def _plugin(self) -> AsyncIterator[kms_pb2_grpc.KeyManagementServiceAsyncStub]:
        async with grpc.aio.insecure_channel(self.address) as channel:  # a socket of this machine
            stub: kms_pb2_grpc.KeyManagementServiceAsyncStub = kms_pb2_grpc.KeyManagementServiceStub(channel)
            try:
                status = await stub.Status(kms_pb2.StatusRequest(), timeout=self.patience, wait_for_ready=True)
                if status.version not in ("v2", "v2beta1") or status.healthz != "ok":
                    raise RootError(f"the KMS plugin at {self.address} is not well: its own log says why")
                yield stub
            except grpc.aio.AioRpcError as error:
                raise RootError(
                    f"the KMS plugin at {self.address} answers {error.code().name}: is it up, is the address right, "
                    "and does its service let it use the key?"
                ) from None


def root(value: str) -> KmsRoot:
    """Reads the address of a plugin's socket, `unix:///path`. Raises ValueError."""
    if not value.removeprefix("unix:").startswith("/"):
        raise ValueError(f"{value!r} is not the address of a KMS plugin, such as unix:///run/kms/plugin.sock")
    return KmsRoot(value)


def _digest(context: str) -> bytes:
    return hashlib.sha256(context.encode()).digest()
