-- The digest of a document that can be guessed tells whose it is, so it is sealed as the file's name is (digests.py).
-- sha256 is empty from now on: what is left in it is sealed by the processes, and a later release drops the column.
alter table attachment
    add column digest bytea,
    alter column sha256 set default '';
create index attachment_plain_digest on attachment (attachment_id) where sha256 <> '';
