"""Which key signs, and what verifiers know by then."""

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.authorisations.keys import PUBLISH_BEFORE_USE, Key, key_set, public_key, publish_time, signing
from tests.unit.authorisations.builders import NOW


def key(name: str, *, minutes_ago: float) -> Key:
    return Key(name, {"kty": "EC", "crv": "P-256", "x": name, "y": name}, NOW - timedelta(minutes=minutes_ago))


keys_of_any_age = st.lists(st.integers(min_value=-2_000, max_value=2_000), min_size=1, max_size=6, unique=True).map(
    lambda ages: [key(f"k{number}", minutes_ago=age / 10) for number, age in enumerate(ages)]
)


def test_the_only_key_signs_however_young() -> None:
    only = key("only", minutes_ago=0)
    assert signing([only], now=NOW) is only


def test_a_new_key_waits_until_verifiers_know_it() -> None:
    old, new = key("old", minutes_ago=5_000), key("new", minutes_ago=9.9)
    assert signing([old, new], now=NOW) is old


def test_a_key_that_has_waited_takes_over() -> None:
    old, new = key("old", minutes_ago=5_000), key("new", minutes_ago=10)
    assert signing([old, new], now=NOW) is new


def test_on_the_first_day_the_oldest_of_the_young_keys_signs() -> None:
    first, second = key("first", minutes_ago=2), key("second", minutes_ago=1)
    assert signing([second, first], now=NOW) is first


@given(keys_of_any_age)
def test_no_key_signs_early_while_another_is_ripe(keys: Sequence[Key]) -> None:
    chosen = signing(keys, now=NOW)
    ripe = [each for each in keys if NOW - each.publish_time >= PUBLISH_BEFORE_USE]
    if ripe:
        assert chosen in ripe
        assert all(each.publish_time <= chosen.publish_time for each in ripe)
    else:
        assert all(each.publish_time >= chosen.publish_time for each in keys)


@given(keys_of_any_age, st.integers(min_value=0, max_value=600))
def test_a_verifier_that_read_the_keys_within_the_waiting_time_knows_the_one_that_signs(
    keys: Sequence[Key], seconds_ago: int
) -> None:
    read_at = NOW - timedelta(seconds=seconds_ago)
    known = {each.key_id for each in keys if each.publish_time <= read_at}
    if known:
        assert signing(keys, now=NOW).key_id in known


@given(keys_of_any_age)
def test_the_order_in_which_files_are_found_decides_nothing(keys: list[Key]) -> None:
    assert signing(keys, now=NOW) is signing(keys[::-1], now=NOW)
    assert key_set(keys) == key_set(keys[::-1])


def test_the_key_set_holds_every_key_with_its_use_and_nothing_private() -> None:
    listed = json.loads(key_set([key("old", minutes_ago=100), key("new", minutes_ago=0)]))["keys"]
    assert [each["kid"] for each in listed] == ["new", "old"]
    for each in listed:
        assert set(each) == {"kid", "use", "alg", "kty", "crv", "x", "y"}
        assert (each["use"], each["alg"]) == ("sig", "ES256")


def test_a_key_id_is_the_thumbprint_of_the_key() -> None:
    # The key and its thumbprint in RFC 9449, sections 4.1 and 6.1.
    x = _number("l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs")
    y = _number("9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA")
    assert public_key(x, y, publish_time=NOW).key_id == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


def test_a_coordinate_keeps_its_leading_zeros() -> None:
    assert public_key(1, 2, publish_time=NOW).public["x"] == "A" * 42 + "E"


@pytest.mark.parametrize("stem", ["20261121T063000Z", "20261121T063000Z-second", "20261121T063000Z.rotated"])
def test_the_name_of_a_file_tells_since_when_its_key_is_published(stem: str) -> None:
    assert publish_time(stem, modified=datetime(2030, 1, 1, tzinfo=UTC)) == NOW


@pytest.mark.parametrize("stem", ["signing", "2026", "20261121T063000Z2", "20261341T063000Z", "x20261121T063000Z"])
def test_any_other_name_leaves_it_to_the_time_of_modification(stem: str) -> None:
    assert publish_time(stem, modified=NOW) == NOW


def _number(base64url: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(base64url + "="), "big")
