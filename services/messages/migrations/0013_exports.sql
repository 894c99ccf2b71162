-- An archive of a mailbox, made or being made; when it is ready it is the attachment of that id.
create table mailbox_export (
    export_id     uuid        primary key,
    mailbox_id    uuid        not null references mailbox,
    attachment_id uuid        not null,
    state         smallint    not null,
    attempts      integer     not null default 0,
    due_time      timestamptz not null,
    create_time   timestamptz not null,
    expire_time   timestamptz
);
create index mailbox_export_running on mailbox_export (due_time) where state = 1;
