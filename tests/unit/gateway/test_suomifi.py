"""The Suomi.fi Messages REST API: what a body stands for, what is wrong with it, and where events go on."""

from __future__ import annotations

import base64
import copy
import json
import uuid
import zlib
from typing import Any

import pytest
from solmu.messages.v1 import messages_pb2
from solmu.types.v1.types_pb2 import NationalIdentifier, PostalAddress

from gateway.adapters.suomifi import events, ids, refusals, requests
from gateway.adapters.suomifi.refusals import RefusedError
from services.runtime import errors
from services.runtime.ids import new_id

Message = messages_pb2.Message
LETTER, APPENDIX = ids.outward(f"attachments/{new_id()}"), ids.outward(f"attachments/{new_id()}")
ADDRESS = {
    "name": "Matti Meikäläinen",
    "streetAddress": "Katu 1",
    "zipCode": "00100",
    "city": "Oulu",
    "countryCode": "FI",
}
BODY: dict[str, Any] = {
    "externalId": "decision|1",
    "recipient": {"id": "131052-308T"},
    "sender": {"serviceId": "permits"},
    "electronic": {
        "title": "Päätös",
        "body": "Hyväksytty.",
        "bodyFormat": "Text",
        "messageServiceType": "Normal",
        "replyAllowedBy": "No one",
        "visibility": "Recipient only",
        "attachments": [{"attachmentId": LETTER}, {"attachmentId": APPENDIX}],
        "notifications": {
            "senderDetailsInNotifications": "Organisation and service name",
            "unreadMessageNotification": {"reminder": "Default reminder"},
        },
    },
    "paperMail": {
        "attachments": [{"attachmentId": LETTER}],
        "colorPrinting": True,
        "createAddressPage": True,
        "messageServiceType": "Verifiable",
        "printingAndEnvelopingService": {
            "costPool": "4711",
            "postiMessaging": {
                "username": "posti",
                "password": "secret-of-the-post",
                "contactDetails": {"email": "a@b.example"},
            },
        },
        "recipient": {"address": ADDRESS},
        "rotateLandscapePages": False,
        "sender": {"address": ADDRESS | {"name": "Kaupunki", "additionalName": "Kirjaamo"}},
        "twoSidedPrinting": False,
    },
}


def read(body: object, *, electronic: bool = True, paper: bool = True) -> messages_pb2.SendMessageRequest:
    return requests.message(body, electronic=electronic, paper=paper, in_reply_to="", call="call-1")


def changed(path: str, value: object) -> dict[str, Any]:
    """The body with one member changed; with None, without it."""
    body = copy.deepcopy(BODY)
    *way, last = path.split(".")
    part = body
    for name in way:
        part = part[name]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return body


def test_a_message_of_both_parts_becomes_one_that_goes_on_paper_where_it_must():
    asked = read(BODY)
    message = asked.message
    assert (asked.parent, asked.idempotency_key) == ("units/permits", "decision|1")
    assert message.recipient.identifier == NationalIdentifier(
        scheme=NationalIdentifier.SCHEME_FI_HETU, value="131052-308T"
    )
    assert message.visibility == Message.VISIBILITY_RECIPIENT_ONLY
    assert not message.HasField("notification")
    assert [(each.attachment, each.excluded_from_paper) for each in message.attachments] == [
        (ids.inward(LETTER), False),
        (ids.inward(APPENDIX), True),
    ]
    paper = message.paper
    assert paper.trigger == messages_pb2.PaperPolicy.TRIGGER_IF_UNREACHABLE
    assert paper.address == PostalAddress(
        recipient_name="Matti Meikäläinen",
        street_address="Katu 1",
        postal_code="00100",
        locality="Oulu",
        country_code="FI",
    )
    assert paper.return_address.additional_name == "Kirjaamo"
    assert paper.options == messages_pb2.LetterOptions(
        postage=messages_pb2.LetterOptions.POSTAGE_RECEIPT, colour=True, single_sided=True, cost_centre="4711"
    )
    assert b"secret-of-the-post" not in asked.SerializeToString()


def test_a_letter_without_an_id_goes_to_its_address():
    message = read(BODY, electronic=False).message
    assert message.recipient.postal_address == message.paper.address
    assert message.kind == Message.KIND_VERIFIABLE
    assert [each.attachment for each in message.attachments] == [ids.inward(LETTER)]


@pytest.mark.parametrize(
    ("given", "scheme"),
    [
        ("131052-308T", NationalIdentifier.SCHEME_FI_HETU),
        ("1234567-1", NationalIdentifier.SCHEME_FI_YTUNNUS),
        ("737546-2", NationalIdentifier.SCHEME_FI_YTUNNUS),
        ("010150A999K", NationalIdentifier.SCHEME_FI_HETU),
    ],
)
def test_persons_and_companies_are_told_apart_by_the_form_of_their_id(given: str, scheme: int):
    assert read(changed("recipient.id", given)).message.recipient.identifier.scheme == scheme


