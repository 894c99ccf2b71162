-- The unit for which somebody looked; null where it was the owner, or one who acts for the owner.
alter table access_record add column unit_id text;
