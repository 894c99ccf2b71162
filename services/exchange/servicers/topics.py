"""TopicService: topics of this node's subsystems, and their subscriptions."""

from __future__ import annotations

from datetime import UTC
from uuid import UUID

from solmu.exchange.v1 import topics_pb2

from services.exchange import names, topic_store
from services.exchange.meshes import Meshes
from services.exchange.requesters import Requesters
from services.exchange.servicers import masks
from services.exchange.subscribing import subscription_view, topic_identifier, topic_name
from services.runtime import pages
from services.runtime.database import Database, Row
from services.runtime.errors import Aborted, AlreadyExists, FailedPrecondition, not_found
from services.runtime.ids import new_id

Topic = topics_pb2.Topic
Subscription = topics_pb2.Subscription

PAGE = 100
CHANGEABLE = ("description", "types", "schema_uri", "retention", "policy")


class Topics:
    """Keeps topics and subscriptions."""

    def __init__(self, *, database: Database, meshes: Meshes, requesters: Requesters) -> None:
        self._database = database
        self._meshes = meshes
        self._requesters = requesters

    async def CreateTopic(self, request: topics_pb2.CreateTopicRequest) -> Topic:
        """Makes a topic."""
        subsystem = self._hosted(names.identifier(request.parent, 4))
        row = await topic_store.insert(self._database, f"{subsystem}/{request.topic_id}", _content(request.topic))
        if row is None:
            raise AlreadyExists("RESOURCE_EXISTS", "the subsystem has a topic of this name", resource=request.topic_id)
        return _view(row)

    async def GetTopic(self, request: topics_pb2.GetTopicRequest) -> Topic:
        """A topic of this node."""
        return _view(await self._topic(request.name))

    async def ListTopics(self, request: topics_pb2.ListTopicsRequest) -> topics_pb2.ListTopicsResponse:
        """The topics of a subsystem of this node."""
        subsystem, size = names.identifier(request.parent, 4), pages.size(request.page_size, PAGE)
        after = pages.key(request.page_token, question=subsystem)
        rows = await topic_store.topics(self._database, subsystem, after=after, limit=size + 1)
        response = topics_pb2.ListTopicsResponse(topics=[_view(row) for row in rows[:size]])
        if len(rows) > size:
            response.next_page_token = pages.token(rows[size - 1]["identifier"], question=subsystem)
        return response

    async def UpdateTopic(self, request: topics_pb2.UpdateTopicRequest) -> Topic:
        """Changes a topic."""
        row = await self._topic(request.topic.name)
        masks.check_etag(request.topic.etag, row["revision"])
        content = Topic.FromString(row["content"])
        masks.merge(content, request.topic, request.update_mask, changeable=CHANGEABLE)
        changed = await topic_store.update(
            self._database, row["identifier"], _content(content), revision=row["revision"]
        )
        if changed is None:
            raise Aborted("ETAG_MISMATCH", "somebody else has changed it since it was read")
        return _view(changed)

    async def DeleteTopic(self, request: topics_pb2.DeleteTopicRequest) -> Topic:
        """Deletes a topic."""
        row = await topic_store.delete(self._database, topic_identifier(request.name))
        if row is None:
            raise not_found(request.name)
        return _view(row)

    async def ListSubscribers(self, request: topics_pb2.ListSubscribersRequest) -> topics_pb2.ListSubscribersResponse:
        """Who has subscribed to a topic."""
        topic, size = (await self._topic(request.parent))["identifier"], pages.size(request.page_size, PAGE)
        after = pages.key(request.page_token, question=topic)
        rows = await topic_store.subscribers_shown(self._database, topic, after=after, limit=size + 1)
        response = topics_pb2.ListSubscribersResponse(subscribers=[_subscriber(row) for row in rows[:size]])
        if len(rows) > size:
            response.next_page_token = pages.token(rows[size - 1]["subsystem"], question=topic)
        return response

    async def CreateSubscription(self, request: topics_pb2.CreateSubscriptionRequest) -> Subscription:
        """Subscribes a subsystem of this node; the publisher's node hears of it as soon as it can."""
        subsystem = self._requesters.of(request.parent)
        wanted = request.subscription
        topic = topic_identifier(wanted.topic)
        self._meshes.subsystem(topic.rpartition("/")[0])
        row = await topic_store.insert_subscription(
            self._database,
            subscription_id=new_id(),
            subsystem=subsystem,
            topic=topic,
            types=list(wanted.types),
            start=wanted.start_time.ToDatetime(UTC) if wanted.HasField("start_time") else None,
            state=Subscription.STATE_REQUESTED,
        )
        return subscription_view(row)

    async def GetSubscription(self, request: topics_pb2.GetSubscriptionRequest) -> Subscription:
        """A subscription."""
        return subscription_view(await self._subscription(request.name))

    async def ListSubscriptions(
        self, request: topics_pb2.ListSubscriptionsRequest
    ) -> topics_pb2.ListSubscriptionsResponse:
        """A subsystem's subscriptions, latest first."""
        subsystem, size = self._requesters.of(request.parent), pages.size(request.page_size, PAGE)
        before = pages.key(request.page_token, question=subsystem)
        rows = await topic_store.subscriptions(
            self._database, subsystem, before=UUID(before) if before else None, limit=size + 1
        )
        views = [subscription_view(row) for row in rows[:size]]
        response = topics_pb2.ListSubscriptionsResponse(subscriptions=views)
        if len(rows) > size:
            response.next_page_token = pages.token(str(rows[size - 1]["subscription_id"]), question=subsystem)
        return response

    async def DeleteSubscription(self, request: topics_pb2.DeleteSubscriptionRequest) -> Subscription:
        """Ends a subscription."""
        row = await self._subscription(request.name)
        ended = await topic_store.set_subscription(
            self._database, row["subscription_id"], state=Subscription.STATE_ENDED, told=False
        )
        assert ended is not None
        return subscription_view(ended)

    def _hosted(self, subsystem: str) -> str:
        if not self._meshes.hosts(subsystem):
            raise FailedPrecondition(
                "SUBSYSTEM_NOT_HOSTED",
                "this node does not serve the subsystem",
                subsystem=names.resource("subsystems", subsystem),
            )
        return subsystem

    async def _topic(self, name: str) -> Row:
        row = await topic_store.topic(self._database, topic_identifier(name))
        if row is None:
            raise not_found(name)
        return row

    async def _subscription(self, name: str) -> Row:
        row = await topic_store.subscription(self._database, UUID(name.split("/")[3]))
        if row is None or row["subsystem"] != self._requesters.of(name):
            raise not_found(name)
        return row


def _content(topic: Topic) -> bytes:
    kept = Topic()
    kept.CopyFrom(topic)
    for field in ("name", "create_time", "etag"):
        kept.ClearField(field)
    return kept.SerializeToString(deterministic=True)


def _view(row: Row) -> Topic:
    view = Topic.FromString(row["content"])
    view.name, view.etag = topic_name(row["identifier"]), str(row["revision"])
    view.create_time.FromDatetime(row["create_time"])
    return view


def _subscriber(row: Row) -> topics_pb2.Subscriber:
    view = topics_pb2.Subscriber(
        subsystem=names.resource("subsystems", row["subsystem"]),
        waiting=row["waiting"],
        last_failure=row["last_failure"] or "",
    )
    view.create_time.FromDatetime(row["create_time"])
    if row["last_receipt_time"] is not None:
        view.last_receipt_time.FromDatetime(row["last_receipt_time"])
    return view
