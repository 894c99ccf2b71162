"""A trust service for nodes that are tried out: certificates, their status (OCSP), time stamps (RFC 3161).

    python -m deploy.local.trust FOLDER --port 8899

One authority, made in FOLDER at the first start, with what it issues to its own
responder and time-stamping authority. Everything is called a test, the time
stamps are made under a policy that nodes in service refuse, and it listens on
the loopback interface only. It is worth nobody's trust.

    POST /time-stamps     application/timestamp-query     a TimeStampResp
    POST /status          application/ocsp-request        an OCSPResponse
    POST /certificates    application/pkcs10, DER         a certificate, DER, for whatever the request names
    GET  /authority       the authority's certificate, PEM
    POST /revocations     a serial number, decimal        revoked from now on
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from deploy.local.ports import LOOPBACK
from services.exchange.evidence.status import Responder
from services.exchange.evidence.timestamps import Authority

LIFETIME = timedelta(days=3650)
ISSUED_LIFETIME = timedelta(days=365)
STATUS_LIFETIME = timedelta(hours=1)
REVOKED = "revoked.json"


@dataclass(frozen=True)
class Held:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        """The certificate, DER."""
        return self.certificate.public_bytes(Encoding.DER)


class Trust:
    """The authority, its responder and its time-stamping authority, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.authority = self._held("authority", None, None)
        self.stamping = self._held("time-stamps", self.authority, ExtendedKeyUsageOID.TIME_STAMPING)
        self.responding = self._held("status", self.authority, ExtendedKeyUsageOID.OCSP_SIGNING)
        self.stamps = Authority(certificate=self.stamping.certificate, key=self.stamping.key)
        self.responder = Responder(
            issuer=self.authority.certificate,
            certificate=self.responding.certificate,
            key=self.responding.key,
            lifetime=STATUS_LIFETIME,
        )
        self._serials = itertools.count(int(datetime.now(UTC).timestamp() * 1000))
        with contextlib.suppress(FileNotFoundError):
            stored = json.loads((folder / REVOKED).read_text())
            self.responder.revoked.update({int(key): datetime.fromisoformat(each) for key, each in stored.items()})

    def certify(self, request: x509.CertificateSigningRequest) -> x509.Certificate:
        """A certificate for the key and the names of a request."""
        names = [each for each in request.extensions if isinstance(each.value, x509.SubjectAlternativeName)]
        return _issue(request.subject, request.public_key(), self.authority, None, names)  # type: ignore[arg-type]

    def revoke(self, serial: int, *, now: datetime) -> None:
        """Has the certificate of a serial number called revoked from now on."""
        self.responder.revoked.setdefault(serial, now.replace(microsecond=0))
        stored = {str(key): each.isoformat() for key, each in self.responder.revoked.items()}
        (self._folder / REVOKED).write_text(json.dumps(stored))

    def stamp(self, query: bytes, *, now: datetime) -> bytes:
        """The answer to a time-stamp query."""
        return self.stamps.answer(query, now=now, serial=next(self._serials))

    def _held(self, name: str, issuer: Held | None, purpose: ObjectIdentifier | None) -> Held:
        """What lies in the folder under a name; made where nothing does."""
        file = self._folder / f"{name}.pem"
        if not file.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Solmu test {name}")])
            certificate = _issue(subject, key.public_key(), issuer or Held(None, key), purpose)  # type: ignore[arg-type]
            fresh = file.with_suffix(".new")
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
                stream.write(
                    key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
                    + certificate.public_bytes(Encoding.PEM)
                )
            fresh.replace(file)
        content = file.read_bytes()
        loaded = serialization.load_pem_private_key(content, password=None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        return Held(x509.load_pem_x509_certificate(content), loaded)


def _issue(
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    issuer: Held,
    purpose: ObjectIdentifier | None,
    extensions: list[x509.Extension[x509.ExtensionType]] | None = None,
) -> x509.Certificate:
    """A certificate; the authority's own where the issuer has none yet."""
    own = issuer.certificate is None
    now = datetime.now(UTC)
    usage = dict.fromkeys(("key_encipherment", "data_encipherment", "key_agreement"), False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if own else issuer.certificate.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + (LIFETIME if own or purpose else ISSUED_LIFETIME))
        .add_extension(x509.BasicConstraints(ca=own, path_length=0 if own else None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not own,
                content_commitment=not own and purpose is None,
                key_cert_sign=own,
                crl_sign=own,
                encipher_only=False,
                decipher_only=False,
                **usage,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )
    if purpose is not None:
        critical = purpose == ExtendedKeyUsageOID.TIME_STAMPING  # RFC 3161, section 2.3
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=critical)
    for extension in extensions or ():
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(issuer.key, hashes.SHA256())


def application(trust: Trust) -> web.Application:
    """What it serves."""

    async def stamp(request: web.Request) -> web.Response:
        answer = trust.stamp(await request.read(), now=datetime.now(UTC))
        return web.Response(body=answer, content_type="application/timestamp-reply")

    async def status(request: web.Request) -> web.Response:
        answer = trust.responder.answer(await request.read(), now=datetime.now(UTC))
        return web.Response(body=answer, content_type="application/ocsp-response")

    async def certify(request: web.Request) -> web.Response:
        try:
            asked = x509.load_der_x509_csr(await request.read())
        except ValueError:
            raise web.HTTPBadRequest(text="this is not a certificate request (PKCS #10, DER)") from None
        if not asked.is_signature_valid:
            raise web.HTTPBadRequest(text="the request is not signed with the key that it names")
        return web.Response(body=trust.certify(asked).public_bytes(Encoding.DER), content_type="application/pkix-cert")

    async def revoke(request: web.Request) -> web.Response:
        text = await request.text()
        if not text.isascii() or not text.isdigit():
            raise web.HTTPBadRequest(text="this is not a serial number in decimal")
        trust.revoke(int(text), now=datetime.now(UTC))
        return web.Response(status=204)

    async def authority(_: web.Request) -> web.Response:
        return web.Response(body=trust.authority.certificate.public_bytes(Encoding.PEM))

    served = web.Application(client_max_size=64 * 1024)
    served.add_routes(
        [
            web.post("/time-stamps", stamp),
            web.post("/status", status),
            web.post("/certificates", certify),
            web.post("/revocations", revoke),
            web.get("/authority", authority),
        ]
    )
    return served


async def serve(trust: Trust, port: int) -> web.AppRunner:
    """Serves on a port of the loopback interface; 0: any."""
    runner = web.AppRunner(application(trust), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, port).start()
    return runner


def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.trust", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8899)
    given = parser.parse_args()

    async def forever() -> None:
        runner = await serve(Trust(given.folder), given.port)
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(forever())


if __name__ == "__main__":
    main()
