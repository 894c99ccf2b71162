-- How far the proof of each statement has come, and what is kept beside it. A row is written with its statement.
create table evidence (
    seq bigint primary key references statement (seq) on delete cascade,
    log_index bigint,                           -- null: waits for the log
    stamp_state smallint not null,              -- Statement.TimeStampState
    stamp_batch bigint,                         -- where it was stamped in one
    stamp_place integer,
    stamp_time timestamptz,                     -- the time that is proven
    status_sha256 bytea,                        -- of the certificate's status; null: none came
    head_state smallint not null,               -- Statement.ContentState
    body_state smallint not null,               -- of body and trailers
    content_key bytea not null default '',      -- wrapped; empty where content is kept as it is, or was erased
    content_expire_time timestamptz,
    expire_time timestamptz not null
);

create unique index evidence_log on evidence (log_index);
create index evidence_unlogged on evidence (seq) where log_index is null;
create index evidence_unstamped on evidence (seq) where stamp_state = 1;
create index evidence_expire on evidence (expire_time);
create index evidence_content_expire on evidence (content_expire_time) where head_state in (2, 3) or body_state in (2, 3);

create table content (
    seq bigint not null references evidence (seq) on delete cascade,
    part smallint not null,                     -- 1 head, 2 body, 3 trailers
    frame integer not null,
    data bytea not null,
    primary key (seq, part, frame)
);

-- Once for all statements that they prove: certificates of signers, and what responders said of them.
create table signing_certificate (
    sha256 bytea primary key,
    certificate bytea not null,
    chain bytea[] not null
);

create table certificate_status (
    sha256 bytea primary key,
    answer bytea not null
);

alter table statement drop column certificate_status;
alter table statement add column certificate_sha256 bytea not null default '';   -- as the signature names it

create index statement_subsystem on statement (subsystem, seq);

-- The log (RFC 9162): the hash of each complete subtree; level 0 are the leaves. It only ever grows.
create table log_node (
    level smallint not null,
    index bigint not null,
    hash bytea not null,
    primary key (level, index)
);

-- Heads of this node's log (node = ''), and of peers' as they showed them.
create table tree_head (
    node text not null,                         -- spelt with "/"
    tree_size bigint not null,
    head bytea not null,                        -- TreeHeadDataV2
    certificate_sha256 bytea not null,
    signature bytea not null,
    sign_time timestamptz not null,
    stamp_state smallint not null default 1,
    stamp_batch bigint,
    stamp_place integer,
    primary key (node, tree_size)
);

create index tree_head_unstamped on tree_head (tree_size) where node = '' and stamp_state = 1;

-- Peers' words on heads of this node, and this node's own on theirs.
create table countersignature (
    node text not null,                         -- whose head
    tree_size bigint not null,
    signer text not null,                       -- '': this node
    time timestamptz not null,
    certificate_sha256 bytea not null,
    value bytea not null,
    primary key (node, tree_size, signer),
    foreign key (node, tree_size) references tree_head on delete cascade
);

-- Heads that contradict what their node had shown, with why they do.
create table contradiction (
    node text not null,
    earlier_size bigint not null,
    head bytea not null,
    signature bytea not null,
    certificate_sha256 bytea not null,
    path bytea[] not null,
    show_time timestamptz not null default clock_timestamp()
);

-- Batches of time stamps: the members' hashes one after the other, from which each member's record follows.
create table stamp_batch (
    batch bigint generated always as identity primary key,
    members bytea not null,
    token bytea not null,
    stamp_time timestamptz not null,
    authority text not null
);

-- How the time-stamping authorities do, by the word of the process that asks them.
create table stamping (
    single boolean primary key default true check (single),
    failing_since timestamptz,
    pending bigint not null default 0,
    oldest timestamptz,
    look_time timestamptz not null default clock_timestamp()
);

insert into stamping default values;
