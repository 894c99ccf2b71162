-- When an attachment that is being scanned is to be tried next, and since when it has been.
alter table attachment add column scan_time timestamptz;
alter table attachment add column upload_time timestamptz;
create index attachment_to_scan on attachment (scan_time) where state = 3;

-- The reason of a message that was refused after it was accepted.
alter table message add column rejection text;
