-- How clients prove themselves beside their certificate.
alter table client
    add column authentication text not null default 'tls_client_auth',
    add column jwks           text not null default '';

-- Client assertions that were used: each works once, until it would have expired anyway.
create table used_assertion (
    client_id   text collate "C" not null,
    jti_sha256  bytea            not null,
    expire_time timestamptz      not null,
    primary key (client_id, jti_sha256)
);
create index used_assertion_expiry on used_assertion (expire_time);

-- Tokens that were exchanged from others: who takes one back takes back what came of it.
create table exchanged_token (
    token_id    text        primary key,
    origin_id   text        not null,
    expire_time timestamptz not null
);
create index exchanged_token_origin on exchanged_token (origin_id);
create index exchanged_token_expiry on exchanged_token (expire_time);
