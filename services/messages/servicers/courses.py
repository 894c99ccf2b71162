"""Courses between the database, the rules and the feed: rows become courses, what changes becomes rows and events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from google.protobuf.message import Message
from solmu.messages.v1 import events_pb2, messages_pb2
from solmu.types.v1 import types_pb2

from services.messages import deliveries, legal, letter_store, lifecycle, mailboxes, message_store, paper
from services.messages.course import Course
from services.messages.deliveries import Channel, Delivery
from services.messages.paper import Policy, Trigger
from services.messages.profiles import PROFILES
from services.messages.servicers import names
from services.runtime import outbox
from services.runtime.database import Connection, Database, Row
from services.runtime.outbox import Event, Outbox

KEPT = timedelta(days=7)
"""How long the PDF of a letter is kept after it was posted, to be printed again where the post has lost it in bulk."""


@dataclass(frozen=True)
class Move:
    """A message, and how its course went from one place to another."""

    row: Row
    before: Course
    after: Course


async def of(database: Database | Connection, rows: Sequence[Row]) -> list[Course]:
    """The courses of messages; with `message_store.hold` before, they stay as they are until the transaction ends."""
    found: dict[UUID, list[Row]] = defaultdict(list)
    for row in await message_store.deliveries_of(database, [row["message_id"] for row in rows]):
        found[row["message_id"]].append(row)
    return [course_of(row, found[row["message_id"]]) for row in rows]


async def keep(transaction: Connection, outbox: Outbox, moves: Sequence[Move], *, now: datetime) -> None:
    """Keeps where messages are now, and tells of what changed."""
    await message_store.write_courses(transaction, [(move.row["message_id"], move.after) for move in moves])
    if fresh := [move.after.letter for move in moves if move.after.letter and not move.before.letter]:
        await letter_store.insert(transaction, fresh)
    if moved := [(move.after.message_id, way) for move in moves for way in _changed(move.before, move.after)]:
        await message_store.write_deliveries(transaction, moved)
        if resting := [(message_id, _kept_until(way, now)) for message_id, way in moved if _rests(way)]:
            await letter_store.rest(transaction, resting)
        if again := [move.after.message_id for move in moves if _tried_again(move)]:
            await letter_store.try_again(transaction, again, now=now)
    if told := [event for move in moves for event in events(reference(move.row), move.before, move.after, now=now)]:
        await outbox.append(transaction, told)


def course_of(row: Row, delivery_rows: Sequence[Row]) -> Course:
    """A message's course by its rows."""
    ways = {found.channel: found for found in (_delivery(delivery) for delivery in delivery_rows)}
    return Course(
        message_id=row["message_id"],
        kind=legal.Kind(row["kind"]),
        profile=PROFILES[row["legal_profile"]],
        state=lifecycle.State(row["state"]),
        electronic=ways.get(Channel.ELECTRONIC) or ways.get(Channel.EXCHANGE),
        paper=_policy(row),
        letter=ways.get(Channel.PAPER),
        effect=legal.Effect(legal.State(row["legal_state"]), row["legal_time"], legal.Basis(row["legal_basis"])),
        publish_time=row["publish_time"],
        release_time=row["release_time"],
        withdraw_time=row["withdraw_time"],
        due_time=row["due_time"],
        rejection=row["rejection"],
        due_passed=row["due_passed"],
    )


def reachable(row: Row, *, now: datetime) -> bool:
    """Whether the mailbox of a message that `message_store.hold` has found takes messages now."""
    if row["data_key"] is None:
        return False
    state = mailboxes.State(row["mailbox_state"])
    mailbox = mailboxes.Mailbox(row["mailbox_id"], state, row["data_key"], row["opt_out_end_time"])
    despite_opt_out = PROFILES[row["legal_profile"]].despite_opt_out(legal.Kind(row["kind"]))
    return mailbox.reachable(now=now, despite_opt_out=despite_opt_out)


def reference(row: Row) -> events_pb2.MessageReference:
    """What every event of a message carries."""
    inbound = row["direction"] == messages_pb2.Message.DIRECTION_INBOUND
    return events_pb2.MessageReference(
        message=f"units/{row['unit_id']}/messages/{row['message_id']}",
        idempotency_key="" if inbound else row["idempotency_key"],
        correlation_id=row["correlation_id"],
    )


def events(about: events_pb2.MessageReference, before: Course, after: Course, *, now: datetime) -> list[Event]:
    """What the feed is told of a move."""
    return [outbox.event(payload, now=now) for payload in told(about, before, after)]


