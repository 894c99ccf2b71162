-- When a message goes on paper by itself (paper.py); null where it never does.
alter table message
    add column paper_trigger       smallint,
    add column paper_unread_after  interval,
    add column paper_working_hours boolean;

alter table delivery
    add column claim_end_time timestamptz,
    add column cost           numeric(11, 4),
    add column cost_currency  text;

-- Pages of a PDF that was found to be printable as a letter.
alter table attachment add column page_count smallint;

-- What the delivery by letter needs beside its state: there is one letter of a message at most, ever.
create table letter (
    message_id    uuid        primary key references message on delete cascade,
    create_time   timestamptz not null,
    -- Where it goes, where the message does not say; sealed as the content is.
    address       bytea,
    -- When its PDF is to be made, next; null once it is, or is not wanted.
    compose_time  timestamptz,
    attempts      smallint    not null default 0,
    attachment_id uuid        references attachment,
    page_count    smallint,
    -- From when a print house may claim it; null once it was submitted or stopped.
    wait_time     timestamptz,
    claim         uuid,
    claimant      text
);
create index letter_to_compose on letter (compose_time) where compose_time is not null;
create index letter_waiting on letter (wait_time) where wait_time is not null;
create index letter_file on letter (attachment_id) where attachment_id is not null;
