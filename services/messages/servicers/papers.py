"""The paper part of a message: what of it is refused when it is sent, and what a letter is made of."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from solmu.messages.v1 import messages_pb2
from solmu.types.v1 import types_pb2

from services.messages import envelopes, fonts, holding, letter_store, mailbox_store, paper, printing, typesetting
from services.messages.blobs import Blobs
from services.messages.envelopes import Address
from services.messages.legal import Kind, Profile
from services.messages.mailboxes import Mailbox, State
from services.messages.paper import Policy, Trigger
from services.messages.servicers import names, views
from services.messages.typesetting import Text
from services.runtime import identity
from services.runtime.database import Database, Row
from services.runtime.errors import FailedPrecondition, InvalidArgument
from services.runtime.ids import new_id
from services.runtime.sealing import Vault

Message = messages_pb2.Message

PDF = "application/pdf"

MOST_CHARACTERS, MOST_LINES = 8000, 150
"""More than a page ever holds: what is over MAX_PAGES by this count need not be set to know it."""


class Papers:
    """Checks paper parts, and keeps a place for those who have no mailbox."""

    def __init__(self, *, database: Database, blobs: Blobs, vault: Vault) -> None:
        self._database = database
        self._blobs = blobs
        self._vault = vault

    async def checked(self, asked: Message, *, kind: Kind, profile: Profile) -> tuple[Message, Policy]:
        """The message with the letter's address in its paper part, and its policy.

        Raises InvalidArgument: FIELD_INVALID, TIME_INVALID,
        ADDRESS_DOES_NOT_FIT, PDF_NOT_PRINTABLE, TEXT_NOT_PRINTABLE; and what
        `holding.waits` does for an attachment that can never be delivered.
        """
        policy = policy_of(asked)
        if not policy.any:
            if asked.recipient.HasField("postal_address"):
                raise _invalid("message.paper.trigger", "is never, and the recipient is given by postal address")
            return asked, policy
        paper.check(policy, kind=kind, profile=profile)
        asked = _addressed(asked)
        part = asked.paper
        if part.HasField("address"):
            check_address(part.address, profile, field=_address_field(asked))
        elif policy.trigger is not Trigger.SENDER_DECIDES and not part.options.has_address_page:
            raise _invalid("message.paper.address", "is not given")
        if part.HasField("return_address"):
            returned = address(part.return_address)
            envelopes.check_return(returned, home=profile.country, field="message.paper.return_address")
        pages = await self._check_attachments(asked)
        if not part.options.has_address_page:
            await _check_texts(asked, room=printing.MAX_PAGES - pages)
        return asked, policy

    async def place(self, party: str) -> Mailbox | None:
        """Where messages on paper are kept for a party without a mailbox, or for an address; None once it is erased."""
        mailbox_id = new_id()
        row = await mailbox_store.place(
            self._database,
            mailbox_id=mailbox_id,
            party=party,
            data_key=self._vault.new_key(owner=f"mailboxes/{mailbox_id}"),
            now=names.now(),
        )
        if row["data_key"] is None:
            return None
        return Mailbox(row["mailbox_id"], State(row["state"]), row["data_key"], row["opt_out_end_time"])

    def party_of(self, postal: types_pb2.PostalAddress) -> str:
        """A name for one who is known by postal address only: the same for the same address, however it is spaced."""
        fields = (
            postal.recipient_name,
            postal.additional_name,
            postal.street_address,
            postal.postal_code,
            postal.locality,
            postal.country_code,
        )
        written = "\n".join(" ".join(field.casefold().split()) for field in fields)
        digest = self._vault.digest(f"address\n{written}".encode())[:16]
        return f"addresses/{base64.b32encode(digest).decode('ascii').rstrip('=').lower()}"

    def address_for(
        self, request: messages_pb2.SendOnPaperRequest, row: Row, profile: Profile, *, again: bool
    ) -> bytes | None:
        """The address of a letter that its sender has sent now, sealed; None where it is known.

        One that is tried `again` may go to another address than before. Raises
        InvalidArgument: FIELD_INVALID where it is given twice, or not at all;
        ADDRESS_DOES_NOT_FIT. FailedPrecondition, MAILBOX_CLOSED, where nothing
        is left to print.
        """
        if row["data_key"] is None:
            raise FailedPrecondition("MAILBOX_CLOSED", "the mailbox has been erased, and the message with it")
        part = Message.FromString(views.opened(row, vault=self._vault)).paper
        own_page = part.options.has_address_page
        if not request.HasField("address"):
            if again or own_page or part.HasField("address"):
                return None
            raise _invalid("address", "is not given, and the message does not say where the letter goes")
        if own_page or (part.HasField("address") and not again):
            raise _invalid("address", "is given, and the message says where the letter goes")
        check_address(request.address, profile, field="address")
        sealer = self._vault.sealer(row["data_key"], owner=f"mailboxes/{row['mailbox_id']}")
        return sealer.seal(request.address.SerializeToString(), context=address_context(row["message_id"]))

    def check_goes_there(
        self, request: messages_pb2.SendOnPaperRequest, row: Row, known: bytes | None, *, state: str
    ) -> None:
        """Raises FailedPrecondition, MESSAGE_STATE, where a letter that is under way goes to another address.

        `known` is its sealed address, None where its message says it.
        """
        if row["data_key"] is None:
            raise FailedPrecondition("MAILBOX_CLOSED", "the mailbox has been erased, and the message with it")
        if known is None:
            there = Message.FromString(views.opened(row, vault=self._vault)).paper.address
        else:
            sealer = self._vault.sealer(row["data_key"], owner=f"mailboxes/{row['mailbox_id']}")
            there = types_pb2.PostalAddress.FromString(sealer.open(known, context=address_context(row["message_id"])))
        if request.address != there:
            raise FailedPrecondition("MESSAGE_STATE", "the letter goes to another address already", state=state)

    async def _check_attachments(self, asked: Message) -> int:
        """How many pages the attachments have on paper, each on sheets of its own."""
        uses = [
            (use.attachment, names.uid(use.attachment, 1, field=f"message.attachments[{position}].attachment"))
            for position, use in enumerate(asked.attachments)
            if goes_on_paper(use)
        ]
        if asked.paper.options.has_address_page and not uses:
            raise _invalid("message.paper.options.has_address_page", "is set, and no attachment goes on paper")
        owner = identity.caller().party
        found = await letter_store.printable(self._database, [uid for _, uid in uses], owner=owner) if uses else {}
        pages = size = 0
        for name, uid in uses:
            row = found.get(uid)
            holding.waits(holding.State(row["state"]) if row else None, attachment=name)
            assert row is not None
            size += row["size_bytes"]
            if row["media_type"] != PDF:
                raise printing.refused("NOT_PDF", name)
            if size > printing.MAX_BYTES:
                raise printing.refused("TOO_LARGE", name)
            count = row["page_count"] or await self._look_at(row, name)
            pages += count if asked.paper.options.single_sided else count + count % 2
            if pages >= printing.MAX_PAGES:
                raise printing.refused("TOO_LARGE", name)
        return pages

    async def _look_at(self, row: Row, name: str) -> int:
        sealer = views.blob_sealer(row, vault=self._vault)

        def look() -> int:
            with self._blobs.opened(row["blob_id"], sealer, size=row["size_bytes"]) as file:
                return printing.pages(file, attachment=name)

        count = await asyncio.to_thread(look)
        await letter_store.set_page_count(self._database, row["attachment_id"], count)
        return count


def policy_of(asked: Message) -> Policy:
    """The policy of a message; one that goes to a postal address goes on paper."""
    by_address = asked.recipient.HasField("postal_address")
    if not by_address and not asked.HasField("paper"):
        return paper.NEVER
    part, default = asked.paper, Trigger.IF_UNREACHABLE if by_address else Trigger.NEVER
    after: timedelta | None = part.unread_after.ToTimedelta() if part.HasField("unread_after") else None
    return Policy(
        trigger=Trigger(part.trigger) if part.trigger else default,
        unread_after=after,
        working_hours=part.working_hours,
    )


def goes_on_paper(use: messages_pb2.MessageAttachment) -> bool:
    """Whether an attachment is printed: all are but those left out, and those for machines."""
    return not use.excluded_from_paper and use.role != messages_pb2.MessageAttachment.ROLE_TECHNICAL


def address(given: types_pb2.PostalAddress) -> Address:
    """An address of the contract."""
    return Address(
        recipient_name=given.recipient_name,
        additional_name=given.additional_name,
        street_address=given.street_address,
        postal_code=given.postal_code,
        locality=given.locality,
        country_code=given.country_code,
    )


def check_address(given: types_pb2.PostalAddress, profile: Profile, *, field: str) -> None:
    """Raises InvalidArgument, ADDRESS_DOES_NOT_FIT."""
    envelopes.check(address(given), home=profile.country, field=field)


def address_context(message_id: UUID) -> str:
    """What the address of a letter is sealed as, where it is not that of the message."""
    return f"messages/{message_id}/address"


def texts(content: Message) -> list[Text]:
    """What is printed of a message beside its attachments: its texts in all languages."""
    if not content.bodies:
        return [Text(content.title, "")]
    markdown = messages_pb2.Body.FORMAT_MARKDOWN
    return [Text(body.title or content.title, body.text, body.format == markdown) for body in content.bodies]


async def _check_texts(asked: Message, *, room: int) -> None:
    """Raises InvalidArgument, TEXT_NOT_PRINTABLE, for characters without a form, and for more text than has room."""
    printed = texts(asked)
    languages = [body.language for body in asked.bodies] or [""]
    for text, language in zip(printed, languages, strict=True):
        if fonts.lacks(text.title) or fonts.lacks(text.text):
            raise _not_printable("has characters that cannot be printed", language)
    if typesetting.at_most(printed) > room and await _pages(printed) > room:
        raise _not_printable(f"is too long for a letter of {printing.MAX_PAGES} pages", languages[0])


async def _pages(printed: Sequence[Text]) -> int:
    characters = sum(len(text.text) for text in printed)
    lines = sum(text.text.count("\n") for text in printed)
    at_least = max(characters // MOST_CHARACTERS, lines // MOST_LINES)
    if at_least > printing.MAX_PAGES:
        return at_least
    _, count = await asyncio.to_thread(typesetting.pages, typesetting.Head([], "", [], []), printed)
    return count


def _addressed(asked: Message) -> Message:
    """The message with a recipient's postal address as that of its letter."""
    if not asked.recipient.HasField("postal_address"):
        return asked
    if asked.paper.HasField("address") and asked.paper.address != asked.recipient.postal_address:
        raise _invalid("message.paper.address", "is another than the postal address of the recipient")
    result = Message()
    result.CopyFrom(asked)
    result.paper.address.CopyFrom(asked.recipient.postal_address)
    return result


def _address_field(asked: Message) -> str:
    by_address = asked.recipient.HasField("postal_address")
    return "message.recipient.postal_address" if by_address else "message.paper.address"


def _not_printable(what: str, language: str) -> InvalidArgument:
    return InvalidArgument("TEXT_NOT_PRINTABLE", f"the text {what}", language=language)


def _invalid(field: str, what: str) -> InvalidArgument:
    return InvalidArgument("FIELD_INVALID", f"{field} {what}", violations=[(field, what)])
