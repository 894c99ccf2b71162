"""The form of statements: what is written is read back, and nothing else is read."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.exchange.evidence import identifiers, statements
from services.exchange.evidence.statements import Kind
from services.runtime.errors import InvalidArgument
from tests.unit.exchange.pki import NOW
from tests.unit.exchange.samples import DIGEST, every_statement, lines, parts, statement


def refused(content: bytes) -> str:
    with pytest.raises(InvalidArgument) as refusal:
        statements.parse(content)
    assert refusal.value.reason == "STATEMENT_MALFORMED"
    return refusal.value.metadata["line"]


@given(every_statement())
def test_what_is_composed_is_read_back(sample) -> None:
    kind, given_lines = sample
    composed = statements.compose(kind, given_lines)
    read = statements.parse(composed.content)
    assert read == composed
    assert (read.kind, dict(read.lines)) == (kind, given_lines)


@given(every_statement(), st.randoms(use_true_random=False))
def test_the_order_in_which_lines_are_given_does_not_matter(sample, random) -> None:
    kind, given_lines = sample
    shuffled = list(given_lines.items())
    random.shuffle(shuffled)
    assert statements.compose(kind, dict(shuffled)) == statements.compose(kind, given_lines)


def test_the_bytes_are_those_of_the_contract() -> None:
    assert statement(Kind.RECEIPT).content == (
        b"solmu-statement/1\n"
        b"kind: receipt\n"
        b"id: 018f4e2a-7c1d-7000-8000-0123456789ab\n"
        b"time: 2026-11-21T06:30:00.000Z\n"
        b"sender: subsystem FI/MUN/0245437-2/letters\n"
        b"receiver: service FI/COM/0201256-6/register/persons\n"
        b"answers: " + DIGEST.encode() + b"\n"
        b"directory: FI/17\n"
        b"policy: default/1\n"
    )


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(content) -> None:
    refused(content)
    refused(b"solmu-statement/1\nkind: request\n" + content)


@given(every_statement(), st.data())
def test_a_statement_with_one_byte_changed_is_another_or_none(sample, data) -> None:
    content = bytearray(statements.compose(*sample).content)
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    try:
        assert statements.parse(bytes(content)).sha256 != statements.compose(*sample).sha256
    except InvalidArgument as refusal:
        assert refusal.reason == "STATEMENT_MALFORMED"


@given(every_statement(), st.data())
def test_lines_out_of_order_twice_or_missing_are_refused(sample, data) -> None:
    kind, given_lines = sample
    written = statements.compose(kind, given_lines).content.splitlines(keepends=True)
    letter = dict(zip(Kind, "RAFECJ", strict=True))[kind]
    needed = [line.name for line in statements.LINES if letter in line.kinds]
    at = data.draw(st.integers(1, len(written) - 1))
    refused(b"".join([*written[:at], written[at], *written[at:]]))
    name = written[at].partition(b":")[0].decode()
    if name in needed:
        refused(b"".join(written[:at] + written[at + 1 :]))
    if at > 1:
        refused(b"".join([*written[: at - 1], written[at], written[at - 1], *written[at + 1 :]]))


DEFECTS = [
    ("no end of line", lambda text: text[:-1], ""),
    ("CRLF", lambda text: text.replace(b"\n", b"\r\n"), "kind"),
    ("a blank line", lambda text: text + b"\n", ""),
    ("an unknown line", lambda text: text + b"more: 1\n", ""),
    ("another version", lambda text: text.replace(b"statement/1", b"statement/2"), ""),
    ("an unknown kind", lambda text: text.replace(b": request", b": plea"), "kind"),
    ("upper case in the id", lambda text: text.replace(b"018f", b"018F"), "id"),
    ("no milliseconds", lambda text: text.replace(b"06:30:00.000Z", b"06:30:00Z"), "time"),
    ("a day that is not", lambda text: text.replace(b"time: 2026-11-21", b"time: 2026-11-31"), "time"),
    ("a leap second", lambda text: text.replace(b"expires: 2026-11-21T06:35:00", b"expires: 2026-11-21T06:35:60"), "expires"),
    ("a sender that is a member", lambda text: text.replace(b"2/letters", b"2").replace(b"sender: subsystem", b"sender: member"), "sender"),
    ("three parts", lambda text: text.replace(b"MUN/", b""), "sender"),
    ("a part encoded in lower case", lambda text: text.replace(b"letters", b"letter%c3%b6"), "sender"),
    ("a part encoded without need", lambda text: text.replace(b"letters", b"%6Cetters"), "sender"),
    ("a part that is dots", lambda text: text.replace(b"letters", b".."), "sender"),
    ("a part that is no UTF-8", lambda text: text.replace(b"letters", b"letter%FF"), "sender"),
    ("a number with a zero before it", lambda text: text.replace(b"head-bytes: 12", b"head-bytes: 012"), "head-bytes"),
    ("a digest in upper case", lambda text: text.replace(b"head-sha256: ab", b"head-sha256: AB"), "head-sha256"),
    ("two spaces", lambda text: text.replace(b"protocol: http", b"protocol:  http"), "protocol"),
    ("a line of another kind", lambda text: text.replace(b"protocol: http\n", b"protocol: http\nstatus: 200\n"), "status"),
    ("a missing line", lambda text: text.replace(b"body-bytes: 0\n", b""), "body-bytes"),
    ("digits of another script", lambda text: text.replace(b"head-bytes: 12", "head-bytes: 1٢".encode()), ""),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "line"), [defect[1:] for defect in DEFECTS], ids=[defect[0] for defect in DEFECTS])
def test_a_defect_is_refused_with_its_line(damage, line) -> None:
    content = statement().content
    damaged = damage(content)
    assert damaged != content
    assert refused(damaged) == line


@pytest.mark.parametrize(("name", "value"), [("trailers_sha256", DIGEST), ("trailers_bytes", "1")])
def test_lines_that_belong_together_stand_together(name, value) -> None:
    with pytest.raises(InvalidArgument):
        statement(**{name: value})


def test_a_line_cannot_smuggle_in_another() -> None:
    for name in ("kind", "no-such-line"):
        with pytest.raises(InvalidArgument):
            statements.compose(Kind.REQUEST, {**lines(), name: "request"})
    with pytest.raises(InvalidArgument):
        statement(message_id="1\nprotocol: http")


def test_a_statement_too_long_is_refused_before_it_is_read() -> None:
    assert refused(b"a" * (statements.MAX_BYTES + 1)) == ""


@given(parts)
def test_a_part_has_one_spelling(part) -> None:
    text = identifiers.encode(part)
    assert identifiers.decode(text) == part
    assert identifiers.split(identifiers.join([part, part]), 2) == (part, part)


@pytest.mark.parametrize("text", ["", "~", "%7e", "%41", "%2", "a/b", "%C3", "%00", "..", "%2E%2E", "ä"])
def test_another_spelling_is_refused(text) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        identifiers.decode(text)
    assert refusal.value.reason == "NAME_INVALID"


SKEW = timedelta(seconds=10)


@pytest.mark.parametrize("seconds", [-10, 0, 299, 310])
def test_a_statement_is_taken_within_its_time_and_the_skew_of_clocks(seconds) -> None:
    statements.check_time(statement(), now=NOW + timedelta(seconds=seconds), skew=SKEW)


@pytest.mark.parametrize("seconds", [-11, 311, 86400])
def test_a_statement_is_refused_outside_of_its_time(seconds) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        statements.check_time(statement(), now=NOW + timedelta(seconds=seconds), skew=SKEW)
    assert refusal.value.reason == "STATEMENT_EXPIRED"


def test_a_statement_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        statements.check_time(statement(expires=statements.spell(NOW - timedelta(seconds=1))), now=NOW, skew=SKEW)


def test_the_last_instant_there_is_can_be_judged() -> None:
    statements.check_time(statement(expires="9999-12-31T23:59:59.999Z"), now=NOW, skew=SKEW)


def test_an_answer_is_bound_to_its_question() -> None:
    question = statement()
    statements.check_bound(statement(Kind.RESPONSE, answers=question.sha256.hex()), question)
    for answer in (
        statement(Kind.RESPONSE),
        statement(Kind.RESPONSE, answers=question.sha256.hex(), id="018f4e2a-7c1d-7000-8000-000000000000"),
        statement(Kind.REFUSAL),
    ):
        with pytest.raises(InvalidArgument) as refusal:
            statements.check_bound(answer, question)
        assert refusal.value.reason == "ANSWER_NOT_BOUND"


def test_a_refusal_may_be_bound_by_its_id_alone() -> None:
    bare = lines(Kind.REFUSAL)
    del bare["answers"]
    statements.check_bound(statements.compose(Kind.REFUSAL, bare), statement())
