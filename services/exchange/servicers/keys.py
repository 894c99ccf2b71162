"""OrganisationKeyService."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from solmu.exchange.v1 import directory_pb2, keys_pb2, statements_pb2

from services.exchange import key_store, keys, names
from services.exchange.evidence.signatures import Algorithm
from services.exchange.keys import KeyRing
from services.exchange.meshes import Meshes
from services.exchange.servicers.timestamps import timestamp
from services.exchange.statuses import Statuses
from services.runtime import pages
from services.runtime.database import Database, Row
from services.runtime.errors import FailedPrecondition, InvalidArgument, Unavailable, not_found
from services.runtime.ids import new_id

State = keys_pb2.OrganisationKey.State


class OrganisationKeys:
    """Makes keys, gets them certified, and changes from one to the next."""

    def __init__(self, *, database: Database, ring: KeyRing, meshes: Meshes, statuses: Statuses) -> None:
        self._statuses = statuses
        self._database = database
        self._ring = ring
        self._meshes = meshes

    async def CreateOrganisationKey(self, request: keys_pb2.CreateOrganisationKeyRequest) -> keys_pb2.OrganisationKey:
        """Makes a key, in the node's database or in a token."""
        wanted, token = request.organisation_key, request.organisation_key.token or keys.SOFTWARE
        request_id = UUID(request.request_id) if request.request_id else None
        made = await key_store.by_request(self._database, request_id) if request_id else None
        if made is not None:
            return await self._shown(made)
        if token != keys.SOFTWARE and wanted.use == directory_pb2.KEY_USE_TLS:
            raise Unavailable("KEY_TOKEN_UNAVAILABLE", "keys for TLS are software keys", token=token)
        key_id, algorithm = new_id(), Algorithm(wanted.algorithm)
        sealed = data_key = b""
        if token == keys.SOFTWARE:
            private = keys.generate(algorithm)
            sealed, data_key = self._ring.seal(private, key_id=key_id)
        else:
            private = await asyncio.to_thread(self._ring.token(token).generate, algorithm, key_id.bytes)
        row = await key_store.insert(
            self._database,
            (
                key_id,
                wanted.use,
                names.identifier(wanted.holder, 3),
                wanted.algorithm,
                token,
                wanted.batch,
                State.STATE_CREATED,
                keys.spki(private),
                sealed,
                data_key,
                request_id,
            ),
        )
        if row is None and request_id is not None:  # the same request came twice at once
            row = await key_store.by_request(self._database, request_id)
        assert row is not None
        await self._ring.load()
        return await self._shown(row)

    async def GetOrganisationKey(self, request: keys_pb2.GetOrganisationKeyRequest) -> keys_pb2.OrganisationKey:
        """A key: all but what is secret."""
        return await self._shown(await self._key(request.name))

    async def ListOrganisationKeys(
        self, request: keys_pb2.ListOrganisationKeysRequest
    ) -> keys_pb2.ListOrganisationKeysResponse:
        """Keys, latest first."""
        size, question = pages.size(request.page_size), str(request.use)
        before = pages.key(request.page_token, question=question)
        rows = await key_store.keys(
            self._database, use=request.use, before=UUID(before) if before else None, limit=size + 1
        )
        response = keys_pb2.ListOrganisationKeysResponse(
            organisation_keys=[await self._shown(row) for row in rows[:size]]
        )
        if len(rows) > size:
            response.next_page_token = pages.token(str(rows[size - 1]["organisation_key_id"]), question=question)
        return response

    async def CreateCertificateRequest(
        self, request: keys_pb2.CreateCertificateRequestRequest
    ) -> keys_pb2.CreateCertificateRequestResponse:
        """A request for a certificate (PKCS #10)."""
        key = self._opened(await self._key(request.name))
        try:
            subject = x509.Name.from_rfc4514_string(request.subject)
            builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
            if request.dns_names:
                alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in request.dns_names])
                builder = builder.add_extension(alternative, critical=False)
        except ValueError:
            raise InvalidArgument(
                "FIELD_INVALID", "the subject or a name cannot be read", violations=[("subject", "is not RFC 4514")]
            ) from None
        made = builder.sign(key.private, hashes.SHA256())
        return keys_pb2.CreateCertificateRequestResponse(
            certificate_request=made.public_bytes(serialization.Encoding.DER)
        )

    async def ImportCertificate(self, request: keys_pb2.ImportCertificateRequest) -> keys_pb2.OrganisationKey:
        """Takes the certificate that was issued for a key."""
        row = await self._key(request.name)
        if row["state"] not in {State.STATE_CREATED, State.STATE_CERTIFIED}:
            raise _state(row)
        try:
            certificate = x509.load_der_x509_certificate(request.certificate)
            public_key = certificate.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        except ValueError:
            public_key = b""
        if public_key != row["public_key"]:
            raise InvalidArgument("KEY_CERTIFICATE_MISMATCH", "the certificate is of another key")
        return await self._changed(
            key_store.set_certificate(
                self._database,
                row["organisation_key_id"],
                certificate=request.certificate,
                state=State.STATE_CERTIFIED,
            )
        )

    async def ActivateOrganisationKey(
        self, request: keys_pb2.ActivateOrganisationKeyRequest
    ) -> keys_pb2.OrganisationKey:
        """Has a key used from now on. Before the node is in a mesh it may prove itself with any certified key."""
        row = await self._key(request.name)
        if (
            row["state"] in {State.STATE_DESTROYED, State.STATE_CREATED}
            and row["use"] != directory_pb2.KEY_USE_DIRECTORY
        ):
            raise _state(row)
        needs_directory = row["use"] in {directory_pb2.KEY_USE_STATEMENTS, directory_pb2.KEY_USE_LOG}
        if needs_directory and not self._meshes.has_key(row["certificate"], row["use"]):
            raise FailedPrecondition("KEY_NOT_REGISTERED", "the directory does not have the key")
        return await self._changed(
            key_store.activate(
                self._database,
                row["organisation_key_id"],
                active=State.STATE_ACTIVE,
                retired=State.STATE_RETIRED,
            )
        )

    async def RetireOrganisationKey(self, request: keys_pb2.RetireOrganisationKeyRequest) -> keys_pb2.OrganisationKey:
        """Has a key no longer used."""
        row = await self._key(request.name)
        if row["state"] == State.STATE_ACTIVE:
            raise FailedPrecondition("KEY_IN_USE", "no other key takes the place of this one")
        if request.destroy and row["token"] != keys.SOFTWARE and row["state"] != State.STATE_DESTROYED:
            await asyncio.to_thread(self._ring.token(row["token"]).destroy, row["organisation_key_id"].bytes)
        return await self._changed(
            key_store.retire(
                self._database,
                row["organisation_key_id"],
                state=State.STATE_DESTROYED if request.destroy else State.STATE_RETIRED,
                destroy=request.destroy,
            )
        )

    async def RefreshCertificateStatus(
        self, request: keys_pb2.RefreshCertificateStatusRequest
    ) -> keys_pb2.OrganisationKey:
        """Asks the responder for the status of a key's certificate now."""
        row = await self._key(request.name)
        if not row["certificate"]:
            raise _state(row)
        await self._statuses.refresh(row["certificate"])
        return await self._shown(row)

    async def ListKeyTokens(self, _: keys_pb2.ListKeyTokensRequest) -> keys_pb2.ListKeyTokensResponse:
        """The one token that every node has, and those that it was given."""
        algorithms = [statements_pb2.SignatureAlgorithm.ValueType(algorithm) for algorithm in Algorithm]
        shown = [
            keys_pb2.KeyToken(
                name=keys.SOFTWARE,
                kind=keys_pb2.KeyToken.KIND_SOFTWARE,
                description="in the node's database, sealed under its root key",
                ready=True,
                algorithms=algorithms,
            )
        ]
        for name, token in self._ring.tokens.items():
            view = keys_pb2.KeyToken(name=name, kind=keys_pb2.KeyToken.KIND_PKCS11, algorithms=algorithms)
            with contextlib.suppress(Unavailable):
                view.description = await asyncio.to_thread(token.describe)
                view.ready = True
            shown.append(view)
        return keys_pb2.ListKeyTokensResponse(key_tokens=shown)

    async def _key(self, name: str) -> Row:
        row = await key_store.key(self._database, UUID(name.split("/")[1]))
        if row is None:
            raise not_found(name)
        return row

    def _opened(self, row: Row) -> keys.OrganisationKey:
        key = self._ring.by_public_key(row["public_key"])
        if key is None:
            raise _state(row)
        return key

    async def _changed(self, change: Awaitable[Row | None]) -> keys_pb2.OrganisationKey:
        row = await change
        assert row is not None
        await self._ring.load()
        return await self._shown(row)

    async def _shown(self, row: Row) -> keys_pb2.OrganisationKey:
        view = self._view(row)
        if row["certificate"]:
            view.certificate_status.CopyFrom(await self._statuses.view(row["certificate"]))
        return view

    def _view(self, row: Row) -> keys_pb2.OrganisationKey:
        state = row["state"]
        if state == State.STATE_CERTIFIED and self._meshes.has_key(row["certificate"], row["use"]):
            state = State.STATE_REGISTERED
        view = keys_pb2.OrganisationKey(
            name=f"organisationKeys/{row['organisation_key_id']}",
            use=row["use"],
            holder=names.resource("members", row["holder"]),
            algorithm=row["algorithm"],
            token=row["token"],
            batch=row["batch"],
            state=state,
            public_key=row["public_key"],
            certificate=row["certificate"],
            create_time=timestamp(row["create_time"]),
            activate_time=timestamp(row["activate_time"]),
            retire_time=timestamp(row["retire_time"]),
            etag=str(row["revision"]),
        )
        if row["certificate"]:
            certificate = x509.load_der_x509_certificate(row["certificate"])
            view.certificate_sha256 = certificate.fingerprint(hashes.SHA256()).hex()
            view.certificate_expire_time.FromDatetime(certificate.not_valid_after_utc)
        return view


def _state(row: Row) -> FailedPrecondition:
    return FailedPrecondition(
        "KEY_STATE", "the key is not of the state that this takes", state=State.Name(row["state"])
    )
