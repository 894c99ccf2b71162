"""What the signed form costs beside the raw ECDSA operations: `python -m tests.bench.evidence`."""

from __future__ import annotations

import time
from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from services.exchange.evidence import signatures, statements
from tests.unit.exchange import pki
from tests.unit.exchange.samples import statement

ROUNDS, CALLS = 7, 1000
"""The fastest of so many rounds counts: the machine is shared, and what disturbs only adds."""


def measure() -> None:
    """Signs and verifies one statement over and over, and prints the cost as ratios within this run."""
    holder = pki.mesh().member
    pinned, sample, second = holder.pinned(), statement(), int(pki.NOW.timestamp())
    key, public = holder.key, holder.key.public_key()
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    scheme = ec.ECDSA(hashes.SHA256())
    content = pinned.signed_info(signatures.STATEMENT_FILE, sample.sha256, second)
    raw = key.sign(content, scheme)
    signature = signatures.sign(sample, key=key, pinned=pinned, now=second)
    bare = dict(sample.lines)

    def check() -> None:
        signatures.verify(statements.parse(sample.content), signature, pinned)

    def make() -> None:
        signatures.sign(statements.compose(sample.kind, bare), key=key, pinned=pinned, now=second)

    signing = _cost(lambda: key.sign(content, scheme))
    verifying = _cost(lambda: public.verify(raw, content, scheme))
    print("evidence, us a call (times the raw operation)")
    print(f"  {signing:6.1f}         raw ECDSA P-256 signature over SignedInfo")
    _line(_cost(lambda: signatures.sign(sample, key=key, pinned=pinned, now=second)), signing, "signed form")
    _line(_cost(make), signing, "statement composed, and signed form")
    print(f"  {verifying:6.1f}         raw ECDSA P-256 verification over SignedInfo")
    _line(_cost(lambda: signatures.verify(sample, signature, pinned)), verifying, "signed form verified")
    _line(_cost(check), verifying, "statement read, and signed form verified")
    print()


def _line(cost: float, raw: float, what: str) -> None:
    print(f"  {cost:6.1f} ({cost / raw:4.2f})  {what}")


def _cost(call: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(CALLS):
            call()
        best = min(best, time.perf_counter() - began)
    return best / CALLS * 1e6


if __name__ == "__main__":
    measure()
