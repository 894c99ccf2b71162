-- The content of an attachment is a blob, which attachments of one owner with the same content share.
alter table attachment
    -- Whose blob it is: the attachment under whose id it lies. Null: its own.
    add column blob_id      uuid,
    -- The key of a blob of another's, wrapped as that one's. Null: its own data_key.
    add column blob_key     bytea,
    -- Keyed digest of owner and content: equal for equal content of one owner, and telling nothing without the key.
    add column address      bytea,
    -- Who uploads at the moment, and until when nobody else may.
    add column upload_id    uuid,
    add column upload_until timestamptz;
create index attachment_by_address on attachment (address) where address is not null;
create index attachment_of_blob on attachment (blob_id) where blob_id is not null;

-- Blobs that may have lost their last attachment: looked at from a time on, and deleted where nobody has them.
create table left_blob (
    blob_id uuid        primary key,
    time    timestamptz not null
);
