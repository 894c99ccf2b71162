"""Subscriptions: entered at the publisher's node, wished for at the subscriber's."""

from __future__ import annotations

from datetime import UTC, datetime

from solmu.exchange.v1 import events_pb2, topics_pb2

from services.exchange import envelope_store, names, topic_store
from services.exchange.configuration import Configuration
from services.exchange.meshes import Meshes
from services.exchange.recording import Recorder
from services.exchange.sending import State
from services.runtime.database import Database, Row
from services.runtime.errors import PermissionDenied, not_found

Subscription = topics_pb2.Subscription


class Subscribing:
    """Enters and ends subscriptions."""

    def __init__(self, *, database: Database, meshes: Meshes, configuration: Configuration, recorder: Recorder) -> None:
        self._database = database
        self._meshes = meshes
        self._configuration = configuration
        self._recorder = recorder

    async def enter(self, peer: str, subscriber: str, wanted: Subscription) -> Subscription:
        """At the publisher's node: enters or ends what a node wants for a subsystem that it serves.

        Raises PermissionDenied: PEER_NOT_AUTHORISED, ACCESS_DENIED.
        """
        topic = topic_identifier(wanted.topic)
        if not self._meshes.serves(peer, subscriber):
            raise PermissionDenied("PEER_NOT_AUTHORISED", "the node does not serve the subscriber", node=peer)
        answer = Subscription()
        answer.CopyFrom(wanted)
        if wanted.state == Subscription.STATE_ENDED:
            await topic_store.unsubscribe(self._database, topic, subscriber)
            return answer
        await self._configuration.load()  # as for what is brought
        self.check_right(topic, subscriber)
        if await topic_store.topic(self._database, topic) is None:
            raise not_found(wanted.topic)
        async with self._database.transaction() as transaction:
            fresh = await topic_store.subscribe(transaction, topic, subscriber, list(wanted.types))
        if fresh and wanted.HasField("start_time"):
            await self.again(topic, subscriber, start=wanted.start_time.ToDatetime(UTC), end=None)
        answer.state = Subscription.STATE_ACTIVE
        return answer

    async def again(self, topic: str, subscriber: str, *, start: datetime, end: datetime | None) -> int:
        """At the publisher's node: has what was sent to a topic in a time be brought, again or for the first time."""
        types = await topic_store.types_of(self._database, topic, subscriber)
        count = 0
        for envelope in await envelope_store.of_topic(self._database, topic, start=start, end=end):
            if types and envelope["type"] not in types:
                continue
            await envelope_store.insert_recipients(
                self._database,
                envelope["envelope_id"],
                [subscriber],
                state=State.DELIVERY_STATE_QUEUED,
                replayed=True,
            )
            count += 1
        return count

    async def heard(self, row: Row, told: Subscription) -> None:
        """At the subscriber's node: the publisher's has heard of it."""
        await self._set(row, state=told.state or row["state"], reason="")

    async def refused(self, row: Row, reason: str) -> None:
        """At the subscriber's node: the publisher's has refused it."""
        ended = row["state"] == Subscription.STATE_ENDED
        await self._set(row, state=row["state"] if ended else Subscription.STATE_REFUSED, reason=reason)

    async def _set(self, row: Row, *, state: int, reason: str) -> None:
        async with self._database.transaction() as transaction:
            if not await topic_store.set_subscription(
                transaction, row["subscription_id"], state=state, reason=reason, told=True, before=row["state"]
            ):
                return  # it was ended meanwhile, of which the publisher's node has to hear yet
            view = subscription_view(row)
            await self._recorder.tell(
                transaction,
                events_pb2.SubscriptionChanged(
                    subscription=view.name, topic=view.topic, active=state == Subscription.STATE_ACTIVE, reason=reason
                ),
            )
        self._recorder.wake()

    def check_right(self, topic: str, subscriber: str) -> None:
        """Raises PermissionDenied, ACCESS_DENIED, where a subsystem may not subscribe to a topic."""
        rights = self._configuration.current.rights.get(f"topics {topic}", ())
        groups, now = self._meshes.groups(subscriber), datetime.now(UTC)
        if not any(right.held_by(subscriber, groups, now=now) for right in rights):
            raise PermissionDenied("ACCESS_DENIED", "no right allows this subsystem to subscribe to the topic")


def topic_identifier(name: str) -> str:
    """A topic, spelt with "/", from its resource name."""
    parts = name.split("/")
    return f"{names.identifier(name, 4)}/{parts[3]}"


def topic_name(identifier: str) -> str:
    """The resource name of a topic; empty for none."""
    owner, _, code = identifier.rpartition("/")
    return f"{names.resource('subsystems', owner)}/topics/{code}" if identifier else ""


def subscription_view(row: Row) -> Subscription:
    """A subscription as the contract shows it."""
    view = Subscription(
        name=f"{names.resource('subsystems', row['subsystem'])}/subscriptions/{row['subscription_id']}",
        topic=topic_name(row["topic"]),
        types=row["types"],
        state=row["state"],
        reason=row["reason"],
    )
    view.create_time.FromDatetime(row["create_time"])
    if row["start_time"] is not None:
        view.start_time.FromDatetime(row["start_time"])
    return view
