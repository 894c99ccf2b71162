-- What a unit sees, and nothing else: what has ended is passed over neither by its lists nor by the next round of
-- retention.
create index message_kept on message (unit_id, message_id desc) where end_time is null;
drop index message_of_unit;
-- A unit's own post is found among the millions that it sent.
create index message_to_unit on message (unit_id, message_id desc) where direction = 2 and end_time is null;
