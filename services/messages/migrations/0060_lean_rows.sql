-- What a message costs to be written, and goes on costing in a store of millions.

-- One index finds a repeat, and a message by its key.
create unique index message_by_idempotency_key on message (unit_id, idempotency_key, mailbox_id);
alter table message drop constraint message_unit_id_mailbox_id_idempotency_key_key;
drop index message_by_key;

-- A delivery is known by its message and its way.
alter table delivery drop constraint delivery_pkey;
alter table delivery add constraint delivery_pkey primary key using index delivery_way;

-- Units and mailboxes are never deleted, deliveries go where their message is deleted (retention_store.py). Checked for
-- each row, these keys locked, and so wrote, the unit, the mailbox and the message once more.
alter table message drop constraint message_unit_id_fkey, drop constraint message_mailbox_id_fkey;
alter table delivery drop constraint delivery_message_id_fkey;

-- Events lie in the order of their times: where a time begins is all that an index has to know.
drop index feed_event_time;
create index feed_event_time on feed_event using brin (time) with (autosummarize = on);
