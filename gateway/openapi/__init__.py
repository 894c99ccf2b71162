"""The REST interface as an OpenAPI 3.1 document, made from the contracts.

    python -m gateway.openapi          writes gateway/openapi/openapi.json (`make proto` does it)

Paths, parameters, bodies, scopes, validation rules, refusals and texts all come
from `proto/`; only the examples are written by hand, and a test holds them
against the contracts. What is written is committed and served as it is, since
the comments of the contracts are not in the code that runs. A test compares
the two.
"""

from __future__ import annotations

from importlib import resources

from gateway.openapi.document import document

__all__ = ["committed", "document"]

FILE = "openapi.json"


def committed() -> bytes:
    """The document as it is committed."""
    return resources.files(__package__).joinpath(FILE).read_bytes()
