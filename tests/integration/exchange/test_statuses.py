"""Certificate status: fetched ahead over HTTP, stapled, and judged by the policy of each exchange."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from solmu.exchange.v1.keys_pb2 import CertificateStatus

from services.exchange import status_store
from services.exchange.evidence import status
from services.exchange.evidence_rules import Rules
from services.exchange.statuses import Issuer, Statuses
from services.runtime.errors import Fault, InvalidArgument, Unavailable
from tests.integration.exchange.test_evidence_keeping import there
from tests.integration.exchange.trusting import Mesh, Signer

STRICT = Rules(stop_without_status=True)


class Clock:
    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def signer(mesh: Mesh) -> Signer:
    return mesh.signer()


def statuses(database, mesh: Mesh, clock, *own: Signer, uris: tuple[str, ...] | None = None) -> Statuses:
    issuer = Issuer(mesh.trust.authority.certificate, uris if uris is not None else (f"{mesh.origin}/status",))
    return Statuses(
        database=database,
        session=mesh.session,
        issuer=lambda _: issuer,
        own=lambda: [each.pinned.certificate for each in own],
        max_age=lambda: timedelta(hours=1),
        clock=clock,
    )


async def test_a_status_is_fetched_ahead_and_stapled_by_every_process(database, mesh, clock, signer):
    fetching = statuses(database, mesh, clock, signer)
    await fetching.fetch_due()
    answer = fetching.staple(signer.pinned, STRICT)
    following = statuses(database, mesh, clock, signer)
    with pytest.raises(Unavailable, match="STATUS_MISSING"):
        following.staple(signer.pinned, STRICT)
    await following.load()
    assert following.staple(signer.pinned, STRICT) == answer
    assert statuses(database, mesh, clock).accept(signer.pinned, answer, STRICT) == answer


async def test_it_is_fetched_anew_long_before_its_time_is_over(database, mesh, clock, signer):
    own = statuses(database, mesh, clock, signer)
    await own.fetch_due()
    first = there(await status_store.one(database, signer.pinned.sha256))
    await own.fetch_due()
    assert await status_store.one(database, signer.pinned.sha256) == first
    assert timedelta(minutes=15) < first["refresh_time"] - clock() <= timedelta(minutes=20)
    clock.ahead = timedelta(minutes=21)
    await own.fetch_due()
    assert there(await status_store.one(database, signer.pinned.sha256))["refresh_time"] > first["refresh_time"]


async def test_while_no_responder_answers_the_policy_says_whether_it_goes_on(database, mesh, clock, signer):
    await statuses(database, mesh, clock, signer).fetch_due()
    away = statuses(database, mesh, clock, signer, uris=("http://127.0.0.1:9/status",))
    await away.load()
    clock.ahead = timedelta(hours=2)
    await away.fetch_due()
    shown = await away.view(signer.pinned.certificate)
    assert (shown.state, shown.refresh_failure) == (CertificateStatus.STATE_GOOD, "STATUS_MISSING")
    assert away.staple(signer.pinned, Rules())
    with pytest.raises(Unavailable, match="STATUS_STALE"):
        away.staple(signer.pinned, STRICT)
    with pytest.raises(Unavailable, match="STATUS_STALE"):
        away.staple(signer.pinned, Rules(status_grace=timedelta(minutes=30)))
    clock.ahead = timedelta(minutes=40)
    with pytest.raises(Unavailable, match="STATUS_STALE"):
        away.staple(signer.pinned, Rules(stop_without_status=True, status_max_age=timedelta(minutes=30)))


async def test_without_any_status_the_policy_says_whether_it_goes_on(database, mesh, clock, signer):
    none = statuses(database, mesh, clock, signer)
    assert none.staple(signer.pinned, Rules()) == b""
    assert none.accept(signer.pinned, b"", Rules()) == b""
    with pytest.raises(InvalidArgument, match="STATUS_MISSING"):
        none.accept(signer.pinned, b"", STRICT)


async def test_a_revoked_certificate_stops_whatever_the_policy(database, mesh, clock, signer):
    own, peer = statuses(database, mesh, clock, signer), statuses(database, mesh, clock)
    await own.fetch_due()
    good = own.staple(signer.pinned, Rules())
    assert peer.accept(signer.pinned, good, Rules()) == good
    mesh.trust.revoke(signer.pinned.x509.serial_number, now=datetime.now(UTC))
    clock.ahead = timedelta(seconds=2)
    await own.refresh(signer.pinned.certificate)
    assert (await own.view(signer.pinned.certificate)).state == CertificateStatus.STATE_REVOKED
    with pytest.raises(InvalidArgument, match="CERTIFICATE_REVOKED"):
        own.staple(signer.pinned, Rules())
    row = there(await status_store.one(database, signer.pinned.sha256))
    with pytest.raises(InvalidArgument, match="CERTIFICATE_REVOKED"):
        peer.accept(signer.pinned, row["answer"], Rules())


async def test_an_older_status_does_not_take_back_that_a_certificate_was_revoked(database, mesh, clock, signer):
    peer = statuses(database, mesh, clock)
    old = mesh.trust.responder.answer(asked(mesh, signer), now=datetime.now(UTC) - timedelta(minutes=5))
    mesh.trust.revoke(signer.pinned.x509.serial_number, now=datetime.now(UTC) - timedelta(minutes=1))
    with pytest.raises(InvalidArgument, match="CERTIFICATE_REVOKED"):
        peer.accept(signer.pinned, mesh.status(signer), Rules())
    with pytest.raises(InvalidArgument, match="CERTIFICATE_REVOKED"):
        peer.accept(signer.pinned, old, Rules())


async def test_a_status_may_be_left_out_while_a_fresh_one_is_held(database, mesh, clock, signer):
    peer = statuses(database, mesh, clock)
    answer = mesh.status(signer)
    peer.accept(signer.pinned, answer, STRICT)
    assert peer.accept(signer.pinned, b"", STRICT) == answer
    clock.ahead = timedelta(hours=2)
    with pytest.raises(InvalidArgument, match="STATUS_STALE"):
        peer.accept(signer.pinned, b"", STRICT)


async def test_a_status_that_does_not_hold_is_refused(database, mesh, clock, signer):
    peer, other = statuses(database, mesh, clock), mesh.signer()
    for answer, reason in (
        (b"nonsense", "STATUS_MISSING"),
        (mesh.status(other), "STATUS_NOT_FOR_CERTIFICATE"),
        (
            mesh.trust.responder.answer(asked(mesh, signer), now=datetime.now(UTC) + timedelta(minutes=5)),
            "STATUS_STALE",
        ),
    ):
        with pytest.raises(Fault) as refusal:
            peer.accept(signer.pinned, answer, Rules())
        assert refusal.value.reason == reason


async def test_nobody_answers_for_a_certificate_that_the_directory_does_not_know(database, mesh, clock, signer):
    peer = Statuses(
        database=database,
        session=mesh.session,
        issuer=lambda _: None,
        own=list,
        max_age=lambda: timedelta(hours=1),
        clock=clock,
    )
    with pytest.raises(Fault, match="STATUS_RESPONDER_INVALID"):
        peer.accept(signer.pinned, mesh.status(signer), Rules())


async def test_a_key_that_was_never_asked_for_has_no_status_to_show(database, mesh, clock, signer):
    shown = await statuses(database, mesh, clock).view(signer.pinned.certificate)
    assert shown == CertificateStatus()
    assert hashlib.sha256(signer.pinned.certificate).digest() == signer.pinned.sha256


def asked(mesh: Mesh, signer: Signer) -> bytes:
    return status.request(signer.pinned.x509, mesh.trust.authority.certificate)
