"""What the Suomi.fi Messages REST API is sent, as the contract of messages has it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from solmu.messages.v1 import mailboxes_pb2, messages_pb2
from solmu.types.v1.types_pb2 import NationalIdentifier, PostalAddress

from gateway.adapters.suomifi import ids
from gateway.adapters.suomifi.fields import Fields
from gateway.adapters.suomifi.refusals import RefusedError

Message = messages_pb2.Message
Body = messages_pb2.Body
LetterOptions = messages_pb2.LetterOptions
NotificationPolicy = messages_pb2.NotificationPolicy
PaperPolicy = messages_pb2.PaperPolicy
ReplyPolicy = messages_pb2.ReplyPolicy

LANGUAGE = "und"
"""Of every text: the interface does not say (BCP 47, "undetermined")."""

CALL = "suomifi.request"
"""Key of the metadata that tells one call from another: with it no two have the same content, and a repeat of an
`externalId` is always the conflict that the interface makes of it."""

_KINDS = {"Normal": Message.KIND_ORDINARY, "Verifiable": Message.KIND_VERIFIABLE}
_FORMATS = {"Text": Body.FORMAT_TEXT, "Markdown": Body.FORMAT_MARKDOWN}
_REPLIES = {"No one": ReplyPolicy.ALLOWED_NOBODY, "Anyone": ReplyPolicy.ALLOWED_READERS}
_VISIBILITIES = {"Normal": Message.VISIBILITY_MANDATE_HOLDERS, "Recipient only": Message.VISIBILITY_RECIPIENT_ONLY}
_SENDERS = {
    "Organisation and service name": NotificationPolicy.SENDER_UNSPECIFIED,
    "None": NotificationPolicy.SENDER_HIDDEN,
}
_NO_REMINDER = {"Default reminder": False, "No reminders": True}
_POSTAGES = {"Normal": LetterOptions.POSTAGE_ORDINARY, "Verifiable": LetterOptions.POSTAGE_RECEIPT}

_BUSINESS_ID = re.compile(r"[0-9]{6,7}-?[0-9]")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def credentials(body: object) -> str:
    """The user name in a request for a token. The password has to be there, and is looked at by nobody."""
    fields = Fields(body)
    user_name, _ = fields.text("username"), fields.text("password")
    _check(fields)
    return user_name


def end_users(body: object) -> list[str]:
    """The ids in a request for active mailboxes."""
    fields = Fields(body)
    if not fields.has("endUsers"):
        fields.faults.append("endUsers is missing")
    found = [each.text("id") for each in fields.children("endUsers")]
    _check(fields)
    return found


def look_up(end_users: Sequence[str]) -> mailboxes_pb2.LookUpMailboxesRequest:
    """Which of the ids have a mailbox; asked for no unit, as the interface names none."""
    return mailboxes_pb2.LookUpMailboxesRequest(identifiers=[_identifier(each) for each in end_users])


def answered(body: object) -> int:
    """The number of the message that a message answers; 0 for none. Of a body that is wrong, nothing is said yet."""
    fields = Fields(body)
    return fields.child("electronic").number("inReplyToMessageId") if fields.has("electronic") else 0


def message(
    body: object, *, electronic: bool, paper: bool, in_reply_to: str, call: str
) -> messages_pb2.SendMessageRequest:
    """The message that a body asks for, with the parts that its path goes with. Raises RefusedError."""
    fields = Fields(body)
    asked = Message(metadata={CALL: call}, in_reply_to=in_reply_to)
    if electronic:
        asked.recipient.CopyFrom(_recipient(fields.child("recipient").text("id")))
        _electronic(fields.child("electronic"), asked)
    if paper:
        part = fields.child("paperMail")
        _paper(part, asked)
        if not electronic:
            asked.recipient.postal_address.CopyFrom(asked.paper.address)
            asked.kind = part.choice("messageServiceType", _KINDS)
    request = messages_pb2.SendMessageRequest(
        parent=f"units/{fields.child('sender').text('serviceId')}",
        message=asked,
        idempotency_key=fields.text("externalId"),
    )
    _check(fields)
    return request


def _electronic(part: Fields, asked: Message) -> None:
    asked.title = part.text("title")
    asked.bodies.add(language=LANGUAGE, format=part.choice("bodyFormat", _FORMATS), text=part.text("body"))
    asked.kind = part.choice("messageServiceType", _KINDS)
    asked.visibility = part.choice("visibility", _VISIBILITIES)
    asked.reply_policy.allowed = part.choice("replyAllowedBy", _REPLIES)
    for attachment in part.children("attachments"):
        asked.attachments.add(attachment=ids.inward(attachment.text("attachmentId")))
    if part.has("notifications"):
        policy = _notification(part.child("notifications"))
        if policy != NotificationPolicy():
            asked.notification.CopyFrom(policy)


def _notification(part: Fields) -> NotificationPolicy:
    policy = NotificationPolicy(sender=part.choice("senderDetailsInNotifications", _SENDERS))
    if part.has("unreadMessageNotification"):
        policy.no_reminder = part.child("unreadMessageNotification").choice("reminder", _NO_REMINDER)
    if part.has("customisedNewMessageNotification"):
        custom = part.child("customisedNewMessageNotification")
        titles, contents = custom.child("title"), custom.child("content")
        for language in ("fi", "sv", "en"):
            policy.texts.add(language=language, text=f"{titles.text(language)}\n\n{contents.text(language)}")
    return policy


def _paper(part: Fields, asked: Message) -> None:
    """The letter. What the post is paid with is the node's to know: `postiMessaging` is not looked at."""
    asked.paper.trigger = PaperPolicy.TRIGGER_IF_UNREACHABLE
    asked.paper.address.CopyFrom(_address(part.child("recipient").child("address")))
    asked.paper.return_address.CopyFrom(_address(part.child("sender").child("address")))
    asked.paper.options.CopyFrom(
        LetterOptions(
            postage=part.choice("messageServiceType", _POSTAGES),
            colour=part.flag("colorPrinting", default=False),
            single_sided=not part.flag("twoSidedPrinting", default=True),
            has_address_page=not part.flag("createAddressPage", default=True),
        )
    )
    if part.has("printingAndEnvelopingService"):
        asked.paper.options.cost_centre = part.child("printingAndEnvelopingService").text("costPool", default="")
    if part.flag("rotateLandscapePages", default=False):
        part.faults.append("paperMail.rotateLandscapePages is not done: pages are printed as they are")
    printed = [ids.inward(each.text("attachmentId")) for each in part.children("attachments")]
    if len(printed) != 1:
        part.faults.append("paperMail.attachments is not one attachment")
    for attachment in asked.attachments:
        attachment.excluded_from_paper = attachment.attachment not in printed
    for name in printed:
        if all(attachment.attachment != name for attachment in asked.attachments):
            asked.attachments.add(attachment=name)


def _address(part: Fields) -> PostalAddress:
    return PostalAddress(
        recipient_name=part.text("name"),
        additional_name=part.text("additionalName", default=""),
        street_address=part.text("streetAddress"),
        postal_code=part.text("zipCode"),
        locality=part.text("city"),
        country_code=part.text("countryCode"),
    )


def _recipient(given: str) -> messages_pb2.Recipient:
    """By identity code; or by mailbox, whose id is what a received message gives as its sender's."""
    if _UUID.fullmatch(given):
        return messages_pb2.Recipient(mailbox=f"mailboxes/{given}")
    return messages_pb2.Recipient(identifier=_identifier(given))


def _identifier(given: str) -> NationalIdentifier:
    business = _BUSINESS_ID.fullmatch(given)
    scheme = NationalIdentifier.SCHEME_FI_YTUNNUS if business else NationalIdentifier.SCHEME_FI_HETU
    return NationalIdentifier(scheme=scheme, value=given)


def _check(fields: Fields) -> None:
    if fields.faults:
        raise RefusedError(400, "FIELD_INVALID", faults=fields.faults)
