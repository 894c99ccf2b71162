"""SQL of mailboxes: what opens, reads, closes, stops, finds and erases them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from services.messages.message_store import NOT_IN_BIN, UNREAD
from services.runtime.database import Connection, Database, Row

MAILBOX_COLUMNS = (
    "mailbox_id, party, kind, state, legal_basis, legal_basis_reference, opt_out_end_time, create_time, data_key,"
    " version, close_reason, close_reference, close_time"
)


async def open_mailbox(
    database: Database,
    *,
    mailbox_id: UUID,
    party: str,
    kind: int,
    legal_basis: int,
    legal_basis_reference: str,
    data_key: bytes,
    despite_closing: bool,
    now: datetime,
) -> Row | None:
    """The party's mailbox, made or opened again; the one that is open stays as it is.

    None where another than its owner closed it, unless that is not to count;
    and where a register has the owner's death on record.
    """
    return await database.fetchrow(
        f"""
        insert into mailbox as b
            (mailbox_id, party, kind, state, legal_basis, legal_basis_reference, create_time, data_key)
        values ($1, $2, $3, 1, $4, $5, $6, $7)
        on conflict (party) do update set
            state = case when b.state = 4 then 4 else 1 end,
            opt_out_end_time = null,
            close_reason = 0,
            close_reference = '',
            close_time = null,
            kind = case when b.legal_basis = 0 then excluded.kind else b.kind end,
            legal_basis = case when b.legal_basis = 0 then excluded.legal_basis else b.legal_basis end,
            legal_basis_reference =
                case when b.legal_basis = 0 then excluded.legal_basis_reference else b.legal_basis_reference end,
            create_time = case when b.legal_basis = 0 then excluded.create_time else b.create_time end,
            version = b.version + (b.state <> 1)::int
        where b.death_record = '' and (b.state <> 3 or b.close_reason < 2 or $8)
        returning {MAILBOX_COLUMNS}
        """,
        mailbox_id,
        party,
        kind,
        legal_basis,
        legal_basis_reference,
        now,
        data_key,
        despite_closing,
    )


async def place(database: Database, *, mailbox_id: UUID, party: str, data_key: bytes, now: datetime) -> Row:
    """Where messages on paper are kept for one who has no mailbox: the party's own one, to be opened some day.

    Until then it is closed, on no legal basis, and nobody sees it.
    """
    row = await database.fetchrow(
        "insert into mailbox as b (mailbox_id, party, kind, state, legal_basis, legal_basis_reference, create_time,"
        " data_key) values ($1, $2, 0, 3, 0, '', $3, $4) on conflict (party) do update set party = excluded.party"
        f" returning {MAILBOX_COLUMNS}",
        mailbox_id,
        party,
        now,
        data_key,
    )
    assert row is not None
    return row


async def mailbox(database: Database | Connection, mailbox_id: UUID) -> Row | None:
    """A mailbox that has been opened."""
    return await database.fetchrow(
        f"select {MAILBOX_COLUMNS} from mailbox where mailbox_id = $1 and legal_basis <> 0", mailbox_id
    )


async def mailbox_of(database: Database | Connection, party: str) -> Row | None:
    """A party's own mailbox, where it has been opened."""
    return await database.fetchrow(
        f"select {MAILBOX_COLUMNS} from mailbox where party = $1 and legal_basis <> 0", party
    )


async def lock_mailbox(transaction: Connection, mailbox_id: UUID) -> Row | None:
    """A mailbox, locked against another's change."""
    return await transaction.fetchrow(
        f"select {MAILBOX_COLUMNS} from mailbox where mailbox_id = $1 for update", mailbox_id
    )


async def opt_out(transaction: Connection, mailbox_id: UUID, *, end_time: datetime) -> Row | None:
    """The mailbox without delivery until a time; its etag changes with it."""
    return await transaction.fetchrow(
        "update mailbox set state = 2, opt_out_end_time = $2, version = version + 1 where mailbox_id = $1"
        f" returning {MAILBOX_COLUMNS}",
        mailbox_id,
        end_time,
    )


async def close(transaction: Connection, mailbox_id: UUID, *, reason: int, reference: str, now: datetime) -> Row | None:
    """The mailbox, closed; its etag changes with it. An opt-out is kept for the day on which it is open again."""
    return await transaction.fetchrow(
        "update mailbox set state = 3, close_reason = $2, close_reference = $3, close_time = $4, version = version + 1"
        f" where mailbox_id = $1 returning {MAILBOX_COLUMNS}",
        mailbox_id,
        reason,
        reference,
        now,
    )


async def keep_deaths(
    transaction: Connection,
    mailbox_ids: Sequence[UUID],
    parties: Sequence[str],
    records: Sequence[str],
    *,
    data_keys: Sequence[bytes],
    now: datetime,
) -> None:
    """Keeps the registers' records of the deaths of parties.

    One who has no mailbox gets a place for one, as by `place`; whoever opens
    it at the same time waits until this is known.
    """
    await transaction.execute(
        "insert into mailbox (mailbox_id, party, kind, state, legal_basis, legal_basis_reference, create_time,"
        " data_key, death_record) select id, party, 0, 3, 0, '', $5, key, record"
        " from unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[]) as d (id, party, record, key) order by party"
        " on conflict (party) do update set death_record = excluded.death_record",
        mailbox_ids,
        parties,
        records,
        data_keys,
        now,
    )


async def forget_deaths(transaction: Connection, parties: Sequence[str]) -> None:
    """No register records the deaths of these parties any more."""
    await transaction.execute("update mailbox set death_record = '' where party = any($1)", parties)


