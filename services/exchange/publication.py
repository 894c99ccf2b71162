"""What the publisher of a directory decides: entries, parts, registrations. Pure.

The directory as it is to be is a set of entries; `lay_out` makes parts of them.
An entry keeps its part while others change, so that nodes fetch little.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from google.protobuf.message import Message
from solmu.exchange.v1 import directory_pb2
from solmu.exchange.v1.directory_document_pb2 import (
    AnchorDocument,
    DirectoryDocument,
    DirectoryPart,
    RegistrationDocument,
    SignedDocument,
)

from services.exchange import directory, documents, names
from services.exchange.documents import Kind
from services.exchange.evidence import identifiers
from services.runtime.errors import InvalidArgument, NotFound

PART_BYTES = 128 << 10
"""About how large a part gets before there are twice as many; a part may have 1 MiB."""


class Entry(IntEnum):
    """What an entry is of; numbers as in the table `draft_entry`."""

    MEMBER = 1
    SUBSYSTEM = 2
    NODE = 3
    GROUP = 4
    TRUST_SERVICE = 5
    FEDERATION = 6


Key = tuple[Entry, str]
Entries = Mapping[Key, bytes]


@dataclass(frozen=True)
class Change:
    """What a registration does to the entries: sets or removes them."""

    set: dict[Key, bytes]
    remove: frozenset[Key]


def lay_out(entries: Entries) -> list[bytes]:
    """The parts of a directory: the entries that stand in them, by a digest of what they are."""
    listed = {key: content for key, content in entries.items() if key[0] <= Entry.GROUP}
    buckets = 1
    while sum(map(len, listed.values())) > buckets * PART_BYTES:
        buckets *= 2
    parts: dict[int, DirectoryPart] = defaultdict(DirectoryPart)
    for (kind, identifier), content in sorted(listed.items()):
        digest = hashlib.sha256(f"{kind}/{identifier}".encode()).digest()
        part = parts[int.from_bytes(digest[:4], "big") % buckets]
        into: dict[Entry, Any] = {
            Entry.MEMBER: part.members,
            Entry.SUBSYSTEM: part.subsystems,
            Entry.NODE: part.nodes,
            Entry.GROUP: part.global_groups,
        }
        into[kind].add().ParseFromString(content)
    return [parts[bucket].SerializeToString(deterministic=True) for bucket in sorted(parts)]


def compose(
    *,
    anchor: AnchorDocument,
    version: int,
    entries: Entries,
    parameters: directory_pb2.MeshParameters,
    lifetime: timedelta,
    now: datetime,
) -> tuple[DirectoryDocument, list[bytes]]:
    """The directory of these entries, to be signed, and its parts."""
    parts = lay_out(entries)
    document = DirectoryDocument(
        instance=anchor.instance,
        version=version,
        anchor_version=anchor.version,
        parameters=parameters,
        trust_services=[
            directory_pb2.TrustService.FromString(content)
            for (kind, _), content in sorted(entries.items())
            if kind == Entry.TRUST_SERVICE
        ],
        federated_anchors=[content for (kind, _), content in sorted(entries.items()) if kind == Entry.FEDERATION],
        parts=[
            DirectoryDocument.PartReference(sha256=hashlib.sha256(part).digest(), size_bytes=len(part))
            for part in parts
        ],
    )
    document.issue_time.FromDatetime(now)
    document.expire_time.FromDatetime(now + lifetime)
    return document, parts


def subject_keys(document: RegistrationDocument) -> list[directory_pb2.DirectoryKey]:
    """The keys that a registration is about."""
    subject = document.WhichOneof("subject")
    if subject == "member":
        return list(document.member.keys)
    if subject == "node":
        return list(document.node.keys)
    return [document.member_key.key] if subject == "member_key" else []


def holder(document: RegistrationDocument) -> str:
    """The member that a registration is about."""
    subject = document.WhichOneof("subject")
    if subject == "member":
        return names.member(document.member.id)
    if subject == "subsystem":
        return names.member(document.subsystem.id.member)
    if subject == "node":
        return names.member(document.node.id.owner)
    return names.member(document.member_key.member)


def verify_registration(signed: SignedDocument, document: RegistrationDocument, current: directory.Directory) -> None:
    """Verifies that all have signed who must, and that the keys may be entered.

    1. Identifiers have none but plain characters: REGISTRATION_IDENTIFIER_INVALID.
    2. Each key to be entered has signed, unless it is in the directory already; its certificate is of an authority
       that counts for its use: REGISTRATION_SIGNATURE_INVALID, CERTIFICATE_ISSUER_UNKNOWN.
    3. A key for statements that the member has in the directory has signed, unless the member is new.
    """
    member = holder(document)
    if not document.remove:
        _check_identifiers(document)  # 1
        held = _held_keys(document, current)
        for key in subject_keys(document):  # 2
            if key.certificate in held:
                continue
            if not documents.signed_by(Kind.REGISTRATION, signed, _public_key(key), key.algorithm):
                raise _unsigned()
            uses = {directory_pb2.KEY_USE_STATEMENTS, directory_pb2.KEY_USE_TLS}
            if key.use in uses and not directory.issued_by(key.certificate, current.authorities(key.use)):
                raise InvalidArgument(
                    "CERTIFICATE_ISSUER_UNKNOWN", "the certificate is of no authority that the mesh recognises"
                )
    known = current.members.get(member)
    if known is None:
        if document.WhichOneof("subject") != "member":
            raise NotFound("MEMBER_UNKNOWN", "the directory has no such member", subject=member)
        return
    if not any(  # 3
        documents.signed_by(Kind.REGISTRATION, signed, _public_key(key), key.algorithm)
        for key in known.keys
        if key.use == directory_pb2.KEY_USE_STATEMENTS
    ):
        raise _unsigned()


def effect(document: RegistrationDocument, entries: Entries) -> Change:
    """What an approved registration does to the entries. Raises NotFound, MEMBER_UNKNOWN."""
    subject = document.WhichOneof("subject")
    if subject == "member_key":
        return _change_key(document, entries)
    key, content = _entry(document)
    if not document.remove:
        return Change({key: content}, frozenset())
    if key[0] is Entry.MEMBER:
        return removal(key[1], entries)
    return Change({}, frozenset({key}))


def removal(member: str, entries: Entries) -> Change:
    """A member taken out with all that is its own."""
    gone = {key for key in entries if key[0] <= Entry.NODE and (key[1] == member or key[1].startswith(f"{member}/"))}
    if (Entry.MEMBER, member) not in gone:
        raise NotFound("MEMBER_UNKNOWN", "the directory has no such member", subject=member)
    changed: dict[Key, bytes] = {}
    for key, content in entries.items():
        if key in gone:
            continue
        if key[0] is Entry.NODE:
            node = directory_pb2.Node.FromString(content)
            kept = [one for one in node.hostings if names.member(one.subsystem.member) != member]
            if len(kept) != len(node.hostings):
                del node.hostings[:]
                node.hostings.extend(kept)
                changed[key] = node.SerializeToString()
        if key[0] is Entry.GROUP:
            group = directory_pb2.GlobalGroup.FromString(content)
            within = [one for one in group.subsystems if names.member(one.member) != member]
            if len(within) != len(group.subsystems):
                del group.subsystems[:]
                group.subsystems.extend(within)
                changed[key] = group.SerializeToString()
    return Change(changed, frozenset(gone))


def _entry(document: RegistrationDocument) -> tuple[Key, bytes]:
    subject = document.WhichOneof("subject")
    found: Message
    if subject == "member":
        key, found = (Entry.MEMBER, names.member(document.member.id)), document.member
    elif subject == "subsystem":
        key, found = (Entry.SUBSYSTEM, names.subsystem(document.subsystem.id)), document.subsystem
    else:
        key, found = (Entry.NODE, names.node(document.node.id)), document.node
    return key, found.SerializeToString()


def _change_key(document: RegistrationDocument, entries: Entries) -> Change:
    key = (Entry.MEMBER, names.member(document.member_key.member))
    if key not in entries:
        raise NotFound("MEMBER_UNKNOWN", "the directory has no such member", subject=key[1])
    member = directory_pb2.Member.FromString(entries[key])
    changed = document.member_key.key
    kept = [one for one in member.keys if one.certificate != changed.certificate]
    del member.keys[:]
    member.keys.extend(kept if document.remove else [*kept, changed])
    return Change({key: member.SerializeToString()}, frozenset())


def _held_keys(document: RegistrationDocument, current: directory.Directory) -> set[bytes]:
    if document.WhichOneof("subject") == "node":
        known = current.nodes.get(names.node(document.node.id))
        return {key.certificate for key in known.keys} if known is not None else set()
    member = current.members.get(holder(document))
    return {key.certificate for key in member.keys} if member is not None else set()


def _check_identifiers(document: RegistrationDocument) -> None:
    (_, identifier), _content = _entry(document) if document.WhichOneof("subject") != "member_key" else (("", ""), b"")
    if "%" in identifier:
        raise InvalidArgument(
            "REGISTRATION_IDENTIFIER_INVALID", "an identifier has characters that new ones may not have", field="id"
        )


def _public_key(key: directory_pb2.DirectoryKey) -> bytes:
    return directory.public_key(key.certificate)


def _unsigned() -> InvalidArgument:
    return InvalidArgument("REGISTRATION_SIGNATURE_INVALID", "the registration is not signed by all that it takes")


def group_identifier(instance: str, code: str) -> str:
    """How a global group is named: "FI/group"."""
    return f"{identifiers.encode(instance)}/{identifiers.encode(code)}"
