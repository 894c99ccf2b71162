"""A plugin of Kubernetes' KMS v2, as its contract has it, in this process: keys of its own, which it can rotate."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from kms.v2 import kms_pb2, kms_pb2_grpc

NONCE = "nonce.kms.example.org"


class KmsPlugin(kms_pb2_grpc.KeyManagementServiceServicer):
    """`healthz` is what it says of itself."""

    def __init__(self) -> None:
        self.healthz = "ok"
        self.asked: list[str] = []
        self._keys: dict[str, AESGCM] = {}
        self.rotate()

    def rotate(self) -> None:
        """Encrypts with a new key from now on; the old ones decrypt."""
        self.key_id = f"key-{len(self._keys) + 1}"
        self._keys[self.key_id] = AESGCM(AESGCM.generate_key(256))

    def forget(self, key_id: str) -> None:
        """A key is gone for good."""
        del self._keys[key_id]

    async def Status(self, *_):
        return kms_pb2.StatusResponse(version="v2", healthz=self.healthz, key_id=self.key_id)

    async def Encrypt(self, request, _):
        self.asked.append("Encrypt")
        nonce = os.urandom(12)
        sealed = self._keys[self.key_id].encrypt(nonce, request.plaintext, None)
        return kms_pb2.EncryptResponse(ciphertext=sealed, key_id=self.key_id, annotations={NONCE: nonce})

    async def Decrypt(self, request, context):
        self.asked.append("Decrypt")
        try:
            opened = self._keys[request.key_id].decrypt(request.annotations[NONCE], request.ciphertext, None)
        except (KeyError, InvalidTag):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such key, or another's ciphertext")
        return kms_pb2.DecryptResponse(plaintext=opened)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[KmsPlugin, str]]:
    """The plugin, and its address."""
    plugin, address = KmsPlugin(), f"unix://{folder / 'plugin.sock'}"
    server = grpc.aio.server()
    kms_pb2_grpc.add_KeyManagementServiceServicer_to_server(plugin, server)
    server.add_insecure_port(address)
    await server.start()
    try:
        yield plugin, address
    finally:
        await server.stop(None)
