-- Where a message is on all counts, and when it next moves by itself (course.py).
alter table message
    add column publish_time  timestamptz,
    add column due_time      timestamptz,
    add column due_passed    boolean     not null default false,
    add column withdraw_time timestamptz,
    -- The sender's explanation, sealed as the content is.
    add column withdrawal    bytea,
    add column in_reply_to   uuid        references message,
    add column legal_profile text        not null default 'fi-2010',
    add column legal_state   smallint    not null default 1,
    add column legal_time    timestamptz,
    add column legal_basis   smallint    not null default 0,
    add column wake_time     timestamptz;
create index message_wakes on message (wake_time) where wake_time is not null;
-- A mailbox shows what was released last first, however long it had waited.
create index message_released on message (mailbox_id, release_time desc, message_id desc);
drop index message_in_mailbox;

alter table delivery
    add column available_time timestamptz,
    add column receipt_time   timestamptz,
    add column post_time      timestamptz,
    add column return_time    timestamptz;
update delivery set available_time = update_time where state = 2;
update delivery d set available_time = m.release_time from message m where d.message_id = m.message_id and d.state = 3;
-- Each way is gone once: no second letter, ever.
create unique index delivery_way on delivery (message_id, channel);
drop index delivery_of_message;
