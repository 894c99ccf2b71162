-- An id is accepted once of each sender: an envelope to many has a receipt from each.
alter table statement add column sender text not null default '';          -- as its line says
drop index statement_once;
create unique index statement_once on statement (exchange_id, kind, own, sender);

-- Envelopes that subsystems of this node have sent.
create table envelope (
    envelope_id uuid primary key,
    sender text not null,
    message_id text not null,
    digest bytea not null,                      -- of what was asked for: another one with the same message id is refused
    target text not null,                       -- as the statement's line `receiver`
    purpose smallint not null,
    type text not null,
    media_type text not null,
    answers uuid,                               -- the envelope that it answers
    lane text not null,
    place bigint not null,
    body_sha256 bytea not null,
    body_bytes bigint not null,
    statement bytea not null,
    statement_sha256 bytea not null,
    expire_time timestamptz not null,
    create_time timestamptz not null default clock_timestamp(),
    unique (sender, message_id)
);

create index envelope_sender on envelope (sender, envelope_id);
create index envelope_statement on envelope (statement_sha256);
create index envelope_target on envelope (target, create_time);

create table envelope_lane (
    sender text not null,
    target text not null,
    lane text not null,
    last bigint not null,
    primary key (sender, target, lane)
);

create table recipient (
    envelope_id uuid not null references envelope on delete cascade,
    subsystem text not null,
    state smallint not null,                    -- DeliveryState
    replayed boolean not null default false,    -- brought again because it asked
    reason text not null default '',
    statement_sha256 bytea,                     -- its receipt or rejection
    attempts integer not null default 0,
    last_failure text not null default '',
    next_attempt_time timestamptz not null default clock_timestamp(),
    arrive_time timestamptz,
    settle_time timestamptz,
    primary key (envelope_id, subsystem)
);

create index recipient_due on recipient (next_attempt_time) where state = 1;
create index recipient_waiting on recipient (subsystem) where state = 1;

-- What became of envelopes, in an order that never changes.
create table receipt (
    seq bigint generated always as identity primary key,
    receipt_id uuid not null,
    sender text not null,
    envelope_id uuid not null,
    message_id text not null,
    content bytea not null                      -- serialised Recipient
);

create index receipt_sender on receipt (sender, seq);

-- Envelopes that came to subsystems of this node, and how far each has come with each of them.
create table arrival (
    envelope_id uuid primary key,
    seq bigint generated always as identity,
    sender text not null,
    target text not null,
    message_id text not null,
    purpose smallint not null,
    type text not null,
    media_type text not null,
    answers uuid,
    lane text not null,
    place bigint not null,
    body_sha256 bytea not null,
    body_bytes bigint not null,
    statement_sha256 bytea not null,
    send_time timestamptz not null,
    expire_time timestamptz not null,
    arrive_time timestamptz not null default clock_timestamp()
);

create table delivery (
    envelope_id uuid not null references arrival on delete cascade,
    subsystem text not null,
    state smallint not null,
    attempt integer not null default 0,
    replayed boolean not null default false,
    lease_id text not null default '',
    lease_end_time timestamptz,
    reason text not null default '',
    receipt_sha256 bytea,
    receipt_due timestamptz,                    -- when the receipt is brought to the sender; null: it was, or there is none
    receipt_attempts integer not null default 0,
    settle_time timestamptz,
    primary key (envelope_id, subsystem)
);

create index delivery_open on delivery (subsystem, envelope_id) where state in (2, 3);
create index delivery_lease on delivery (lease_id) where state = 3;
create index delivery_receipt on delivery (receipt_due) where receipt_due is not null;

-- Bodies, sealed in frames: once on a node, whether sent or come or both.
create table envelope_content (
    envelope_id uuid primary key,
    data_key bytea not null,
    keep_until timestamptz not null
);

create index envelope_content_keep on envelope_content (keep_until);

create table envelope_body (
    envelope_id uuid not null references envelope_content on delete cascade,
    frame integer not null,
    data bytea not null,
    primary key (envelope_id, frame)
);

-- Topics of this node, who has subscribed to them, and what this node's subsystems have subscribed to.
create table topic (
    identifier text primary key,                -- spelt with "/"
    content bytea not null,                     -- serialised Topic: what a client may set
    create_time timestamptz not null default clock_timestamp(),
    delete_time timestamptz,
    revision bigint not null default 1
);

create table subscriber (
    topic text not null,
    subsystem text not null,
    types text[] not null,
    create_time timestamptz not null default clock_timestamp(),
    primary key (topic, subsystem)
);

create table subscription (
    subscription_id uuid primary key,
    subsystem text not null,
    topic text not null,
    types text[] not null,
    start_time timestamptz,
    state smallint not null,                    -- Subscription.State
    reason text not null default '',
    told boolean not null default false,        -- whether the publisher's node has heard of the state
    next_attempt_time timestamptz not null default clock_timestamp(),
    create_time timestamptz not null default clock_timestamp()
);

create unique index subscription_once on subscription (subsystem, topic) where state in (1, 2);
create index subscription_untold on subscription (next_attempt_time) where not told;
