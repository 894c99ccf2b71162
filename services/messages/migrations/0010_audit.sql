-- What was done with the authority of the node rather than of a mailbox's owner: look-ups, erasures.
-- Written, and never changed.
create table audit_record (
    audit_id   uuid        primary key,
    method     text        not null,
    actor      bytea       not null,
    unit_id    text,
    mailbox_id uuid,
    -- How many codes were looked up, and how many of them had a mailbox.
    asked      integer,
    found      integer,
    -- Why a mailbox was erased.
    reason     text,
    time       timestamptz not null
);
create index audit_record_time on audit_record (time);

-- Null once what was sealed under it has been erased.
alter table attachment alter column data_key drop not null;
