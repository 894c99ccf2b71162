-- Clients: the information systems that may get tokens. A row is never deleted:
-- a revoked client's id and URI stay taken.
create table client (
    client_id       text collate "C" primary key,
    display_name    text        not null,
    party           text        not null,
    scopes          text[]      not null,
    certificate_uri text        not null constraint client_certificate_uri unique,
    create_time     timestamptz not null,
    update_time     timestamptz not null,
    revoke_time     timestamptz,
    revision        bigint      not null
);
