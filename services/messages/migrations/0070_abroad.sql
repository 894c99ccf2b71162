-- Messages to and from mailboxes on other nodes (abroad/).
create table passage (
    message_id uuid   primary key references message on delete cascade,
    -- The other node's subsystem, spelt as a resource name; null while the mailbox is looked for.
    subsystem  text,
    -- The message's id there, where it was written there.
    foreign_id uuid,
    -- Whose answer is awaited.
    asked      text[] not null default '{}',
    -- The identity code, sealed as the content is, for as long as it is still to be said to another node.
    recipient  bytea,
    unique (subsystem, foreign_id)
);

-- What is still to be said to other nodes, in its order; a row goes once it has been acknowledged there.
create table errand (
    seq           bigint      generated always as identity primary key,
    errand_id     uuid        not null unique,
    message_id    uuid        not null references message on delete cascade,
    kind          smallint    not null,
    attachment_id uuid        references attachment,
    subsystem     text        not null,
    create_time   timestamptz not null default clock_timestamp(),
    -- When it is handed to the exchange, next; null once it has been.
    due_time      timestamptz default clock_timestamp(),
    attempts      integer     not null default 0
);
create index errand_of_message on errand (message_id, seq);
create index errand_waiting on errand (seq) where due_time is not null;
