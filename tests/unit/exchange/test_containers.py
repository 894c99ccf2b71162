"""Containers: opened by our verifier and by tools of others, and refused with each thing that can be wrong."""

import io
import shutil
import struct
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from services.exchange.evidence import container, signatures, statements, verifying
from services.exchange.evidence.container import MANIFEST, RECORD, RECORD_MANIFEST, SIGNATURE, Container
from services.exchange.evidence.signatures import STATEMENT_FILE, Algorithm
from services.exchange.evidence.statements import Kind
from services.exchange.evidence.verifying import Anchors, Beside, Outcome, Report, Step
from tests.unit.exchange import pki
from tests.unit.exchange.containers import ANCHORS, MESH, SECOND, batch, recorded, signed, stamp, stapled, whole
from tests.unit.exchange.pki import NOW
from tests.unit.exchange.samples import DIGEST, every_statement, statement

STRANGERS = Path(__file__).parent / "strangers"
JARS = [Path("/usr/share/java") / f"{name}.jar" for name in ("bcprov", "bcutil", "bcpkix")]


def check(given_one: bytes | Container, *, anchors: Anchors = ANCHORS, **beside) -> Report:
    file = container.write(given_one) if isinstance(given_one, Container) else given_one
    return verifying.verify(file, anchors=anchors, beside=Beside(**beside))


def outcomes(report: Report) -> dict[Step, Outcome]:
    return {each.step: each.outcome for each in report.findings}


def reasons(report: Report) -> dict[Step, str]:
    return {each.step: each.reason for each in report.findings if each.outcome is Outcome.FAILS}


