-- What every service's database holds for the runtime.

-- Events that were decided in a transaction and go to JetStream after it.
-- Rows stay for a while after they were published, so that they can be replayed.
create table outbox (
    seq          bigint generated always as identity primary key,
    event_id     uuid        not null unique,
    type         text        not null,
    payload      bytea       not null,
    trace        text        not null default '',
    create_time  timestamptz not null,
    publish_time timestamptz
);
create index outbox_waiting on outbox (seq) where publish_time is null;
create index outbox_published on outbox (publish_time) where publish_time is not null;

-- Events that this service has dealt with: each takes effect once.
create table inbox (
    publisher    text        not null,
    event_id     uuid        not null,
    handle_time  timestamptz not null default now(),
    primary key (publisher, event_id)
);
create index inbox_time on inbox (handle_time);

-- Events that could not be dealt with in spite of all tries.
create table dead_letter (
    publisher    text        not null,
    event_id     uuid        not null,
    type         text        not null,
    payload      bytea       not null,
    error        text        not null,
    create_time  timestamptz not null default now(),
    primary key (publisher, event_id)
);

-- Clients whose tokens are refused, though they may not have expired.
create table revoked_client (
    client_id    text        primary key,
    revoke_time  timestamptz not null
);
