-- What a message writes at a random place of an index costs the more the larger the index is: its page is read again, and
-- goes whole into the journal once after each checkpoint. So such entries are small, and the others stand in a row.

-- A key has as many characters as its sender likes, and eight bytes here.
drop index message_by_idempotency_key;
create unique index message_by_idempotency_key
    on message (unit_id, hashtextextended(idempotency_key, 0), mailbox_id);

-- A list in the other direction is the same index read backwards, and two messages of one moment are rare.
drop index message_released;
create index message_released on message (mailbox_id, release_time);

-- Entries that come in at the end leave full pages behind; at the front, half empty ones.
drop index message_kept, message_to_unit, message_of_case;
create index message_kept on message (unit_id, message_id) where end_time is null;
create index message_to_unit on message (unit_id, message_id) where direction = 2 and end_time is null;
create index message_of_case on message (unit_id, case_id, message_id) where case_id <> '';
