"""SendMessage and SendMessages: what units send is checked, reckoned and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import compress
from typing import NamedTuple
from uuid import UUID

from solmu.messages.v1 import messages_pb2
from solmu.types.v1 import types_pb2

from services.messages import legal, mailboxes, message_store
from services.messages.feed import Feed
from services.messages.message_store import Address, Route
from services.messages.profiles import PROFILES
from services.messages.servicers import contents, names, outcomes, views
from services.messages.servicers.outcomes import Terms
from services.messages.servicers.papers import Papers
from services.messages.servicers.sending import NewMessage, Sending
from services.runtime import identity, status, validation
from services.runtime.database import Database, Row
from services.runtime.errors import AlreadyExists, Fault, not_found
from services.runtime.gathering import Gathering
from services.runtime.ids import new_ids
from services.runtime.outbox import Outbox
from services.runtime.parties import PartyNames
from services.runtime.sealing import Vault
from services.runtime.telemetry import TRANSACTIONS

Message = messages_pb2.Message
Request = messages_pb2.SendMessageRequest
Result = messages_pb2.SendMessagesResponse

Shown = Callable[..., Awaitable[Message]]
"""Unit and id of a message, and `method`, to the message as it is now."""


class Asked(NamedTuple):
    """A message that is asked to be sent, and where it would go."""

    request: Request
    address: Address
    route: Route
    mailbox: mailboxes.Mailbox | None
    """At the end of the route."""
    sought: types_pb2.NationalIdentifier | None
    """Whose mailbox is to be looked for on other nodes."""
    digest: bytes
    now: datetime


class Accepting:
    """Accepts messages from units. A repeat returns the first result."""

    def __init__(
        self,
        *,
        database: Database,
        feed: Feed,
        outbox: Outbox,
        papers: Papers,
        parties: PartyNames,
        vault: Vault,
        nodes: Sequence[str],
        shown: Shown,
    ) -> None:
        self._database = database
        self._papers = papers
        self._parties = parties
        self._vault = vault
        self._nodes = nodes
        self._shown = shown
        self._sending = Sending(database=database, feed=feed, outbox=outbox, vault=vault, nodes=nodes)
        self._routing = Gathering(self._routes)

    async def one(self, request: Request) -> Message:
        """Accepts a message, in two statements that it shares with what is sent at the same time."""
        asked = await self._routed(request)
        if asked.route.first_id is not None:
            return await self._repeated(asked)
        kept = await self._sending.keep(await self._new(asked, iter(new_ids(2))))
        if kept is None:
            (route, _) = await self._routing.ask(asked.address)
            return await self._repeated(asked._replace(route=route))
        TRANSACTIONS.labels("message", "out").inc()
        return kept.message(vault=self._vault)

    async def result(self, request: Request) -> Result:
        """What became of one message of a stream: the message without its bodies."""
        try:
            validation.check(request)
        except Fault as fault:
            return _refusal(request, fault)
        result = await self._result(request)
        if result.HasField("message"):
            result.message.ClearField("bodies")
        return result

    async def many(self, requests: Sequence[Request]) -> Result:
        """What became of each of many messages: what the node has made of it.

        Those that stand alone share two statements. What needs to be looked
        up, or may have been sent before, goes its own way afterwards.
        """
        answer = Result(results=[Result(idempotency_key=request.idempotency_key) for request in requests])
        results = answer.results
        addresses = self._addresses(requests, results)
        new = await self._all_new(requests, addresses, results)
        kept = await self._sending.keep_all(list(new.values()))
        TRANSACTIONS.labels("message", "out").inc(sum(kept))
        for place, one in compress(new.items(), kept):
            one.made(results[place].message)
        left = [place for place, result in enumerate(results) if result.WhichOneof("result") is None]
        for place, made in zip(
            left, await asyncio.gather(*(self._made(requests[place]) for place in left)), strict=True
        ):
            results[place].CopyFrom(made)
        return answer

    def _addresses(self, requests: Sequence[Request], results: Sequence[Result]) -> dict[int, Address]:
        """Where messages that stand alone would go, by their places; those that break the contract get results."""
        found: dict[int, Address] = {}
        for place, request in enumerate(requests):
            try:
                validation.check(request)
                if _stands_alone(request.message):
                    found[place] = self._address(request)
            except Fault as fault:
                results[place].CopyFrom(_refusal(request, fault))
        return found

    async def _all_new(
        self, requests: Sequence[Request], addresses: Mapping[int, Address], results: Sequence[Result]
    ) -> dict[int, NewMessage]:
        """What is to be kept of messages that stand alone, by their places; those that are refused get results."""
        found: dict[int, NewMessage] = {}
        routes = await self._routes(list(addresses.values()))
        ids = iter(new_ids(2 * len(addresses)))
        for (place, address), (route, now) in zip(addresses.items(), routes, strict=True):
            try:
                asked = self._asked(requests[place], address, route, now)
                if route.first_id is None and asked.sought is None:
                    found[place] = await self._new(asked, ids)
            except Fault as fault:
                results[place].CopyFrom(_refusal(requests[place], fault))
        return found

    async def _made(self, request: Request) -> Result:
        result = await self._result(request)
        if result.HasField("message"):
            result.message.CopyFrom(views.made(result.message))
        return result

    async def _result(self, request: Request) -> Result:
        try:
            return Result(idempotency_key=request.idempotency_key, message=await self.one(request))
        except Fault as fault:
            return _refusal(request, fault)

    async def _routes(self, addresses: Sequence[Address]) -> list[tuple[Route, datetime]]:
        """Where messages would go, and one moment at which all of them are accepted."""
        routes = await message_store.routes(self._database, addresses) if addresses else []
        now = names.now()
        return [(route, now) for route in routes]

    async def _routed(self, request: Request) -> Asked:
        """Where a message goes. Of one whose mailbox was erased, the postal address is all that there is left."""
        address = self._address(request)
        route, now = await self._routing.ask(address)
        if route.mailbox_id is not None and route.data_key is None and request.message.paper.HasField("address"):
            postal = self._papers.party_of(request.message.paper.address)
            address = address._replace(party=postal, mailbox_id=None)
            route, now = await self._routing.ask(address)
        return self._asked(request, address, route, now)

    def _asked(self, request: Request, address: Address, route: Route, now: datetime) -> Asked:
        """Raises NotFound where the caller does not own the unit, alike where there is none."""
        if route.organisation != identity.caller().party:
            raise not_found(request.parent)
        mailbox = _mailbox(route)
        sought = self._sought(request.message, mailbox)
        return Asked(request, address, route, mailbox, sought, self._vault.digest(_canonical(request)), now)

    def _address(self, request: Request) -> Address:
        party, mailbox_id, recipient = None, None, request.message.recipient
        match recipient.WhichOneof("address"):
            case "postal_address":
                party = self._papers.party_of(recipient.postal_address)
            case "identifier":
                party = self._parties.name_of(recipient.identifier, field="message.recipient.identifier")
            case _:
                mailbox_id = names.uid(recipient.mailbox, 1, field="message.recipient.mailbox")
        unit_id = names.part(request.parent, 1)
        return Address(unit_id=unit_id, idempotency_key=request.idempotency_key, party=party, mailbox_id=mailbox_id)

    async def _new(self, asked: Asked, ids: Iterator[UUID]) -> NewMessage:
        """What is to be kept, under the next two of `ids`. Raises where the rules forbid it."""
        request, route, mailbox, sought, now = asked.request, asked.route, asked.mailbox, asked.sought, asked.now
        assert route.legal_profile is not None
        unit_id, message = asked.address.unit_id, request.message
        message_id, electronic_id = next(ids), next(ids)
        kind = legal.Kind(message.kind or Message.KIND_ORDINARY)
        if message.template:
            message = await contents.written_out(self._database, message, unit_id=unit_id)
        contents.check(message)
        profile = PROFILES[route.legal_profile]
        message, policy = await self._papers.checked(message, kind=kind, profile=profile)
        despite_opt_out = profile.despite_opt_out(kind)
        if mailbox is None and (policy.any or sought) and asked.address.party:
            mailbox = await self._papers.place(asked.address.party)
        if mailbox is None or not (policy.any or sought):
            mailbox = mailboxes.receiving(mailbox, now=now, despite_opt_out=despite_opt_out)
        if message.reply_policy.reply_to:
            await names.own_unit(self._database, names.part(message.reply_policy.reply_to, 1))
        thread, in_reply_to = message_id, None
        if message.in_reply_to:
            answered = await self._answered(message.in_reply_to, unit_id, mailbox.mailbox_id)
            thread, in_reply_to = answered["thread"], answered["message_id"]
            message = _continued(message, Message.FromString(views.opened(answered, vault=self._vault)))
        terms = Terms(
            kind=kind,
            profile=route.legal_profile,
            electronic=not message.recipient.HasField("postal_address"),
            abroad=sought is not None,
            reachable=mailbox.reachable(now=now, despite_opt_out=despite_opt_out),
            paper=policy,
            publish_time=_time(message, "publish_time"),
            due_time=_time(message, "due_time"),
        )
        return NewMessage(
            message_id=message_id,
            electronic_id=electronic_id,
            unit_id=unit_id,
            mailbox=mailbox,
            notified=route.notified,
            asked=message,
            said=views.said(message),
            idempotency_key=request.idempotency_key,
            digest=asked.digest,
            terms=terms,
            outcome=outcomes.accepted(terms, now),
            sender=names.actor(),
            thread=thread,
            in_reply_to=in_reply_to,
            sought=sought,
        )

    def _sought(self, asked: Message, mailbox: mailboxes.Mailbox | None) -> types_pb2.NationalIdentifier | None:
        """Whom to look for on other nodes: one who has left here, or never was; not on behalf of another node."""
        if not self._nodes or identity.caller().node or not asked.recipient.HasField("identifier"):
            return None
        return asked.recipient.identifier if mailbox is None or mailbox.state is mailboxes.State.CLOSED else None

    async def _answered(self, name: str, unit_id: str, mailbox_id: UUID) -> Row:
        """The message that a reply of the unit answers: of the same unit, to or from the same mailbox."""
        if names.part(name, 1) == unit_id:
            row = await message_store.message_of_unit(
                self._database, unit_id, names.uid(name, 3, field="message.in_reply_to")
            )
            if row is not None and row["mailbox_id"] == mailbox_id:
                return row
        raise not_found(name)

    async def _repeated(self, asked: Asked) -> Message:
        """The first message that was sent with this key. Raises AlreadyExists where its content differs."""
        unit_id, first_id = asked.address.unit_id, asked.route.first_id
        assert first_id is not None
        if asked.route.first_digest != asked.digest:
            raise AlreadyExists(
                "IDEMPOTENCY_KEY_REUSED",
                "the idempotency key was used for another content to the same recipient",
                message=f"units/{unit_id}/messages/{first_id}",
            )
        return await self._shown(unit_id, first_id, method="SendMessage")


def _refusal(request: Request, fault: Fault) -> Result:
    refusal = status.to_status(fault, service="messages")
    return Result(idempotency_key=request.idempotency_key, refusal=refusal)


def _stands_alone(message: Message) -> bool:
    """Whether nothing but unit and mailbox has to be looked up for a message."""
    return not (
        message.template
        or message.attachments
        or message.in_reply_to
        or message.reply_policy.reply_to
        or message.HasField("paper")
        or message.recipient.HasField("postal_address")
    )


def _mailbox(route: Route) -> mailboxes.Mailbox | None:
    """The mailbox at the end of a route; None where there is none, or it has been erased."""
    if route.mailbox_id is None or route.mailbox_state is None or route.data_key is None:
        return None
    state = mailboxes.State(route.mailbox_state)
    return mailboxes.Mailbox(route.mailbox_id, state, route.data_key, route.opt_out_end_time)


def _canonical(request: Request) -> bytes:
    """The same bytes for the same content: what makes a repeat a repeat."""
    return request.SerializeToString(deterministic=True)


def _time(message: Message, field: str) -> datetime | None:
    time: datetime | None = getattr(message, field).ToDatetime(UTC) if message.HasField(field) else None  # type: ignore[arg-type]
    return time


def _continued(message: Message, answered: Message) -> Message:
    """The message with the case and the visibility of its conversation, where it has none of its own."""
    result = Message()
    result.CopyFrom(message)
    if not message.HasField("case_reference") and answered.HasField("case_reference"):
        result.case_reference.CopyFrom(answered.case_reference)
    result.visibility = message.visibility or answered.visibility
    return result