async def close_of(
    transaction: Connection, parties: Sequence[str], references: Sequence[str], *, reason: int, now: datetime
) -> list[UUID]:
    """Closes those mailboxes of parties that are not closed; the ids of them."""
    rows = await transaction.fetch(
        "update mailbox b set state = 3, close_reason = $3, close_reference = e.reference, close_time = $4,"
        " version = version + 1 from unnest($1::text[], $2::text[]) as e (party, reference)"
        " where b.party = e.party and b.state in (1, 2) returning b.mailbox_id",
        parties,
        references,
        reason,
        now,
    )
    return [row["mailbox_id"] for row in rows]


async def reopen_of(
    transaction: Connection, parties: Sequence[str], *, reason: int, references: str, now: datetime
) -> list[UUID]:
    """Opens mailboxes that were closed for a reason, with references like these; the ids of them."""
    rows = await transaction.fetch(
        "update mailbox set state = case when opt_out_end_time > $4 then 2 else 1 end, close_reason = 0,"
        " close_reference = '', close_time = null, version = version + 1"
        " where party = any($1) and state = 3 and close_reason = $2 and close_reference like $3 returning mailbox_id",
        parties,
        reason,
        references,
        now,
    )
    return [row["mailbox_id"] for row in rows]


async def erase(transaction: Connection, mailbox_id: UUID) -> Row | None:
    """The mailbox without its key."""
    return await transaction.fetchrow(
        "update mailbox set state = 4, opt_out_end_time = null, data_key = null, version = version + 1"
        f" where mailbox_id = $1 returning {MAILBOX_COLUMNS}",
        mailbox_id,
    )


async def erase_attachments(transaction: Connection, mailbox_id: UUID) -> list[UUID]:
    """Marks as deleted, and destroys the keys of, archives, letters and attachments that no other mailbox has.

    Returns the blobs that they leave.
    """
    rows = await transaction.fetch(
        "update attachment a set state = 7, expire_time = null, data_key = null, blob_key = null where attachment_id in"
        " (select u.attachment_id from message_attachment u join message m using (message_id) where m.mailbox_id = $1"
        " union select attachment_id from mailbox_export where mailbox_id = $1"
        " union select l.attachment_id from letter l join message m using (message_id) where m.mailbox_id = $1)"
        " and not exists (select from message_attachment u join message m using (message_id)"
        " join mailbox b using (mailbox_id)"
        " where u.attachment_id = a.attachment_id and b.mailbox_id <> $1 and b.data_key is not null)"
        " returning coalesce(blob_id, attachment_id) as blob_id",
        mailbox_id,
    )
    return [row["blob_id"] for row in rows]


async def record_audit(
    transaction: Connection,
    *,
    audit_id: UUID,
    method: str,
    actor: bytes,
    mailbox_id: UUID,
    reason: str,
    now: datetime,
) -> None:
    """Records an act on a mailbox that is not its owner's."""
    await transaction.execute(
        "insert into audit_record (audit_id, method, actor, mailbox_id, reason, time) values ($1, $2, $3, $4, $5, $6)",
        audit_id,
        method,
        actor,
        mailbox_id,
        reason,
        now,
    )


async def represented(
    database: Database,
    parties: Sequence[tuple[str, str]],
    *,
    access_ids: Sequence[UUID],
    actors: Sequence[bytes],
    method: str,
    now: datetime,
) -> list[Row]:
    """The mailboxes of parties with their counts of unread messages, in one statement with the records of the look.

    Each party comes with the one unit whose messages count, "" for all; those
    for the recipient alone never do.
    """
    return await database.fetch(
        f"""
        with found as (
            select b.*, a.unit_id, a.access_id, a.actor, a.place
            from unnest($1::text[], $2::text[], $3::uuid[], $4::bytea[])
                with ordinality as a (party, unit_id, access_id, actor, place)
            join mailbox b using (party) where b.data_key is not null and b.legal_basis <> 0
        ), noted as (
            insert into access_record (access_id, mailbox_id, method, actor, time)
            select access_id, mailbox_id, $5, actor, $6 from found
        )
        select {MAILBOX_COLUMNS}, (
            select count(*) from message m join delivery d using (message_id)
            where m.mailbox_id = f.mailbox_id and not m.recipient_only
            and (f.unit_id = '' or m.unit_id = f.unit_id) and {UNREAD} and {NOT_IN_BIN}
        ) as unread
        from found f order by place
        """,
        [party for party, _ in parties],
        [unit_id for _, unit_id in parties],
        access_ids,
        actors,
        method,
        now,
    )


async def look_up(
    database: Database,
    parties: Sequence[str],
    *,
    access_ids: Sequence[UUID],
    audit_id: UUID,
    unit_id: str | None,
    method: str,
    actor: bytes,
    asked: int,
    now: datetime,
) -> list[Row]:
    """The mailboxes of parties, each named once, in one statement with the records of the look-up.

    The owner of each mailbox that was found reads of it in its list of
    accesses; the operator, in the audit record.
    """
    return await database.fetch(
        """
        with found as (
            select b.mailbox_id, b.party, b.state, b.data_key, b.opt_out_end_time, a.access_id
            from unnest($1::text[], $2::uuid[]) as a (party, access_id) join mailbox b using (party)
            where b.data_key is not null
        ), shown as (
            insert into access_record (access_id, mailbox_id, unit_id, method, actor, time)
            select access_id, mailbox_id, $4, $5, $6, $8 from found
        ), noted as (
            insert into audit_record (audit_id, method, actor, unit_id, asked, found, time)
            select $3, $5, $6, $4, $7, count(*), $8 from found
        )
        select mailbox_id, party, state, data_key, opt_out_end_time from found
        """,
        parties,
        access_ids,
        audit_id,
        unit_id,
        method,
        actor,
        asked,
        now,
    )
