"""Names of parties: the same for the same code, and telling nothing of it."""

from __future__ import annotations

import pytest
from solmu.types.v1.types_pb2 import NationalIdentifier

from services.runtime.errors import InvalidArgument
from services.runtime.parties import PartyNames

HETU = NationalIdentifier.SCHEME_FI_HETU
KEY = bytes(range(32))


def name(scheme: NationalIdentifier.Scheme.ValueType, value: str, *, key: bytes = KEY, test_mode: bool = True) -> str:
    return PartyNames(key=key, test_mode=test_mode).name_of(NationalIdentifier(scheme=scheme, value=value))


def test_a_code_has_one_name_however_it_is_written():
    assert name(HETU, "131052-308T") == name(HETU, " 131052-308t")
    assert name(NationalIdentifier.SCHEME_FI_YTUNNUS, "0737546-2") == name(
        NationalIdentifier.SCHEME_FI_YTUNNUS, "FI07375462"
    )
    assert name(NationalIdentifier.SCHEME_FI_YTUNNUS, "737546-2") == name(
        NationalIdentifier.SCHEME_FI_YTUNNUS, "0737546-2"
    )


def test_another_node_has_another_name_for_it():
    assert name(HETU, "131052-308T") != name(HETU, "131052-308T", key=bytes(32))


def test_names_say_whether_it_is_a_person():
    assert name(HETU, "131052-308T").startswith("persons/")
    assert name(NationalIdentifier.SCHEME_NO_ORGNR, "988077917").startswith("organisations/")
    assert len(name(HETU, "131052-308T")) == len("persons/") + 26


@pytest.mark.parametrize("scheme", [value for value in NationalIdentifier.Scheme.values() if value])
def test_every_register_is_known(scheme: NationalIdentifier.Scheme.ValueType):
    with pytest.raises(InvalidArgument) as refused:
        name(scheme, "nonsense")
    assert refused.value.reason == "IDENTIFIER_INVALID"


@pytest.mark.parametrize("code", ["131052-308U", "311399-123A", "131052308T", ""])
def test_a_wrong_code_is_refused_and_not_repeated(code: str):
    with pytest.raises(InvalidArgument) as refused:
        name(HETU, code)
    told = f"{refused.value} {refused.value.violations} {refused.value.metadata}"
    assert not code or code not in told


def test_temporary_codes_are_for_test_mode_only():
    assert name(HETU, "150390-900B")
    with pytest.raises(InvalidArgument):
        name(HETU, "150390-900B", test_mode=False)


@pytest.mark.parametrize("sign", list("+-YXWVUABCDEF"))
def test_every_century_sign_is_known(sign: str):
    assert name(HETU, f"131052{sign}308T")
