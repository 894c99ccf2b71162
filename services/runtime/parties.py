"""Names for persons and organisations that give away nothing.

An identity code becomes the name of a party by a keyed hash (HMAC-SHA256): the
same code has the same name in every service of the node, another one on
another node, and the code itself is kept nowhere. Services agree on who is
meant without asking each other, and 10,000 codes are turned into names in
milliseconds. The key is as precious as a register: who holds it can try codes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

from solmu.types.v1.types_pb2 import NationalIdentifier
from stdnum import exceptions
from stdnum.dk import cpr, cvr
from stdnum.ee import ik, registrikood
from stdnum.fi import hetu, ytunnus
from stdnum.it import codicefiscale, iva
from stdnum.no import fodselsnummer, orgnr
from stdnum.se import orgnr as se_orgnr
from stdnum.se import personnummer

from services.runtime.errors import InvalidArgument

NAME_BYTES = 16
"""128 bits of the hash: no two parties of a continent meet by chance."""

_REGISTERS: dict[int, tuple[str, Any]] = {
    NationalIdentifier.SCHEME_FI_HETU: ("persons", hetu),
    NationalIdentifier.SCHEME_FI_YTUNNUS: ("organisations", ytunnus),
    NationalIdentifier.SCHEME_NO_FODSELSNUMMER: ("persons", fodselsnummer),
    NationalIdentifier.SCHEME_NO_ORGNR: ("organisations", orgnr),
    NationalIdentifier.SCHEME_DK_CPR: ("persons", cpr),
    NationalIdentifier.SCHEME_DK_CVR: ("organisations", cvr),
    NationalIdentifier.SCHEME_SE_PERSONNUMMER: ("persons", personnummer),
    NationalIdentifier.SCHEME_SE_ORGNR: ("organisations", se_orgnr),
    NationalIdentifier.SCHEME_IT_CODICE_FISCALE: ("persons", codicefiscale),
    NationalIdentifier.SCHEME_IT_PARTITA_IVA: ("organisations", iva),
    NationalIdentifier.SCHEME_EE_ISIKUKOOD: ("persons", ik),
    NationalIdentifier.SCHEME_EE_REGISTRIKOOD: ("organisations", registrikood),
}


class PartyNames:
    """Names parties. The key is 32 bytes, the same in every service of the node.

    `test_mode` lets in codes that registers set aside for testing (Finland:
    individual numbers 900 to 999); a node in service refuses them.
    """

    def __init__(self, *, key: bytes, test_mode: bool) -> None:
        self._key = key
        self._test_mode = test_mode

    def name_of(self, identifier: NationalIdentifier, *, field: str = "identifier") -> str:
        """`persons/{id}` or `organisations/{id}`. Raises InvalidArgument, IDENTIFIER_INVALID, without the code."""
        scheme = NationalIdentifier.Scheme.Name(identifier.scheme).removeprefix("SCHEME_")
        collection, register = _REGISTERS[identifier.scheme]
        try:
            if register is hetu:
                code = hetu.validate(identifier.value, allow_temporary=self._test_mode)
            elif register is ytunnus:
                code = ytunnus.validate(_old_form_filled(identifier.value))
            else:
                code = register.validate(identifier.value)
        except exceptions.ValidationError as error:
            raise InvalidArgument(
                "IDENTIFIER_INVALID",
                f"the identity code is not one of {scheme}",
                violations=[(f"{field}.value", _DEFECTS.get(type(error), "is not an identity code"))],
                scheme=scheme,
                field=field,
            ) from None
        digest = hmac.digest(self._key, f"{scheme}:{code}".encode(), hashlib.sha256)[:NAME_BYTES]
        return f"{collection}/{base64.b32encode(digest).decode('ascii').rstrip('=').lower()}"


_DEFECTS: dict[type[Exception], str] = {
    exceptions.InvalidFormat: "has the wrong form",
    exceptions.InvalidLength: "has the wrong length",
    exceptions.InvalidChecksum: "has the wrong check digit",
    exceptions.InvalidComponent: "has a part that cannot be, such as a date, or is a temporary code",
}


def _old_form_filled(code: str) -> str:
    """A Finnish business id from before 2001 has six digits before the dash; a zero goes in front."""
    digits = code.strip().replace("-", "")
    return f"0{code.strip()}" if len(digits) == 7 and digits.isdigit() else code
