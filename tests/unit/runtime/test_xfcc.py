"""x-forwarded-client-cert is taken as Envoy writes it, and in no other form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.xfcc import MAX_CHARACTERS, ClientCertificate, XfccError, parse

A, B = "a" * 64, "b" * 64


def test_the_usual_form() -> None:
    header = f'By=spiffe://n/edge;Hash={A};Subject="CN=a,O=City of Oulu";URI=spiffe://n/client/a'
    assert parse(header) == ClientCertificate(A, ("spiffe://n/client/a",), "CN=a,O=City of Oulu")


def test_several_names_and_none() -> None:
    assert parse(f'Hash={A};Subject="";URI=u:1;URI=u:2').uris == ("u:1", "u:2")
    assert parse(f'Hash={A};Subject="";URI=').uris == ()
    assert parse(f"Hash={A}") == ClientCertificate(A, (), "")


def test_quotes_and_separators_in_the_subject_stay_in_the_subject() -> None:
    subject = rf"CN=x\"\,URI=u:2\;Hash={B}\;Subject=\"y\\"
    assert parse(f'Hash={A};Subject="{subject}";URI=u:1') == ClientCertificate(A, ("u:1",), subject)


WRONG = {
    "nothing": "",
    "no hash": 'Subject="CN=a";URI=u:1',
    "two hashes": f"Hash={A};Hash={B}",
    "a short hash": "Hash=aa",
    "a hash in capitals": f"Hash={A.upper()}",
    "a quoted hash": f'Hash="{A}"',
    "two subjects": f'Hash={A};Subject="a";Subject="b"',
    "a subject without quotes": f"Hash={A};Subject=CN",
    "two elements": f"Hash={A};URI=u:1,Hash={B};URI=u:2",
    "an element after a comma in a name": f"Hash={A};URI=u:1,By=u:2",
    "a quoted name": f'Hash={A};URI="u:1"',
    "an unknown key": f"Hash={A};Cert=x",
    "a key in another case": f"hash={A}",
    "a key without a value": f"Hash={A};URI",
    "a value without a key": f"Hash={A};=u:1",
    "a quote that does not end": f'Hash={A};Subject="CN=a',
    "text after a quote": f'Hash={A};Subject="CN=a"x',
    "a separator at the end": f"Hash={A};",
    "an empty pair": f"Hash={A};;URI=u:1",
    "too much": f"Hash={A};URI=" + "u" * MAX_CHARACTERS,
}


@pytest.mark.parametrize("case", WRONG)
def test_anything_else_is_refused(case: str) -> None:
    with pytest.raises(XfccError):
        parse(WRONG[case])


def test_the_header_is_there_once() -> None:
    for headers in ((), (f"Hash={A}", f"Hash={A}")):
        with pytest.raises(XfccError, match="not there once"):
            parse(*headers)


def test_a_refusal_does_not_quote_the_header() -> None:
    with pytest.raises(XfccError) as caught:
        parse("Hash=secret")
    assert "secret" not in str(caught.value)


@given(st.text(alphabet='ab=;,"\\ HashURI', max_size=60))
def test_no_text_gets_in_beside_the_true_hash(text: str) -> None:
    try:
        certificate = parse(f"Hash={A};URI={text}")
    except XfccError:
        return
    assert certificate.sha256 == A
