"""What the signed form costs beside the raw ECDSA operations: `python -m tests.bench.evidence`."""

from __future__ import annotations

import time
from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from services.exchange.evidence import signatures, statements
from tests.unit.exchange import pki
from tests.unit.exchange.samples import statement

ROUNDS, CALLS = 25, 200
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
    raw_signature = key.sign(content, scheme)
    signature = signatures.sign(sample, key=key, pinned=pinned, now=second)
    bare = dict(sample.lines)

    def check() -> None:
        signatures.verify(statements.parse(sample.content), signature, pinned)

    def make() -> None:
        signatures.sign(statements.compose(sample.kind, bare), key=key, pinned=pinned, now=second)

    sign = {
        "raw ECDSA P-256 signature over SignedInfo": lambda: key.sign(content, scheme),
        "signed form": lambda: signatures.sign(sample, key=key, pinned=pinned, now=second),
        "statement composed, and signed form": make,
    }
    verify = {
        "raw ECDSA P-256 verification over SignedInfo": lambda: public.verify(raw_signature, content, scheme),
        "signed form verified": lambda: signatures.verify(sample, signature, pinned),
        "statement read, and signed form verified": check,
    }
    print("evidence, us of CPU a call (times the raw operation)")
    raw, whole = 0.0, 0.0
    for calls in (sign, verify):
        costs = _costs(list(calls.values()))
        for what, cost in zip(calls, costs, strict=True):
            print(f"  {cost:6.1f} ({cost / costs[0]:4.2f})  {what}")
        raw, whole = raw + costs[0], whole + costs[-1]
    print(f"  {whole:6.1f} ({whole / raw:4.2f})  a statement on its way: composed, signed, read, verified\n")


def _costs(calls: list[Callable[[], object]]) -> list[float]:
    """Microseconds of CPU for each, measured in turn so that what disturbs one disturbs the others."""
    best = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for at, call in enumerate(calls):
            began = time.process_time()
            for _ in range(CALLS):
                call()
            best[at] = min(best[at], time.process_time() - began)
    return [each / CALLS * 1e6 for each in best]


if __name__ == "__main__":
    measure()
