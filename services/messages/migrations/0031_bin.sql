-- When a message in the bin leaves the mailbox for good; null for one that is not in the bin.
alter table message add column purge_time timestamptz;
