"""Keys in a real token, SoftHSM2: they sign as software keys do, in batches where it is slow, and stay where they are."""

import asyncio
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from solmu.exchange.v1 import directory_pb2, keys_pb2, statements_pb2

from services.exchange.batch_signing import BatchSigner
from services.exchange.evidence import signatures
from services.exchange.evidence.signatures import Algorithm, Form, PinnedKey
from services.exchange.keys import PKCS11, KeyRing
from services.exchange.meshes import Meshes
from services.exchange.proofs import signature_of
from services.exchange.servicers.keys import OrganisationKeys
from services.exchange.statuses import Statuses
from services.runtime.errors import Unavailable
from services.runtime.sealing import FIRST, Vault
from tests.integration.exchange.trusting import MEMBER, Mesh, request
from tests.softhsm import LABEL, SoftToken

pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed (pip install 'solmu[pkcs11]')")
from services.exchange.tokens import Token
from services.runtime.keys.session import Session


@pytest.fixture(scope="module")
def token(soft_token: SoftToken) -> Iterator[Token]:
    """The token, as the exchange holds it."""
    token = Token(soft_token.module, LABEL, soft_token.pin)
    yield token
    token.close()


def test_one_log_in_serves_all_that_a_process_does_with_a_token(token, soft_token):
    token.describe()
    root = Session(
        soft_token.module, LABEL, soft_token.pin
    )  # as where the root key is in the token of the signing keys
    with root.use() as session:
        assert session.token.label == LABEL
    root.close()
    key_id = uuid.uuid4().bytes
    token.generate(Algorithm.ECDSA_P256_SHA256, key_id)
    token.destroy(key_id)