def test_who_wrote_is_answered_by_mailbox():
    mailbox = str(uuid.uuid4())
    assert read(changed("recipient.id", mailbox)).message.recipient.mailbox == f"mailboxes/{mailbox}"


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("externalId", None, "externalId is missing"),
        ("externalId", 7, "externalId is not text"),
        ("recipient", None, "recipient is not an object"),
        ("sender.serviceId", None, "sender.serviceId is missing"),
        ("electronic", "x", "electronic is not an object"),
        ("electronic.title", None, "electronic.title is missing"),
        ("electronic.bodyFormat", "HTML", 'electronic.bodyFormat is not "Text" or "Markdown"'),
        ("electronic.visibility", ["Normal"], 'electronic.visibility is not "Normal" or "Recipient only"'),
        ("electronic.attachments", {}, "electronic.attachments is not a list"),
        ("electronic.attachments", [{}], "electronic.attachments[0].attachmentId is missing"),
        ("paperMail.attachments", [], "paperMail.attachments is not one attachment"),
        ("paperMail.colorPrinting", "yes", "paperMail.colorPrinting is not true or false"),
        (
            "paperMail.rotateLandscapePages",
            True,
            "paperMail.rotateLandscapePages is not done: pages are printed as they are",
        ),
        ("paperMail.recipient.address", None, "paperMail.recipient.address is not an object"),
    ],
)
def test_what_is_wrong_is_said_by_the_name_that_the_caller_knows(path: str, value: object, fault: str):
    with pytest.raises(RefusedError) as refused:
        read(changed(path, value))
    assert refused.value.status == 400
    assert {"error": fault} in refused.value.document["validationErrors"]


@pytest.mark.parametrize("body", [None, [], "x", 7, {}])
def test_a_body_that_is_something_else_is_refused_in_one_answer(body: object):
    with pytest.raises(RefusedError) as refused:
        read(body)
    assert len(refused.value.document["validationErrors"]) > 1
    assert requests.answered(body) == 0


def test_what_is_not_usual_of_notifications_is_asked_for():
    policy = {
        "senderDetailsInNotifications": "None",
        "unreadMessageNotification": {"reminder": "No reminders"},
        "customisedNewMessageNotification": {
            "title": {"fi": "Otsikko", "sv": "Rubrik", "en": "Title"},
            "content": {"fi": "Teksti", "sv": "Text", "en": "Text"},
        },
    }
    notification = read(changed("electronic.notifications", policy)).message.notification
    assert notification.sender == messages_pb2.NotificationPolicy.SENDER_HIDDEN
    assert notification.no_reminder
    assert [(text.language, text.text) for text in notification.texts] == [
        ("fi", "Otsikko\n\nTeksti"),
        ("sv", "Rubrik\n\nText"),
        ("en", "Title\n\nText"),
    ]


def test_an_attachment_has_another_id_outside_and_finds_back():
    name = f"attachments/{new_id()}"
    assert ids.outward(name) != name.removeprefix("attachments/")
    assert uuid.UUID(ids.outward(name)).version == 8
    assert ids.inward(ids.outward(name)) == name
    assert ids.inward("../tokens") == "attachments/../tokens"


def test_a_token_holds_the_place_in_every_feed():
    cursors = {f"units/unit-{number}": f"cursor-{number}" for number in range(300)}
    token = events.token(cursors)
    assert events.cursors(token) == cursors
    assert len(token) < 8_000
    assert events.cursors("") == {}


def packed(value: object) -> str:
    return base64.urlsafe_b64encode(zlib.compress(json.dumps(value).encode())).decode()


@pytest.mark.parametrize(
    "token", ["x", "ä", "AAAA", packed([1]), packed({"units/a": 1}), packed("x" * (events.MAX_TOKEN_BYTES + 1))]
)
def test_a_token_that_was_not_given_out_is_refused(token: str):
    with pytest.raises(RefusedError) as refused:
        events.cursors(token)
    assert refused.value.document["reason"] == "CURSOR_INVALID"


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (errors.FailedPrecondition("MAILBOX_NOT_ACTIVE", "none"), 400),
        (errors.InvalidArgument("ATTACHMENT_TYPE_REFUSED", "no"), 415),
        (errors.Unauthenticated("TOKEN_EXPIRED", "old"), 401),
        (errors.PermissionDenied("SCOPE_MISSING", "no"), 403),
        (errors.Unimplemented("FEATURE_NOT_AVAILABLE", "no"), 501),
        (errors.Unavailable("UNAVAILABLE", "away"), 503),
        (errors.Internal("INTERNAL", "broken"), 500),
    ],
)
def test_a_fault_has_a_status(fault: errors.Fault, status: int):
    refusal = refusals.of(fault)
    assert (refusal.status, refusal.document["reason"]) == (status, fault.reason)


def test_who_has_to_wait_is_told_how_long():
    assert refusals.of(errors.ResourceExhausted("RATE_LIMITED", "slow", retry_after=0.2)).headers == {
        "Retry-After": "1"
    }
