"""The story of one decision, played on a running node: `make demo`.

The permits office of a city sends a PDF decision to a resident through the
edge; the resident opens it; the office sees it happen. Each step is printed as
it happens, with the time it took and what was verified. The exit status is 0
only if all of it held.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime

from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas
from solmu.messages.v1 import attachments_pb2, feed_pb2, messages_pb2

from deploy.local import commands, demo_clients
from deploy.local.node import NodeSettings
from deploy.local.problems import NodeProblem
from deploy.local.state import State
from gateway.client import Client, Fault, Profile
from services.runtime import config

UNIT = demo_clients.UNIT
EXPECTED = ["message.accepted", "delivery.available", "delivery.opened"]
PATIENCE = 30.0
"""Seconds that an event may take before the demo counts as failed; usually it is milliseconds."""


class Failed(Exception):
    """Something that should hold does not."""


class Story:
    """Prints steps with their times, and remembers whether all of them held."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    @contextmanager
    def step(self, who: str, what: str) -> Iterator[list[str]]:
        """One step; the lines put into the list are printed under it."""
        began = time.perf_counter()
        notes: list[str] = []
        try:
            yield notes
        except (Fault, Failed, TimeoutError) as error:
            print(f"  FAILED  {who:<9} {what}\n            {error or 'took too long'}", flush=True)
            raise
        print(f"{(time.perf_counter() - began) * 1000:7.1f} ms  {who:<9} {what}", flush=True)
        for note in notes:
            print(f"{'':10}  {'':<9} {note}", flush=True)

    @property
    def seconds(self) -> float:
        """Since the story began."""
        return time.perf_counter() - self._began


def main() -> int:
    """Brings the node up if need be, plays the story, and leaves the node running."""
    try:
        settings = config.read(NodeSettings)
        if (started := commands.up(settings)) != 0:
            return started
        print()
        asyncio.run(play(settings))
    except (NodeProblem, config.ConfigError) as problem:
        print(problem, file=sys.stderr)
        return 1
    except (Fault, Failed, TimeoutError):
        print("\nThe demo failed. `make status` shows the node, .solmu/log what its processes said.", file=sys.stderr)
        return 1
    return 0


async def play(settings: NodeSettings) -> None:
    """Plays the story. Raises Fault, Failed or TimeoutError where something does not hold."""
    state, story = State(settings.state), Story()
    async with (
        Client(Profile.load(state.clients / demo_clients.PERMITS.client_id)) as permits,
        Client(Profile.load(state.clients / demo_clients.RESIDENT.client_id)) as resident,
    ):
        with story.step("permits", "gets an access token (OAuth 2.0, bound to its certificate)"):
            await permits.token()
        with story.step("resident", "gets an access token, and opens her mailbox by REST") as notes:
            mailbox = (await resident.rest("POST", "/v1/mailboxes:open", {}))["name"]
            notes.append(f"{mailbox} is open")
        cursor = await _end_of_feed(permits)
        message, attachment = await _send(story, permits)
        await _read(story, resident, mailbox, message, attachment)
        await _follow(story, permits, message, cursor)
        with story.step("resident", "sees who looked at her mail") as notes:
            accesses = await resident.rest("GET", f"/v1/{mailbox}/accesses?pageSize=2")
            notes += [f"{access['method']} by {access['actor']['client']}" for access in accesses["accesses"]]
    print(f"\nAll of it held, in {story.seconds:.1f} s. The node goes on running; `make down` stops it.")


async def _send(story: Story, permits: Client) -> tuple[messages_pb2.Message, attachments_pb2.Attachment]:
    """The office makes a decision and sends it."""
    with story.step("permits", "makes the decision, a PDF") as notes:
        decision = make_decision()
        digest = hashlib.sha256(decision).hexdigest()
        notes.append(f"{len(decision)} bytes, SHA-256 {digest}")
    with story.step("permits", "uploads it as a stream by gRPC") as notes:
        attachment = await permits.upload(decision, file_name="decision.pdf", media_type="application/pdf")
        _hold("the node has the same digest", attachment.sha256 == digest)
        notes.append(f"{attachment.name}: the node has the same digest")
    request = _message(attachment.name)
    with story.step("permits", "sends it to the resident by gRPC") as notes:
        message = await permits.call(permits.messages.SendMessage, request, attempts=5)
        notes.append(message.name)
    with story.step("permits", "sends it again, as after a lost answer") as notes:
        again = await permits.call(permits.messages.SendMessage, request, attempts=5)
        _hold("the repeat is the same message", again.name == message.name)
        notes.append("same idempotency key, same message: nothing is there twice")
    return message, attachment


