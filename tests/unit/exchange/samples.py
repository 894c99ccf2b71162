"""Statements to try things with, and a strategy of all that there can be."""

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from services.exchange.evidence import identifiers, statements
from services.exchange.evidence.statements import Kind, Statement
from tests.unit.exchange.pki import MEMBER, NOW, OTHER

DIGEST = "ab" * 32
ID = "018f4e2a-7c1d-7000-8000-0123456789ab"


def lines(kind: Kind = Kind.REQUEST, **given: str) -> dict[str, str]:
    """The lines that the kind must have, with underscores for dashes in what is given."""
    common = {
        "id": ID,
        "time": statements.spell(NOW),
        "sender": f"subsystem {MEMBER}/letters",
        "receiver": f"service {OTHER}/register/persons",
        "directory": "FI/17",
        "policy": "default/1",
    }
    of_kind = {
        Kind.REQUEST: {"expires": statements.spell(NOW + timedelta(minutes=5)), "protocol": "http"},
        Kind.RESPONSE: {"protocol": "http", "status": "200", "answers": DIGEST},
        Kind.REFUSAL: {"reason": "ACCESS_DENIED", "answers": DIGEST},
        Kind.ENVELOPE: {"expires": statements.spell(NOW + timedelta(days=30)), "purpose": "event"},
        Kind.RECEIPT: {"answers": DIGEST},
        Kind.REJECTION: {"answers": DIGEST, "reason": "NOT_OURS"},
    }[kind]
    if kind in {Kind.REQUEST, Kind.RESPONSE}:
        of_kind |= {"head-sha256": DIGEST, "head-bytes": "12"}
    if kind in {Kind.REQUEST, Kind.RESPONSE, Kind.ENVELOPE}:
        of_kind |= {"body-sha256": DIGEST, "body-bytes": "0"}
    return {**common, **of_kind, **{name.replace("_", "-"): value for name, value in given.items()}}


def statement(kind: Kind = Kind.REQUEST, **given: str) -> Statement:
    return statements.compose(kind, lines(kind, **given))


parts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=20).filter(
    lambda part: part not in {".", ".."}
)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
numbers = st.integers(0, 10**18 - 1).map(str)
instants = st.integers(0, 2**43).map(lambda ms: statements.spell(datetime.fromtimestamp(ms / 1000, UTC)))


def _identifier(*counts: int):
    return (
        st.sampled_from(counts)
        .flatmap(lambda count: st.lists(parts, min_size=count, max_size=count))
        .map(identifiers.join)
    )


_values = {
    "id": st.uuids().map(str),
    "time": instants,
    "expires": instants,
    "sender": _identifier(4).map("subsystem {}".format),
    "receiver": st.one_of(
        _identifier(5, 6).map("service {}".format),
        _identifier(4).map("subsystem {}".format),
        _identifier(5).map("topic {}".format),
        _identifier(2, 5).map("group {}".format),
        _identifier(3).map("member {}".format),
    ),
    "message-id": parts.map(identifiers.encode),
    "protocol": st.sampled_from(["http", "grpc"]),
    "status": st.integers(0, 999).map("{:03}".format),
    "purpose": st.sampled_from(["event", "request", "answer"]),
    "type": st.from_regex(r"\A[A-Za-z0-9._/-]{1,255}\Z"),
    "media-type": st.sampled_from(["text/plain", "application/json; charset=utf-8"]),
    "lane": st.binary(min_size=16, max_size=16).map(bytes.hex),
    "place": st.integers(1, 10**18 - 1).map(str),
    "head-bytes": numbers,
    "body-bytes": numbers,
    "trailers-bytes": numbers,
    "reason": st.from_regex(r"\A[A-Z][A-Z0-9_]{0,30}[A-Z0-9]\Z"),
    "directory": st.builds("{}/{}".format, parts.map(identifiers.encode), st.integers(1, 10**18 - 1)),
    "policy": st.builds("{}/{}".format, st.from_regex(r"\A[a-z][a-z0-9-]{1,61}[a-z0-9]\Z"), st.integers(1, 10**9)),
}
_LETTERS = dict(zip(Kind, "RAFECJ", strict=True))


@st.composite
def every_statement(draw) -> tuple[Kind, dict[str, str]]:
    """Any kind, with any of the lines that it may have."""
    kind = draw(st.sampled_from(Kind))
    letter = _LETTERS[kind]
    given = {}
    for line in statements.LINES[1:]:
        optional = letter.lower() in line.kinds
        if letter in line.kinds or (optional and draw(st.booleans())):
            given[line.name] = draw(_values.get(line.name, digests))
    for first, other in (("trailers-sha256", "trailers-bytes"), ("lane", "place")):
        if (first in given) != (other in given):
            given.pop(first, None)
            given.pop(other, None)
    return kind, given