def told(about: events_pb2.MessageReference, before: Course, after: Course) -> Iterator[Message]:
    """What of a move is told, as events of this service."""
    waited = before.state in (lifecycle.State.SCHEDULED, lifecycle.State.AWAITING_ATTACHMENTS)
    if waited and after.state is lifecycle.State.RELEASED:
        yield events_pb2.MessageReleased(reference=about)
    if after.rejection is not None and before.rejection is None:
        yield events_pb2.MessageRejected(reference=about, reason=after.rejection)
    if after.withdraw_time != before.withdraw_time:
        yield events_pb2.MessageWithdrawn(reference=about)
    for changed in _changed(before, after):
        if _tells(before, changed):
            yield events_pb2.DeliveryChanged(reference=about, delivery=delivery(changed))
    was, now = before.effect, after.effect
    corrected = was.state is legal.State.EFFECTIVE and was != now
    if corrected or (now.state is not was.state and now.state in (legal.State.EFFECTIVE, legal.State.LAPSED)):
        effect = legal_effect(after)
        yield events_pb2.LegalEffectChanged(reference=about, legal_effect=effect, corrected=corrected)
    if after.due_passed and not before.due_passed and not after.seen:
        yield events_pb2.DuePassed(reference=about, receipt_awaited=after.verifiable)


def legal_effect(course: Course) -> messages_pb2.LegalEffect:
    """The legal effect, for an answer."""
    return messages_pb2.LegalEffect(
        state=int(course.effect.state),  # type: ignore[arg-type]  # numbers as in the contract
        effective_time=names.timestamp(course.effect.time),
        basis=int(course.effect.basis),  # type: ignore[arg-type]
        legal_profile=course.profile.name,
    )


def delivery(known: Delivery) -> messages_pb2.Delivery:
    """A delivery, for an answer."""
    return messages_pb2.Delivery(
        name=f"deliveries/{known.delivery_id}",
        channel=int(known.channel),  # type: ignore[arg-type]  # numbers as in the contract
        state=int(known.state),  # type: ignore[arg-type]
        update_time=names.timestamp(known.update_time),
        actor=types_pb2.Actor.FromString(known.actor) if known.actor is not None else None,
        cost=f"{known.cost.normalize():f}" if known.cost is not None else "",
        cost_currency=known.cost_currency,
    )


def _policy(row: Row) -> Policy:
    if row["paper_trigger"] is None:
        return paper.NEVER
    return Policy(
        trigger=Trigger(row["paper_trigger"]),
        unread_after=row["paper_unread_after"],
        working_hours=row["paper_working_hours"],
    )


def _rests(way: Delivery) -> bool:
    return way.channel is Channel.PAPER and way.state is not deliveries.State.QUEUED


def _tried_again(move: Move) -> bool:
    before, after = move.before.letter, move.after.letter
    failed, waits = deliveries.State.FAILED, deliveries.State.QUEUED
    return before is not None and after is not None and (before.state, after.state) == (failed, waits)


def _kept_until(letter: Delivery, now: datetime) -> datetime | None:
    """Until when the letter's PDF is kept."""
    if letter.state in (deliveries.State.SUBMITTED, deliveries.State.PRINTED):
        return None
    return now + KEPT if letter.goes else now


def _delivery(row: Row) -> Delivery:
    return Delivery(
        delivery_id=row["delivery_id"],
        channel=Channel(row["channel"]),
        state=deliveries.State(row["state"]),
        update_time=row["update_time"],
        available_time=row["available_time"],
        open_time=row["open_time"],
        receipt_time=row["receipt_time"],
        post_time=row["post_time"],
        deposit_time=row["deposit_time"],
        return_time=row["return_time"],
        actor=row["actor"],
        claim_end_time=row["claim_end_time"],
        cost=row["cost"],
        cost_currency=row["cost_currency"] or "",
    )


def _tells(before: Course, changed: Delivery) -> bool:
    """Whether the feed is told of a delivery: of each state that says something, who saw it, and what it cost."""
    waits = changed.state is deliveries.State.QUEUED and changed.channel is not Channel.PAPER
    if waits or changed.state is deliveries.State.WITHDRAWN:
        return False
    known = {found.delivery_id: found for found in before.deliveries}.get(changed.delivery_id)
    return known is None or (known.state, known.cost, known.actor) != (changed.state, changed.cost, changed.actor)


def _changed(before: Course, after: Course) -> list[Delivery]:
    known = {found.delivery_id: found for found in before.deliveries}
    return [found for found in after.deliveries if known.get(found.delivery_id) != found]