async def _read(
    story: Story,
    resident: Client,
    mailbox: str,
    message: messages_pb2.Message,
    attachment: attachments_pb2.Attachment,
) -> None:
    """The resident finds the message, opens it and downloads the decision."""
    name = f"{mailbox}/messages/{message.name.split('/')[3]}"
    with story.step("resident", "looks into her mailbox by REST") as notes:
        listed = await resident.rest("GET", f"/v1/{mailbox}/messages?pageSize=10")
        titles = {entry["name"]: f"“{entry['title']}”" for entry in listed["messages"]}
        _hold("the message is in the mailbox", name in titles)
        notes.append(titles[name])
    with story.step("resident", "opens the message") as notes:
        opened = await resident.rest("POST", f"/v1/{name}:open", {})
        notes.append(f"“{opened['bodies'][0]['text'].splitlines()[0]}”")
    with story.step("resident", "downloads the decision as a stream by REST") as notes:
        media_type, content = await resident.rest_content(f"/v1/{name}/{attachment.name}/content")
        _hold("it comes as a PDF", media_type == "application/pdf")
        _hold("the content is that which was sent", hashlib.sha256(content).hexdigest() == attachment.sha256)
        notes.append(f"SHA-256 {attachment.sha256}: equal at both ends")


async def _follow(story: Story, permits: Client, message: messages_pb2.Message, cursor: str) -> None:
    """The office sees what happened, each event once and in order, from any cursor on."""
    with story.step("permits", "sees it happen in the unit's feed") as notes:
        events = await asyncio.wait_for(_events_of(permits, message.name, cursor), PATIENCE)
        _hold("every event came, once", [event.type for event in events] == EXPECTED)
        times = [event.time.ToDatetime(UTC) for event in events]
        _hold("the events are in order", times == sorted(times))
        notes += [f"{time_:%H:%M:%S.%f}  {event.type}" for time_, event in zip(times, events, strict=True)]
    with story.step("permits", "goes on from a cursor in the middle") as notes:
        rest = await _events_after(permits, events[0].cursor)
        following = [event.id for event in rest if event.message == message.name]
        _hold("the feed neither skips nor repeats", following == [event.id for event in events[1:]])
        notes.append("the same events follow, none skipped, none twice")


def make_decision() -> bytes:
    """A decision as a case system would print it: one page of PDF."""
    buffer = io.BytesIO()
    page = Canvas(buffer, pagesize=A4)
    page.setTitle("Decision on a building permit")
    page.setFont("Helvetica-Bold", 16)
    page.drawString(70, 760, "Decision on a building permit")
    page.setFont("Helvetica", 11)
    lines = (
        f"Case BP-{datetime.now(UTC):%Y}-0042, given on {datetime.now(UTC):%d %B %Y}",
        "",
        "The permit for a sauna building of 24 m2 is granted as applied for.",
        "The work must begin within three years and be finished within five.",
        "",
        "This decision can be appealed within 30 days of its service.",
    )
    for row, line in enumerate(lines):
        page.drawString(70, 725 - 18 * row, line)
    page.save()
    return buffer.getvalue()


def _message(attachment: str) -> messages_pb2.SendMessageRequest:
    case = f"BP-{datetime.now(UTC):%Y}-0042"
    return messages_pb2.SendMessageRequest(
        parent=f"units/{UNIT}",
        idempotency_key=f"{case}|{uuid.uuid4()}",
        message=messages_pb2.Message(
            recipient=messages_pb2.Recipient(identifier=demo_clients.identifier(demo_clients.RESIDENT.owner)),
            title="Your building permit has been granted",
            bodies=[
                messages_pb2.Body(language="en", text="The decision is attached.\n\nPermits office"),
                messages_pb2.Body(language="fi", title="Rakennuslupasi on myönnetty", text="Päätös on liitteenä."),
            ],
            attachments=[
                messages_pb2.MessageAttachment(attachment=attachment, role=messages_pb2.MessageAttachment.ROLE_MAIN)
            ],
            case_reference=messages_pb2.CaseReference(system="Demo cases", case_id=case),
            correlation_id=case,
        ),
    )


async def _end_of_feed(permits: Client) -> str:
    """The cursor behind the last event that is there now."""
    cursor = ""
    while True:
        request = feed_pb2.ListEventsRequest(parent=f"units/{UNIT}", cursor=cursor, page_size=1000)
        page = await permits.call(permits.feed.ListEvents, request, attempts=5)
        cursor = page.next_cursor
        if not page.events:
            return cursor


async def _events_of(permits: Client, message: str, cursor: str) -> list[feed_pb2.Event]:
    """The events of one message, from the stream, up to the last that is expected."""
    events: list[feed_pb2.Event] = []
    request = feed_pb2.StreamEventsRequest(parent=f"units/{UNIT}", cursor=cursor)
    async with aclosing(permits.stream(permits.feed.StreamEvents, request)) as stream:
        async for event in stream:
            if event.message == message:
                events.append(event)
                if event.type == EXPECTED[-1]:
                    break
    return events


async def _events_after(permits: Client, cursor: str) -> list[feed_pb2.Event]:
    request = feed_pb2.ListEventsRequest(parent=f"units/{UNIT}", cursor=cursor)
    return list((await permits.call(permits.feed.ListEvents, request, attempts=5)).events)


def _hold(claim: str, holds: bool) -> None:
    if not holds:
        raise Failed(f"this does not hold: {claim}")


if __name__ == "__main__":
    sys.exit(main())
