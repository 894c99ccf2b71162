create table unit (
    unit_id              text        primary key,
    organisation         text        not null,
    display_names        bytea       not null,
    accepts_new_messages boolean     not null,
    retention            interval,
    legal_profile        text        not null,
    create_time          timestamptz not null,
    version              bigint      not null default 1
);
create index unit_organisation on unit (organisation, unit_id);

create table mailbox (
    mailbox_id            uuid        primary key,
    party                 text        not null unique,
    kind                  smallint    not null,
    state                 smallint    not null,
    legal_basis           smallint    not null,
    legal_basis_reference text        not null,
    opt_out_end_time      timestamptz,
    create_time           timestamptz not null,
    -- Wrapped by the root key; without it nothing in the mailbox opens.
    data_key              bytea,
    version               bigint      not null default 1
);

-- A file. Its content lies outside of the database, sealed under data_key.
create table attachment (
    attachment_id uuid        primary key,
    owner         text        not null,
    request_id    uuid,
    state         smallint    not null,
    file_name     bytea       not null,
    media_type    text        not null,
    size_bytes    bigint      not null,
    sha256        text        not null,
    data_key      bytea       not null,
    create_time   timestamptz not null,
    -- Deleted then, unless a message uses it: null once one does.
    expire_time   timestamptz,
    unique (owner, request_id)
);
create index attachment_expiry on attachment (expire_time) where expire_time is not null;

-- What was sent never changes; what becomes of it stands in delivery.
create table message (
    message_id      uuid        primary key,
    unit_id         text        not null references unit,
    mailbox_id      uuid        not null references mailbox,
    direction       smallint    not null,
    kind            smallint    not null,
    state           smallint    not null,
    idempotency_key text        not null,
    content_digest  bytea       not null,
    content         bytea       not null,
    correlation_id  text        not null,
    case_id         text        not null,
    thread          uuid        not null,
    sender_party    text        not null,
    sender_client   text        not null,
    create_time     timestamptz not null,
    release_time    timestamptz,
    unique (unit_id, mailbox_id, idempotency_key)
);
create index message_of_unit on message (unit_id, message_id desc);
create index message_by_key on message (unit_id, idempotency_key);
create index message_of_case on message (unit_id, case_id, message_id desc) where case_id <> '';
create index message_in_mailbox on message (mailbox_id, message_id desc);

create table message_attachment (
    message_id    uuid     not null references message,
    position      smallint not null,
    attachment_id uuid     not null references attachment,
    role          smallint not null,
    off_paper     boolean  not null,
    language      text     not null,
    primary key (message_id, position)
);
create index message_attachment_used on message_attachment (attachment_id);

create table delivery (
    delivery_id uuid        primary key,
    message_id  uuid        not null references message,
    channel     smallint    not null,
    state       smallint    not null,
    update_time timestamptz not null,
    open_time   timestamptz,
    -- Who opened it, for whom, under which mandate, through which client.
    actor       bytea
);
create index delivery_of_message on delivery (message_id);

-- Who looked at what is in a mailbox; its owner may read this.
create table access_record (
    access_id  uuid        primary key,
    mailbox_id uuid        not null references mailbox,
    message_id uuid,
    method     text        not null,
    actor      bytea       not null,
    time       timestamptz not null
);
create index access_of_mailbox on access_record (mailbox_id, access_id desc);

-- The feed of each unit: its events in an order that never changes.
create table feed (
    unit_id text   primary key,
    last    bigint not null
);
create table feed_event (
    unit_id  text        not null,
    sequence bigint      not null,
    event_id uuid        not null,
    type     text        not null,
    event    bytea       not null,
    time     timestamptz not null,
    primary key (unit_id, sequence)
);
create index feed_event_time on feed_event (time);
