create table webhook (
    webhook_id  uuid        primary key,
    unit_id     text        not null references unit,
    uri         text        not null,
    types       text[]      not null,
    state       smallint    not null,
    -- What posts are signed with, sealed under data_key.
    secret      bytea       not null,
    data_key    bytea       not null,
    -- All events up to this place in the unit's feed have been dealt with.
    sequence    bigint      not null,
    -- Tries of the next event so far, and dead letters since the last success.
    attempts    integer     not null default 0,
    failures    integer     not null default 0,
    -- When it is next worth a look; a process that posts keeps others off until then.
    due_time    timestamptz not null,
    claim       uuid,
    create_time timestamptz not null
);
create index webhook_of_unit on webhook (unit_id, webhook_id);

create table webhook_dead_letter (
    webhook_id        uuid        not null references webhook on delete cascade,
    sequence          bigint      not null,
    dead_letter_id    uuid        not null unique,
    event             bytea       not null,
    attempts          integer     not null,
    last_status       integer     not null,
    last_attempt_time timestamptz not null,
    -- Asked for again, and not posted since.
    replay            boolean     not null default false,
    primary key (webhook_id, sequence)
);
