-- When the time for which a unit keeps a message was over: from then on the unit does not see it.
alter table message add column end_time timestamptz;
create index message_ended on message (end_time) where end_time is not null;

-- What is a message's goes with it.
alter table message_attachment
    drop constraint message_attachment_message_id_fkey,
    add constraint message_attachment_message_id_fkey foreign key (message_id) references message on delete cascade;
alter table delivery
    drop constraint delivery_message_id_fkey,
    add constraint delivery_message_id_fkey foreign key (message_id) references message on delete cascade;
alter table message
    drop constraint message_in_reply_to_fkey,
    add constraint message_in_reply_to_fkey foreign key (in_reply_to) references message on delete set null;
alter table notification
    drop constraint notification_message_id_fkey,
    add constraint notification_message_id_fkey foreign key (message_id) references message on delete cascade;
alter table if exists letter
    drop constraint letter_message_id_fkey,
    add constraint letter_message_id_fkey foreign key (message_id) references message on delete cascade;
-- For the line before: which messages answer one that goes.
create index message_answering on message (in_reply_to) where in_reply_to is not null;