def files(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(entries: list[tuple[str, bytes]] | dict[str, bytes], stored: tuple[str, ...] = ("mimetype",)) -> bytes:
    """A ZIP of anything, made without the code under test."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, content in entries.items() if isinstance(entries, dict) else entries:
            kind = zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=kind)
    return out.getvalue()


WHOLE = whole()
FILES = files(WHOLE)


def test_a_whole_container_is_proven_step_by_step() -> None:
    report = check(WHOLE)
    assert report.outcome is Outcome.HOLDS
    assert {step: outcome for step, outcome in outcomes(report).items() if step is not Step.CONTENT} == dict.fromkeys(
        verifying.PROOF, Outcome.HOLDS
    )
    assert report.proven_time == NOW
    assert report.statement == statement()


def test_files_stand_in_the_order_of_the_contract() -> None:
    assert list(FILES) == ["mimetype", STATEMENT_FILE, MANIFEST, SIGNATURE, RECORD_MANIFEST, RECORD]
    assert WHOLE[30:38] == b"mimetype"
    assert WHOLE[38:69] == container.MEDIA_TYPE.encode()


def test_a_stamp_of_its_own_proves_the_time_as_well() -> None:
    report = check(signed(single=True))
    assert report.outcome is Outcome.HOLDS
    assert report.proven_time == NOW


@given(every_statement())
@settings(max_examples=25)
def test_any_statement_goes_into_a_container_and_comes_out(kind_and_lines) -> None:
    sample = statements.compose(*kind_and_lines)
    assert check(signed(sample)).statement == sample


def test_without_anchors_nobody_is_trusted_and_nothing_fails() -> None:
    report = check(WHOLE, anchors=Anchors())
    assert report.outcome is Outcome.UNKNOWN
    unknown = {step for step, outcome in outcomes(report).items() if outcome is Outcome.UNKNOWN}
    assert unknown == {Step.CERTIFICATE, Step.SIGNER, Step.STATUS, Step.TIME, Step.CONTENT}


def test_evidence_without_a_time_stamp_is_not_proven() -> None:
    report = check(signed())
    assert (report.outcome, outcomes(report)[Step.TIME]) == (Outcome.UNKNOWN, Outcome.UNKNOWN)


def test_evidence_without_a_status_is_not_proven() -> None:
    report = check(signed(word=b""))
    assert (report.outcome, outcomes(report)[Step.STATUS]) == (Outcome.UNKNOWN, Outcome.UNKNOWN)


def test_one_signature_over_many_statements_is_proven_with_the_statement_beside_it() -> None:
    samples = [statement(message_id=str(number)) for number in range(5)]
    made = batch(samples)
    held, signature = made[3]
    (whole_one,) = recorded(held)
    assert check(whole_one, statement=samples[3].content, place=signature.batch).outcome is Outcome.HOLDS
    assert outcomes(check(whole_one))[Step.STATEMENT] is Outcome.UNKNOWN
    other = check(whole_one, statement=samples[2].content, place=signature.batch)
    assert reasons(other) == {Step.STATEMENT: "BATCH_PATH_INVALID"}


def test_content_at_hand_is_held_against_the_statement() -> None:
    sample = statement(body_sha256=DIGEST, body_bytes="7")
    held = check(whole(sample), content={"body": (DIGEST, 7)})
    assert Outcome.HOLDS in {each.outcome for each in held.findings if each.step is Step.CONTENT}
    for wrong in (("cd" * 32, 7), (DIGEST, 8)):
        assert reasons(check(whole(sample), content={"body": wrong})) == {Step.CONTENT: "BODY_DIGEST_MISMATCH"}


def test_answers_are_held_against_what_they_answer() -> None:
    question = statement()
    reports = [check(signed(each)) for each in (question, statement(Kind.RESPONSE, answers=question.sha256.hex()))]
    verifying.check_binding(reports)
    assert outcomes(reports[1])[Step.BINDING] is Outcome.HOLDS
    alone = [check(signed(statement(Kind.RESPONSE)))]
    verifying.check_binding(alone)
    assert outcomes(alone[0])[Step.BINDING] is Outcome.UNKNOWN
    another = statement(Kind.RESPONSE, answers=question.sha256.hex(), id="018f4e2a-7c1d-7000-8000-0123456789ac")
    mixed = [check(signed(question)), check(signed(another))]
    verifying.check_binding(mixed)
    assert reasons(mixed[1]) == {Step.BINDING: "ANSWER_NOT_BOUND"}


def changed(**changes: bytes | None) -> dict[str, bytes]:
    names = {"statement": STATEMENT_FILE, "manifest": MANIFEST, "signature": SIGNATURE, "record": RECORD}
    kept = {**FILES, **{names.get(name, name): content for name, content in changes.items()}}
    return {name: content for name, content in kept.items() if content is not None}


def renamed(old: str, new: str) -> dict[str, bytes]:
    return {new if name == old else name: content for name, content in FILES.items()}


BOMB = b"\0" * 50_000_000
OUTER = {
    "no ZIP": (b"nonsense", "CONTAINER_MALFORMED"),
    "nothing": (b"", "CONTAINER_MALFORMED"),
    "an empty ZIP": (packed({}), "CONTAINER_MALFORMED"),
    "bytes before": (b"\0" + WHOLE, "CONTAINER_MALFORMED"),
    "bytes after": (WHOLE + b"\0", "CONTAINER_MALFORMED"),
    "half of it": (WHOLE[: len(WHOLE) // 2], "CONTAINER_MALFORMED"),
    "the media type packed": (packed(FILES, stored=()), "CONTAINER_MALFORMED"),
    "the media type last": (packed([*list(FILES.items())[1:], ("mimetype", FILES["mimetype"])]), "CONTAINER_MALFORMED"),
    "another media type": (packed(changed(mimetype=b"application/zip")), "CONTAINER_MALFORMED"),
    "an extra file": (packed({**FILES, "more.txt": b"more"}), "CONTAINER_FILE_EXTRA"),
    "an extra signature": (packed({**FILES, "META-INF/signatures1.xml": b"<a/>"}), "CONTAINER_FILE_EXTRA"),
    "no statement": (packed(changed(statement=None)), "CONTAINER_FILE_MISSING"),
    "no manifest": (packed(changed(manifest=None)), "CONTAINER_FILE_MISSING"),
    "no signature": (packed(changed(signature=None)), "CONTAINER_FILE_MISSING"),
    "a record's manifest without the record": (packed(changed(record=None)), "CONTAINER_FILE_MISSING"),
    "another name": (packed(renamed(STATEMENT_FILE, "Statement.txt")), "CONTAINER_FILE_RENAMED"),
    "the signature's other name": (packed(renamed(SIGNATURE, "META-INF/signature.xml")), "CONTAINER_FILE_RENAMED"),
    "one name twice": (packed([*FILES.items(), (STATEMENT_FILE, b"other")]), "CONTAINER_FILE_RENAMED"),
    "another media type in the manifest": (
        packed(changed(manifest=FILES[MANIFEST].replace(b"text/plain", b"text/html"))),
        "CONTAINER_FILE_RENAMED",
    ),
    "a document type in the manifest": (
        packed(changed(manifest=FILES[MANIFEST].replace(b"?>", b'?><!DOCTYPE a [<!ENTITY b "c">]>', 1))),
        "CONTAINER_FILE_RENAMED",
    ),
    "a file in a folder": (packed({**FILES, "more/statement.txt": b"more"}), "CONTAINER_NESTED"),
    "a way out": (packed(renamed(STATEMENT_FILE, "../statement.txt")), "CONTAINER_NESTED"),
    "an absolute name": (packed(renamed(STATEMENT_FILE, "/statement.txt")), "CONTAINER_NESTED"),
    "a container in it": (packed(changed(record=WHOLE)), "CONTAINER_NESTED"),
    "a bomb": (packed(changed(statement=BOMB)), "CONTAINER_TOO_LARGE"),
    "a bomb of a signature": (packed(changed(signature=BOMB)), "CONTAINER_TOO_LARGE"),
    "too many entries": (packed({**FILES, **{f"f{at}": b"" for at in range(20)}}), "CONTAINER_MALFORMED"),
    "too many bytes": (packed(FILES) + bytes(container.MAX_BYTES), "CONTAINER_TOO_LARGE"),
}


@pytest.mark.parametrize("case", OUTER)
def test_what_is_no_container_is_refused(case) -> None:
    content, reason = OUTER[case]
    report = check(content)
    assert reasons(report) == {Step.CONTAINER: reason}
    assert report.outcome is Outcome.FAILS


def test_an_entry_that_only_some_readers_see_is_refused() -> None:
    """Its local header is there, the directory does not list it."""
    hidden = packed({"mimetype": FILES["mimetype"]}, stored=("mimetype",))
    hidden = hidden[: hidden.index(b"PK\x01\x02")]
    directory = WHOLE.index(b"PK\x01\x02")
    end = WHOLE.index(b"PK\x05\x06")
    moved = bytearray(WHOLE[:directory] + hidden + WHOLE[directory:])
    (offset,) = struct.unpack_from("<L", moved, end + len(hidden) + 16)
    struct.pack_into("<L", moved, end + len(hidden) + 16, offset + len(hidden))
    assert zipfile.ZipFile(io.BytesIO(moved)).namelist() == list(FILES)
    assert reasons(check(bytes(moved))) == {Step.CONTAINER: "CONTAINER_MALFORMED"}


def test_an_encrypted_entry_is_refused() -> None:
    flagged = bytearray(WHOLE)
    struct.pack_into("<H", flagged, WHOLE.index(b"PK\x01\x02") + 8, 1)
    assert reasons(check(bytes(flagged))) == {Step.CONTAINER: "CONTAINER_MALFORMED"}


def test_a_name_does_not_speak_to_the_terminal() -> None:
    (finding,) = check(packed({**FILES, "\x1b[2J": b"more"})).findings
    assert finding.reason == "CONTAINER_FILE_EXTRA"
    assert "\x1b" not in finding.text
    assert "x1b" in finding.text


STRANGER = pki.issue("Authority")
ENDED = pki.issue("City", MESH.authority, end=NOW - timedelta(seconds=1))


def inner() -> dict[str, tuple[bytes | Container, dict[Step, str]]]:
    """Containers whose files are in order, and in which one thing does not hold."""
    good = signed(single=True)
    (stamped,) = recorded(signed())
    other_record = recorded(signed(statement(message_id="other")))[0].record
    key = MESH.other
    substituted = good.signature.replace(_encoded(MESH.member.der), _encoded(key.der))
    elsewhere = pki.issue("City", STRANGER)
    responder = pki.issue("Status", STRANGER, purpose=ExtendedKeyUsageOID.OCSP_SIGNING, critical=False)
    stamping = pki.issue("Time stamps", STRANGER, purpose=ExtendedKeyUsageOID.TIME_STAMPING)
    tampered = statement(message_id="tampered").content
    return {
        "another statement": (replace(good, content=tampered), {Step.SIGNATURE: "SIGNATURE_INVALID"}),
        "no statement at all": (
            replace(good, content=b"nonsense"),
            {Step.STATEMENT: "STATEMENT_MALFORMED", Step.SIGNATURE: "SIGNATURE_INVALID"},
        ),
        "a key swapped for the certificate's": (
            replace(good, signature=substituted),
            {Step.SIGNATURE: "KEY_CERTIFICATE_MISMATCH"},
        ),
        "another algorithm than the key's": (
            replace(good, signature=good.signature.replace(b"ecdsa-sha256", b"rsa-sha256")),
            {Step.SIGNATURE: "SIGNATURE_FORM_REFUSED"},
        ),
        "a document type in the signature": (
            replace(good, signature=good.signature.replace(b"?>", b'?><!DOCTYPE a [<!ENTITY b "c">]>', 1)),
            {Step.CONTAINER: "CONTAINER_MALFORMED"},
        ),
        "a stamp over another signature": (
            replace(good, signature=_with_stamp(good.signature, stamp(bytes(32)))),
            {Step.TIME: "TIME_STAMP_IMPRINT_MISMATCH"},
        ),
        "a record of another container": (
            replace(stamped, record=other_record),
            {Step.TIME: "EVIDENCE_RECORD_INVALID"},
        ),
        "a record of an unknown authority": (
            recorded(signed(), by=stamping)[0],
            {Step.TIME: "TIME_STAMP_AUTHORITY_UNKNOWN"},
        ),
        "a stamp from before the signature": (
            recorded(signed(), now=NOW - timedelta(minutes=2))[0],
            {Step.TIME: "TIME_STAMP_INVALID"},
        ),
        "a status by a stranger's responder": (
            signed(word=stapled(by=responder)),
            {Step.STATUS: "STATUS_RESPONDER_INVALID"},
        ),
        "a status of another certificate": (
            signed(word=stapled(MESH.other)),
            {Step.STATUS: "STATUS_NOT_FOR_CERTIFICATE"},
        ),
        "a status that was too old": (
            signed(word=stapled(now=NOW - timedelta(hours=2))),
            {Step.STATUS: "STATUS_STALE"},
        ),
        "a certificate revoked before": (
            recorded(signed(word=stapled(revoked=NOW - timedelta(hours=1))))[0],
            {Step.STATUS: "CERTIFICATE_REVOKED"},
        ),
        "a certificate revoked afterwards, without a stamp": (
            signed(word=stapled(now=NOW + timedelta(hours=1), revoked=NOW + timedelta(minutes=30))),
            {Step.STATUS: "CERTIFICATE_REVOKED"},
        ),
        "a certificate whose time was over": (
            signed(holder=ENDED),
            {Step.CERTIFICATE: "CERTIFICATE_EXPIRED", Step.SIGNER: "SIGNER_NOT_SENDER"},
        ),
        "a certificate of a strange authority": (
            signed(holder=elsewhere, word=b""),
            {Step.CERTIFICATE: "CERTIFICATE_ISSUER_UNKNOWN", Step.SIGNER: "SIGNER_NOT_SENDER"},
        ),
        "a certificate of another member": (
            signed(holder=MESH.other),
            {Step.SIGNER: "SIGNER_NOT_SENDER"},
        ),
    }


def _encoded(content: bytes) -> bytes:
    import base64

    return base64.b64encode(content)


def _with_stamp(file: bytes, token: bytes) -> bytes:
    begin = file.index(b"<xades:EncapsulatedTimeStamp>") + len(b"<xades:EncapsulatedTimeStamp>")
    return file[:begin] + _encoded(token) + file[file.index(b"</xades:EncapsulatedTimeStamp>") :]


INNER = inner()


@pytest.mark.parametrize("case", INNER)
def test_what_does_not_hold_is_said(case) -> None:
    content, expected = INNER[case]
    assert reasons(check(content)) == expected


def test_a_certificate_revoked_after_the_proven_time_still_proves() -> None:
    late = stapled(now=NOW + timedelta(hours=1), revoked=NOW + timedelta(minutes=30))
    report = check(recorded(signed(word=late))[0])
    assert report.outcome is Outcome.HOLDS


def test_a_certificate_that_ended_before_its_stamp_leaves_the_time_of_signing_open() -> None:
    short = pki.issue("City", MESH.authority, end=NOW + timedelta(seconds=30))
    report = check(recorded(signed(holder=short), now=NOW + timedelta(hours=1))[0])
    assert outcomes(report)[Step.CERTIFICATE] is Outcome.UNKNOWN


def test_a_path_leads_over_authorities_that_came_along_to_one_that_is_trusted() -> None:
    middle = _authority_under(MESH.authority)
    holder = pki.issue("City", middle)
    sample = statement()
    made = signatures.sign(sample, key=holder.key, pinned=holder.pinned(), now=SECOND)
    from services.exchange.evidence import xades

    for chain, outcome in (([middle.der], Outcome.HOLDS), ([], Outcome.FAILS), ([MESH.member.der], Outcome.FAILS)):
        file = xades.write(
            holder.pinned(),
            file=STATEMENT_FILE,
            file_sha256=sample.sha256,
            signing_time=SECOND,
            value=made.value,
            chain=chain,
        )
        assert outcomes(check(Container(STATEMENT_FILE, sample.content, file)))[Step.CERTIFICATE] is outcome


def _authority_under(root: pki.Holder) -> pki.Holder:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    plain = pki.issue("Middle")
    builder = (
        x509.CertificateBuilder()
        .subject_name(plain.certificate.subject)
        .issuer_name(root.certificate.subject)
        .public_key(plain.key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
    )
    for extension in plain.certificate.extensions:
        if not isinstance(extension.value, x509.AuthorityKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    issued = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(root.key.public_key()), critical=False
    )
    return pki.Holder(issued.sign(root.key, hashes.SHA256()), plain.key)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # odd numbers
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
@settings(max_examples=300)
def test_one_changed_byte_never_proves_something_else(at, mask) -> None:
    changed_file = bytearray(WHOLE)
    changed_file[at] ^= mask
    report = check(bytes(changed_file))
    if report.outcome is Outcome.HOLDS:  # what nobody signs: dates and versions of ZIP
        assert files(bytes(changed_file)) == FILES


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # odd numbers
@given(st.sampled_from(sorted(FILES)), st.data())
@settings(max_examples=300)
def test_files_of_anything_raise_nothing_but_refusals(name, data) -> None:
    content = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
        if not content:
            break
    report = check(packed({**FILES, name: bytes(content)}))
    assert report.outcome is not Outcome.HOLDS or bytes(content) == FILES[name]


@given(st.binary(max_size=300))
def test_anything_at_all_is_refused(content) -> None:
    assert check(content).outcome is Outcome.FAILS


def test_the_verifier_needs_nothing_of_a_node() -> None:
    heavy = ("grpc", "google", "asyncpg", "aiohttp", "nats", "opentelemetry", "uvloop", "solmu")
    code = (
        "import sys, services.exchange.evidence.verifying\n"
        f"print([name for name in sys.modules if name.split('.')[0] in {heavy!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("algorithm", Algorithm)
def test_every_key_names_its_algorithm(algorithm) -> None:
    assert signatures.algorithm_for(pki.new_key(algorithm).public_key()) is algorithm


def test_xmlsec1_verifies_a_container_that_was_unpacked(tmp_path) -> None:
    tool = shutil.which("xmlsec1")
    if tool is None:
        pytest.skip("xmlsec1 is not installed (apt-get install xmlsec1)")
    with zipfile.ZipFile(io.BytesIO(WHOLE)) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "authority.pem").write_bytes(MESH.authority.certificate.public_bytes(Encoding.PEM))

    def verifies() -> bool:
        command = [
            tool, "--verify", "--id-attr:Id", f"{signatures.XA}:SignedProperties", "--trusted-pem", "authority.pem",
            "--verification-gmt-time", "2026-11-21 06:30:00", SIGNATURE,
        ]  # fmt: skip
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0

    assert verifies()
    (tmp_path / STATEMENT_FILE).write_bytes(FILES[STATEMENT_FILE].replace(b"letters", b"Letters"))
    assert not verifies()


def stranger(folder: Path, content: bytes) -> list[str]:
    """What the JDK and BouncyCastle find good in a container."""
    java = shutil.which("java")
    if java is None or not all(jar.exists() for jar in JARS):
        pytest.skip("BouncyCastle is not installed (apt-get install libbcpkix-java default-jdk-headless)")
    (folder / "container.asice").write_bytes(content)
    (folder / "stamping.der").write_bytes(MESH.stamping.der)
    (folder / "responder.der").write_bytes(MESH.responder.der)
    done = subprocess.run(
        [
            java, "-cp", ":".join(map(str, JARS)), str(STRANGERS / "CheckContainer.java"),
            "container.asice", "stamping.der", "responder.der",
        ],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.split() if done.returncode == 0 else [*done.stdout.split(), done.stderr.strip()[-300:]]


def test_bouncycastle_and_the_jdk_verify_our_containers(tmp_path) -> None:
    assert stranger(tmp_path, WHOLE) == ["signature", "status", "evidence-record"]
    assert stranger(tmp_path, container.write(signed(single=True))) == ["signature", "status", "time-stamp"]


def test_bouncycastle_refuses_a_record_of_another_container(tmp_path) -> None:
    content, _ = INNER["a record of another container"]
    found = stranger(tmp_path, container.write(content) if isinstance(content, Container) else content)
    assert found[:2] == ["signature", "status"]
    assert "evidence-record" not in found
    assert "ERSArchiveTimeStamp.validatePresent" in found[-1]
