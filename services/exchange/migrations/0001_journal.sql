-- What was signed: the statements of both directions, by this node and by others, in the order of the journal.
-- A row is written in the transaction that makes its exchange happen, and never changed.
create table statement (
    seq bigint generated always as identity unique,
    sha256 bytea not null,
    own boolean not null,                       -- signed by this node; a call within the node has both
    exchange_id uuid not null,
    kind smallint not null,                     -- evidence.statements.Kind, from 1 in its order
    subsystem text not null,                    -- of this node, on whose behalf it is kept; spelt with "/"
    content bytea not null,
    signature bytea not null,                   -- serialised solmu.exchange.v1.Signature
    certificate_status bytea not null default '',
    time_stamp bytea not null default '',
    policy text not null,                       -- this node's: id "/" revision
    append_time timestamptz not null default now(),
    primary key (sha256, own)
);

-- The memory against replay: an id is accepted once.
create unique index statement_once on statement (exchange_id, kind, own);

-- What was refused because its proof did not hold, as it came.
create table refused_proof (
    refused_proof_id uuid primary key,
    exchange_id uuid,                           -- as the sender says; null where it could not be read
    node text not null,                         -- the peer, spelt with "/"; empty where it is not known
    reason text not null,
    statement bytea not null,
    signature bytea not null,
    refuse_time timestamptz not null default now()
);

create index refused_proof_exchange on refused_proof (exchange_id);

-- One call and its answer, as this node saw it. No content, no path, nothing about persons.
create table exchange (
    exchange_id uuid not null,
    side smallint not null,                     -- solmu.exchange.v1.Side
    message_id text not null,
    consumer text not null,                     -- spelt with "/", as all identifiers here
    service text not null,
    consumer_node text not null,
    provider_node text not null,
    method text not null,
    status integer not null,
    outcome smallint not null,
    reason text not null,
    refused_by smallint not null,
    on_behalf boolean not null,
    request_sha256 bytea,
    response_sha256 bytea,
    measurement bytea not null,                 -- serialised Exchange.Measurement
    request_bytes bigint not null,
    response_bytes bigint not null,
    backend_share real,
    start_time timestamptz not null,
    end_time timestamptz not null,
    primary key (exchange_id, side)
);

create index exchange_consumer on exchange (consumer, exchange_id);
create index exchange_service on exchange (service, exchange_id);
create index exchange_end on exchange (end_time, exchange_id);
create index exchange_message on exchange (message_id);
