"""`clients`: information systems, what they may have, and their certificates."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf.field_mask_pb2 import FieldMask
from solmu.authorisations.v1 import clients_pb2
from solmu.types.v1.types_pb2 import NationalIdentifier

from gateway.client.client import Client
from gateway.client.command import node
from gateway.client.command.output import Output, UsageError, label

KEY, REQUEST, CERTIFICATE = "key.pem", "request.pem", "certificate.pem"
"""Files of a client's folder, as a profile names them."""


def add(commands: Any) -> None:
    """Adds the commands."""
    group = commands.add_parser("clients", help="information systems: register, certify, revoke")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    register = actions.add_parser("register", help="register a client (scope clients.manage)")
    register.add_argument("id", help="its OAuth client_id")
    register.add_argument("--name", required=True, help="what people call it")
    register.add_argument(
        "--owner", required=True, metavar="BUSINESS-ID", help="Y-tunnus of the organisation it acts for"
    )
    register.add_argument("--scope", action="append", default=[], metavar="SCOPE", help="may be given again")
    register.add_argument(
        "--assertion-keys",
        type=Path,
        metavar="FILE",
        help="a JWK Set: proven by private_key_jwt, too",
    )
    register.set_defaults(remote=_register)

    listing = actions.add_parser("list", help="list clients")
    listing.add_argument("--revoked", action="store_true", help="with those that are revoked")
    listing.set_defaults(remote=_list)

    show = actions.add_parser("show", help="show a client")
    show.add_argument("id")
    show.set_defaults(remote=_show)

    scopes = actions.add_parser("scopes", help="set what a client may have")
    scopes.add_argument("id")
    scopes.add_argument("scopes", nargs="+", metavar="SCOPE")
    scopes.set_defaults(remote=_scopes)

    revoke = actions.add_parser("revoke", help="take a client's access away, for good")
    revoke.add_argument("id")
    revoke.set_defaults(remote=_revoke)

    csr = actions.add_parser("csr", help="make a key and a certificate request for it, here")
    csr.add_argument("id")
    csr.add_argument("--folder", type=Path, required=True, help="where key.pem and request.pem go")
    csr.set_defaults(local=_csr)

    certify = actions.add_parser("certify", help="sign a request with the authority of the node on this machine")
    certify.add_argument("id")
    certify.add_argument("request", type=Path, metavar="REQUEST", help="PEM; the certificate goes beside it")
    certify.set_defaults(local=_certify)

    void = actions.add_parser("void", help="put a certificate on the revocation list of the node on this machine")
    void.add_argument("id")
    void.add_argument("certificate", type=Path, metavar="CERTIFICATE")
    void.set_defaults(local=_void)


async def _register(client: Client, given: argparse.Namespace, out: Output) -> None:
    owner = NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_YTUNNUS, value=given.owner)
    asked = clients_pb2.Client(display_name=given.name, owner=owner, scopes=given.scope)
    if given.assertion_keys is not None:
        asked.authentication = clients_pb2.Client.AUTHENTICATION_PRIVATE_KEY_JWT
        try:
            asked.jwks = given.assertion_keys.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--assertion-keys {given.assertion_keys}: {error}") from None
    request = clients_pb2.CreateClientRequest(client_id=given.id, client=asked)
    out.one(await client.call(client.clients.CreateClient, request))


async def _list(client: Client, given: argparse.Namespace, out: Output) -> None:
    request = clients_pb2.ListClientsRequest(show_revoked=given.revoked)
    found = [each async for each in client.items(client.clients.ListClients, request)]
    rows = [
        (
            each.name.removeprefix("clients/"),
            label(clients_pb2.Client.State.Name(each.state)),
            each.display_name,
            " ".join(each.scopes),
        )
        for each in found
    ]
    out.table(("client", "state", "name", "scopes"), found, rows)


async def _show(client: Client, given: argparse.Namespace, out: Output) -> None:
    request = clients_pb2.GetClientRequest(name=f"clients/{given.id}")
    out.one(await client.call(client.clients.GetClient, request))


async def _scopes(client: Client, given: argparse.Namespace, out: Output) -> None:
    asked = clients_pb2.Client(name=f"clients/{given.id}", scopes=given.scopes)
    request = clients_pb2.UpdateClientRequest(client=asked, update_mask=FieldMask(paths=["scopes"]))
    out.one(await client.call(client.clients.UpdateClient, request))


async def _revoke(client: Client, given: argparse.Namespace, out: Output) -> None:
    request = clients_pb2.RevokeClientRequest(name=f"clients/{given.id}")
    # Revoking what is revoked changes nothing, so it may be repeated.
    out.one(await client.call(client.clients.RevokeClient, request, attempts=3))


def _csr(given: argparse.Namespace, _: Output) -> int:
    given.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key_file = given.folder / KEY
    if key_file.exists():
        raise UsageError(f"{key_file} is there already: name another folder, or move it away")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, given.id)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with os.fdopen(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.private_bytes(*form))
    (given.folder / REQUEST).write_bytes(request.public_bytes(serialization.Encoding.PEM))
    print(f"{given.folder / REQUEST} is for the node's operator; {key_file} stays here")
    return 0


def _certify(given: argparse.Namespace, _: Output) -> int:
    request = given.request.absolute()
    certificate = request.parent / CERTIFICATE
    status = node.start(["deploy.certify", given.id, "--csr", str(request)], into=certificate)
    if status == 0:
        print(f"{certificate} is for {given.id}")
    return status


def _void(given: argparse.Namespace, _: Output) -> int:
    return node.start(["deploy.certify", given.id, "--revoke", str(given.certificate.absolute())])
