"""What a message says: title, texts in several languages, actions, from a template or as given."""

from __future__ import annotations

import re
from collections.abc import Sequence

from solmu.messages.v1 import messages_pb2, templates_pb2

from services.messages import markdown, template_store, templates
from services.messages.servicers import names
from services.runtime.database import Database
from services.runtime.errors import InvalidArgument

Message = messages_pb2.Message
Body = messages_pb2.Body

MAX_TITLE = 256
"""Characters of a title, as the contract has it for one that is given."""


def check(message: Message) -> None:
    """Raises InvalidArgument for what no message may say: FIELD_INVALID, MARKDOWN_REFUSED, TIME_INVALID."""
    if not (
        message.title or message.template or (message.recipient.HasField("postal_address") and message.attachments)
    ):
        raise _invalid("message.title", "is empty")
    check_bodies(message.bodies)
    for position, action in enumerate(message.actions):
        field = f"message.actions[{position}]"
        _distinct([label.language for label in action.labels], f"{field}.labels")
        begun = action.start_time.ToNanoseconds() if action.HasField("start_time") else None
        if begun is not None and action.HasField("end_time") and action.end_time.ToNanoseconds() <= begun:
            raise InvalidArgument("TIME_INVALID", "an action ends before it begins", field=f"{field}.end_time")
    if message.HasField("notification"):
        _check_notification(message)
    if not message.bodies and not message.attachments:
        raise _invalid("message.bodies", "is empty, and there are no attachments")


def check_bodies(bodies: Sequence[Body], field: str = "message.bodies") -> None:
    """Raises InvalidArgument: FIELD_INVALID for two bodies in one language, MARKDOWN_REFUSED."""
    _distinct([body.language for body in bodies], field)
    for body in bodies:
        if body.format == Body.FORMAT_MARKDOWN:
            markdown.check(body.text, language=body.language)


async def written_out(database: Database, message: Message, *, unit_id: str) -> Message:
    """The message with title and bodies from the template that it names.

    Raises InvalidArgument: FIELD_INVALID, TEMPLATE_INCOMPLETE.
    """
    if message.title or message.bodies:
        raise _invalid("message.template", "is given, and title or bodies too")
    template_id = names.part(message.template, 3)
    row = (
        await template_store.template(database, unit_id, template_id)
        if names.part(message.template, 1) == unit_id
        else None
    )
    if row is None:
        raise InvalidArgument("TEMPLATE_INCOMPLETE", "the unit has no template of this name", variable="")
    result = Message()
    result.CopyFrom(message)
    for body in templates_pb2.Template.FromString(row["bodies"]).bodies:
        write = markdown.escaped if body.format == Body.FORMAT_MARKDOWN else str
        result.bodies.add(
            language=body.language,
            format=body.format,
            title=templates.filled(body.title, message.template_values),
            text=templates.filled(body.text, message.template_values, write=write),
        )
    result.title = result.bodies[0].title
    if len(result.title) > MAX_TITLE:
        raise _invalid("message.template_values", f"make the title longer than {MAX_TITLE} characters")
    return result


def _check_notification(message: Message) -> None:
    """A notification goes to where anybody may read it: no text of it holds a title."""
    texts = message.notification.texts
    _distinct([text.language for text in texts], "message.notification.texts")
    titles = {message.title.casefold(), *(body.title.casefold() for body in message.bodies)} - {""}
    for position, text in enumerate(texts):
        if any(re.search(rf"(?<!\w){re.escape(title)}(?!\w)", text.text.casefold()) for title in titles):
            raise _invalid(f"message.notification.texts[{position}].text", "holds the title of the message")


def _distinct(languages: Sequence[str], field: str) -> None:
    if len(set(languages)) < len(languages):
        raise _invalid(field, "has two texts in one language")


def _invalid(field: str, what: str) -> InvalidArgument:
    return InvalidArgument("FIELD_INVALID", f"{field} {what}", violations=[(field, what)])
