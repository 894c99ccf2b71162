"""What the client may repeat, and what it keeps in files."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from solmu.authorisations.v1 import clients_pb2
from solmu.messages.v1 import attachments_pb2, messages_pb2

from gateway.client import Profile, assertions, following, transfers
from gateway.client.client import is_repeatable, keyed
from gateway.client.profile import ProfileError
from services.authorisations.assertions import ASSERTION_TYPE, verify
from services.runtime import tls
from tests.tokens import Signer


def test_reading_may_be_repeated_and_keeps_its_request():
    request = messages_pb2.ListMessagesRequest(parent="units/permits")
    assert is_repeatable(request)
    assert keyed(request) is request


def test_a_write_with_a_key_may_be_repeated_with_the_same_key():
    request = messages_pb2.SendMessageRequest(idempotency_key="case-1")
    assert keyed(request) is request
    assert is_repeatable(request)


def test_a_write_whose_key_is_not_set_gets_one_and_the_request_is_not_touched():
    request = attachments_pb2.CreateAttachmentRequest()
    sent = keyed(request)
    assert not request.request_id
    assert is_repeatable(sent)
    assert len(sent.request_id) == 36


@pytest.mark.parametrize("request_", [clients_pb2.CreateClientRequest(), clients_pb2.RevokeClientRequest()])
def test_a_write_without_a_key_is_not_repeated(request_: clients_pb2.CreateClientRequest):
    assert not is_repeatable(keyed(request_))


@given(st.binary(max_size=64))
def test_a_source_is_read_in_pieces(content: bytes):
    source = transfers.Bytes(content)
    assert b"".join(source.read(at, 7) for at in range(0, source.size, 7)) == content
    assert transfers.digest(source) == hashlib.sha256(content).hexdigest()


def test_a_cursor_is_saved_whole_and_found_again(tmp_path: Path):
    file = tmp_path / "cursor"
    assert not following.read_cursor(file)
    following.write_cursor(file, "AAAAAAAAAC8")
    following.write_cursor(file, "AAAAAAAAADA")
    assert following.read_cursor(file) == "AAAAAAAAADA"
    assert [path.name for path in tmp_path.iterdir()] == ["cursor"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"kty": "EC", "alg": "ES256", "kid": "a"}'])
def test_a_key_that_is_none_is_a_fault_of_the_profile_and_its_text_is_not_told(tmp_path: Path, text: str):
    file = tmp_path / "key.json"
    file.write_text(text)
    files = tls.Files(tmp_path, tmp_path, tmp_path)
    with pytest.raises(ProfileError, match=r"is not a private JWK with kid and alg$"):
        assertions.of(Profile("https://localhost", "office", files, (), assertion_key=file))
    with pytest.raises(ProfileError, match="cannot read"):
        assertions.of(Profile("https://localhost", "office", files, (), assertion_key=tmp_path / "absent"))
    assert assertions.of(Profile("https://localhost", "office", files, ())) == {}


def test_an_assertion_is_what_the_node_takes_and_no_two_are_the_same(tmp_path: Path):
    signer, file = Signer(kid="office-1"), tmp_path / "key.json"
    private = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(signer.key)) | {"kid": signer.kid, "alg": "ES256"}
    file.write_text(json.dumps(private))
    profile = Profile("https://localhost", "office", tls.Files(tmp_path, tmp_path, tmp_path), (), assertion_key=file)
    made = [assertions.of(profile) for _ in range(2)]
    used = [
        verify(
            each["client_assertion"],
            jwks=signer.jwks(),
            client_id="office",
            issuer="https://localhost",
            now=datetime.now(UTC),
        )
        for each in made
    ]
    assert used[0].jti != used[1].jti
    assert {each["client_assertion_type"] for each in made} == {ASSERTION_TYPE}