def certified(key, algorithm: Algorithm) -> PinnedKey:
    """A certificate of a key, signed by itself: made by the token as well."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "City")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    certificate.verify_directly_issued_by(certificate)
    return PinnedKey(certificate.public_bytes(Encoding.DER), algorithm, MEMBER)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_key_made_in_the_token_signs_statements_and_requests_for_certificates(token, algorithm):
    key_id = uuid.uuid4().bytes
    token.generate(algorithm, key_id)
    key = token.key(key_id)
    pinned, statement = certified(key, algorithm), request()
    made = signatures.sign(statement, key=key, pinned=pinned, now=int(datetime.now(UTC).timestamp()))
    signatures.verify(statement, made, pinned)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "City")])
    asked = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    assert asked.is_signature_valid


@pytest.mark.parametrize("algorithm", [Algorithm.ECDSA_P256_SHA256, Algorithm.RSA_PKCS1_SHA256])
def test_a_key_does_not_leave_its_token(token, algorithm):
    key = token.generate(algorithm, uuid.uuid4().bytes)
    with pytest.raises(TypeError, match="signs there"):
        key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(TypeError, match="signs there"):
        key.private_numbers()


def test_a_key_that_was_destroyed_signs_no_more(token):
    key_id = uuid.uuid4().bytes
    key = token.generate(Algorithm.ECDSA_P256_SHA256, key_id)
    pinned = certified(key, Algorithm.ECDSA_P256_SHA256)
    token.destroy(key_id)
    with pytest.raises(Unavailable, match="KEY_TOKEN_UNAVAILABLE"):
        signatures.sign(request(), key=key, pinned=pinned, now=1)
    assert "SoftHSM" in token.describe(), "the token goes on for others"


def test_a_token_that_is_not_there_is_said_so(token):
    with pytest.raises(Unavailable, match="KEY_TOKEN_UNAVAILABLE") as refusal:
        Token(token.module, "missing", token.pin).describe()
    assert refusal.value.metadata == {"token": "missing"}


def servicer(database, mesh: Mesh, token: Token) -> tuple[KeyRing, OrganisationKeys]:
    ring = KeyRing(database=database, vault=Vault({FIRST: bytes(32)}, current=FIRST), tokens={PKCS11: token})
    meshes = Meshes(database=database, outbox=None)
    statuses = Statuses(
        database=database,
        session=mesh.session,
        issuer=lambda _: None,
        own=list,
        max_age=lambda: timedelta(hours=1),
    )
    return ring, OrganisationKeys(database=database, ring=ring, meshes=meshes, statuses=statuses)


async def test_the_nodes_keys_may_lie_in_the_token(database, mesh, token):
    ring, servicer_ = servicer(database, mesh, token)
    shown = {each.name: each for each in (await servicer_.ListKeyTokens(keys_pb2.ListKeyTokensRequest())).key_tokens}
    assert shown[PKCS11].ready
    assert "SoftHSM" in shown[PKCS11].description
    wanted = keys_pb2.OrganisationKey(
        use=directory_pb2.KEY_USE_STATEMENTS,
        holder="members/FI~MUN~1",
        algorithm=statements_pb2.SIGNATURE_ALGORITHM_ECDSA_P256_SHA256,
        token=PKCS11,
        batch=True,
    )
    request_id = str(uuid.uuid4())
    asked = keys_pb2.CreateOrganisationKeyRequest(organisation_key=wanted, request_id=request_id)
    made = await servicer_.CreateOrganisationKey(asked)
    assert (await servicer_.CreateOrganisationKey(asked)).name == made.name
    stored = await database.fetchrow("select * from organisation_key where request_id = $1", uuid.UUID(request_id))
    assert (stored["private_key"], stored["token"]) == (b"", PKCS11)
    answer = await servicer_.CreateCertificateRequest(
        keys_pb2.CreateCertificateRequestRequest(name=made.name, subject="CN=City")
    )
    assert x509.load_der_x509_csr(answer.certificate_request).is_signature_valid
    key = ring.by_public_key(made.public_key)
    assert key is not None
    pinned = certified(key.private, Algorithm.ECDSA_P256_SHA256)
    await servicer_.ImportCertificate(keys_pb2.ImportCertificateRequest(name=made.name, certificate=pinned.certificate))
    key = ring.by_certificate(pinned.certificate)
    assert key is not None
    statements = [request() for _ in range(5)]
    signed = await asyncio.gather(*(ring.sign_soon(statement, key) for statement in statements))
    for statement, signature in zip(statements, signed, strict=True):
        signatures.verify(statement, signature_of(signature), PinnedKey(pinned.certificate, pinned.algorithm, MEMBER))
    assert len({signature.value for signature in signed}) == 1
    gone = await servicer_.RetireOrganisationKey(keys_pb2.RetireOrganisationKeyRequest(name=made.name, destroy=True))
    assert gone.state == keys_pb2.OrganisationKey.STATE_DESTROYED
    assert ring.by_public_key(made.public_key) is None
    with pytest.raises(Unavailable, match="KEY_TOKEN_UNAVAILABLE"):
        signatures.sign(request(), key=key.private, pinned=pinned, now=1)


async def test_a_token_that_the_node_does_not_have_is_refused(database, mesh, token):
    _, servicer_ = servicer(database, mesh, token)
    for use, name in ((directory_pb2.KEY_USE_LOG, "keyTokens/other"), (directory_pb2.KEY_USE_TLS, PKCS11)):
        wanted = keys_pb2.OrganisationKey(
            use=use,
            holder="members/FI~MUN~1",
            algorithm=statements_pb2.SIGNATURE_ALGORITHM_ECDSA_P256_SHA256,
            token=name,
        )
        with pytest.raises(Unavailable, match="KEY_TOKEN_UNAVAILABLE"):
            await servicer_.CreateOrganisationKey(keys_pb2.CreateOrganisationKeyRequest(organisation_key=wanted))


async def test_statements_that_come_while_the_token_is_busy_share_a_signature(token):
    key = token.generate(Algorithm.RSA_PKCS1_SHA256, uuid.uuid4().bytes)
    pinned = certified(key, Algorithm.RSA_PKCS1_SHA256)
    signer = BatchSigner(key=key, pinned=pinned)
    statements = [request() for _ in range(50)]
    made = await asyncio.gather(*(signer.sign(statement) for statement in statements))
    for statement, signature in zip(statements, made, strict=True):
        signatures.verify(statement, signature, pinned)
    assert {signature.form for signature in made} == {Form.XADES_1_BATCH}
    assert len({signature.value for signature in made}) == 1
    alone = await signer.sign(request())
    assert alone.form is Form.XADES_1


async def test_who_waits_for_a_batch_learns_that_the_token_is_away(token):
    key_id = uuid.uuid4().bytes
    key = token.generate(Algorithm.ECDSA_P256_SHA256, key_id)
    signer = BatchSigner(key=key, pinned=certified(key, Algorithm.ECDSA_P256_SHA256))
    token.destroy(key_id)
    results = await asyncio.gather(*(signer.sign(request()) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 3
