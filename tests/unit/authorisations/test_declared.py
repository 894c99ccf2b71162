"""The file of clients that a deployment declares."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.authorisations import declared
from services.authorisations.clients import Authentication, Client
from services.runtime.config import ConfigError
from services.runtime.parties import PartyNames
from tests.tokens import Signer
from tests.unit.authorisations.builders import NOW, OWNER, RULES

PARTIES = PartyNames(key=b"k" * 32, test_mode=True)
KEYS = Signer()


def entry(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "client_id": "operator",
        "display_name": "Operator",
        "owner": {"scheme": "FI_YTUNNUS", "value": OWNER},
        "scopes": ["clients.manage"],
    }
    return values | changes


def read(folder: Path, *entries: Any) -> list[Client]:
    path = folder / "clients.json"
    path.write_text(json.dumps({"clients": entries}))
    return declared.read(path, parties=PARTIES, rules=RULES, now=NOW)


def test_an_entry_is_a_client(tmp_path: Path) -> None:
    (client,) = read(tmp_path, entry())
    assert client.name == "clients/operator"
    assert client.scopes == ("clients.manage",)
    assert client.certificate_uri == "spiffe://solmu/client/operator"


def test_a_client_with_keys_is_declared_with_them(tmp_path: Path) -> None:
    (client,) = read(tmp_path, entry(authentication="PRIVATE_KEY_JWT", jwks={"keys": [KEYS.jwk()]}))
    assert client.authentication is Authentication.PRIVATE_KEY_JWT
    assert json.loads(client.jwks) == {"keys": [KEYS.jwk()]}


def test_a_client_to_which_people_log_in_says_where_they_come_back_to(tmp_path: Path) -> None:
    back = ["https://portal.example/back"]
    (client,) = read(tmp_path, entry(redirect_uris=back))
    assert client.redirect_uris == tuple(back)
    with pytest.raises(ConfigError, match="redirect_uris"):
        read(tmp_path, entry(redirect_uris=["http://portal.example/back"]))


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        ({"client_id": "Operator"}, "client_id"),
        ({"display_name": ""}, "display name"),
        ({"scopes": ["clients.mange"]}, "clients.mange"),
        ({"scopes": "clients.manage"}, "wrong type|scopes"),
        ({"scope": "clients.manage"}, "wrong type"),
        ({"owner": {"scheme": "FI_YTUNNUS", "value": "1234567-8"}}, "identity code"),
        ({"owner": {"scheme": "FI_TUNNUS", "value": OWNER}}, "wrong type"),
        ({"owner": OWNER}, "wrong type"),
        ({"certificate_uri": "spiffe://solmu/service/edge"}, "another member"),
        ({"certificate_uri": "no uri"}, "URI"),
        ({"authentication": "PASSWORD"}, "wrong type"),
        ({"authentication": "PRIVATE_KEY_JWT"}, "jwks"),
        ({"jwks": {"keys": [KEYS.jwk(use="enc")]}}, r"jwks: keys\[0\]"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_place(tmp_path: Path, defect: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refusal:
        read(tmp_path, entry(), entry(**defect))
    assert all("clients[1]" in fault for fault in refusal.value.faults)


def test_all_faults_are_told_at_once_and_no_identity_code(tmp_path: Path) -> None:
    secret = "131052-308X"
    with pytest.raises(ConfigError) as refusal:
        read(
            tmp_path,
            entry(client_id="x"),
            entry(scopes=["a.b"]),
            entry(owner={"scheme": "FI_HETU", "value": secret}),
            entry(owner=[secret]),
            "operator",
        )
    assert len(refusal.value.faults) == 5
    assert secret not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"clients": 1}'])
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "clients.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        declared.read(path, parties=PARTIES, rules=RULES, now=NOW)


def test_a_client_that_is_declared_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="twice"):
        read(tmp_path, entry(), entry(display_name="Another"))
