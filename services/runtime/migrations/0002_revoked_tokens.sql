-- Access tokens that are refused, though they have not expired.
create table revoked_token (
    token_id     text        primary key,
    expire_time  timestamptz not null
);
create index revoked_token_expiry on revoked_token (expire_time);
