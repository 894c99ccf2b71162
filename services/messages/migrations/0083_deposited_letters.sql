-- When the recipient of a letter that nobody could take was told that it waits to be collected.
alter table delivery add column deposit_time timestamptz;
