"""Certificates for clients, from the authority of the node on this machine.

    python -m deploy.certify permits --csr permits.csr > certificate.pem
    python -m deploy.certify permits --revoke certificate.pem

A request (PKCS #10) says only which key is asked for, and proves that whoever
asks holds it; the names are those that the node gives the client. Run by
whoever may read the node's state folder. `solmu clients certify` starts it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from deploy import pki
from deploy.local.node import NodeSettings
from deploy.local.state import State
from services.runtime import config

EXIT_REFUSED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m deploy.certify", description="Certificates for clients.")
    parser.add_argument("client_id")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--csr", type=Path, help="sign this request; the certificate goes to standard output")
    what.add_argument("--revoke", type=Path, help="put this certificate on the revocation list")
    given = parser.parse_args(arguments)
    try:
        settings = config.read(NodeSettings)
        authority = pki.Authority.load(State(settings.state).public)
        if given.csr:
            sys.stdout.write(sign(authority, settings.node, given.client_id, given.csr.read_bytes()))
        else:
            revoke(authority, settings.node, given.client_id, given.revoke.read_bytes())
    except (OSError, ValueError, config.ConfigError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command
        return EXIT_REFUSED
    return 0


def sign(authority: pki.Authority, node: str, client_id: str, request: bytes) -> str:
    """The certificate for a request, PEM. Raises ValueError where the request does not prove its key."""
    csr = x509.load_pem_x509_csr(request)
    if not csr.is_signature_valid:
        raise ValueError("the request is not signed with the key that it names")
    identity = pki.Identity.information_system(node, client_id)
    certificate = authority.certify(identity, csr.public_key())
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def revoke(authority: pki.Authority, node: str, client_id: str, certificate: bytes) -> None:
    """Puts a client's certificate on the list. Raises ValueError where it is another's, or another authority's."""
    found = x509.load_pem_x509_certificate(certificate)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    mine = pki.Identity.information_system(node, client_id).alternative_names
    if list(names) != mine or found.issuer != authority.certificate.subject:
        raise ValueError(f"this is no certificate of {client_id} from the node's authority")
    authority.revoke(found)


if __name__ == "__main__":
    sys.exit(main())
