-- Registers that facts are taken from.
create table register (
    register_id   text collate "C" primary key,
    display_name  text        not null,
    importer      text        not null,
    contents      text[]      not null,
    greatest_age  interval,
    latest_import uuid,
    as_of         timestamptz,
    create_time   timestamptz not null,
    revision      bigint      not null
);

-- What registers say. A record that changes or vanishes is ended, and kept, so
-- that a past instant can be judged; `latest` marks what holds in the newest import.
create table register_record (
    record       uuid        primary key,
    register_id  text collate "C" not null references register,
    record_id    text        not null,
    latest       boolean     not null default true,
    digest       bytea       not null,
    content      bytea       not null,
    -- What it says, by the field of RegisterRecord: the columns below are read from `content`.
    what         text        not null,
    subject      text collate "C" not null,
    object       text collate "C" not null default '',
    -- A right: who (subject) may act for whom (object), in which role, and whether alone.
    role         text        not null default '',
    alone        boolean     not null default false,
    -- A block: of which kind, and what of the subject it blocks (towards the object, where there is one).
    block        text        not null default '',
    effect       smallint    not null default 0,
    -- The child's or person's day of birth, sealed.
    birth_day    bytea,
    held_from    timestamptz not null,
    held_until   timestamptz,
    import_id    uuid        not null
);
create unique index register_record_latest on register_record (register_id, record_id) where latest;
create index register_record_subject on register_record (subject, object);
create index register_record_object on register_record (object) where object <> '';

-- Snapshots and deltas that were applied.
create table register_import (
    import_id            uuid        primary key,
    register_id          text collate "C" not null references register,
    request_id           uuid        not null,
    mode                 smallint    not null,
    as_of                timestamptz not null,
    create_time          timestamptz not null,
    record_count         bigint      not null,
    added_count          bigint      not null,
    changed_count        bigint      not null,
    ended_count          bigint      not null,
    mandates_ended_count bigint      not null,
    importer             text        not null,
    token                text        not null,
    unique (register_id, request_id)
);

-- Records of imports that are still arriving; not worth a crash's recovery.
create unlogged table register_arrival (
    import_id  uuid     not null,
    record     uuid     not null,
    record_id  text     not null,
    removed    boolean  not null,
    digest     bytea    not null,
    content    bytea    not null,
    what       text     not null,
    subject    text     not null,
    object     text     not null,
    role       text     not null,
    alone      boolean  not null,
    block      text     not null,
    effect     smallint not null,
    birth_day  bytea,
    start_time timestamptz,
    end_time   timestamptz,
    arrived    timestamptz not null default now(),
    primary key (import_id, record_id)
);
