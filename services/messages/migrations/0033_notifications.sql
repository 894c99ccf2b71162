-- Where the owner of a mailbox is told that something came. Address and code are sealed under the mailbox's key.
create table contact (
    mailbox_id       uuid        not null references mailbox,
    channel          smallint    not null,
    address          bytea       not null,
    -- The owner's word on language and quiet hours; null or empty: the usual ones.
    language         text        not null,
    quiet_start      time,
    quiet_end        time,
    -- Since when the address is known to be the owner's; nothing but a code goes to one that is not.
    confirm_time     timestamptz,
    code             bytea,
    code_expire_time timestamptz,
    code_tries       smallint    not null default 0,
    primary key (mailbox_id, channel)
);

-- What is still to be sent; a row goes when it has been, or will not be.
create table notification (
    notification_id uuid        primary key,
    mailbox_id      uuid        not null references mailbox,
    -- Null where it is a code for contact details.
    message_id      uuid        references message,
    channel         smallint    not null,
    kind            smallint    not null,
    due_time        timestamptz not null,
    tries           integer     not null default 0,
    unique (message_id, channel, kind)
);
create index notification_due on notification (due_time);
