-- Log-ins under way, from the client's pushed request to the use of the code. Secrets are kept as hashes only.
create table log_in (
    log_in         uuid        primary key,
    client_id      text collate "C" not null,
    provider       text        not null,
    redirect_uri   text        not null,
    scope          text        not null,
    client_state   text        not null,
    code_challenge text        not null,
    acr_values     text        not null,
    ui_locales     text        not null,
    prompt         text        not null,
    -- Of whichever comes next: the request's reference, the state, the code.
    expire_time    timestamptz not null,
    request_sha256 bytea       not null unique,
    start_time     timestamptz,
    state_sha256   bytea       unique,
    browser_sha256 bytea,
    finish_time    timestamptz,
    code_sha256    bytea       unique,
    party          text,
    acr            text,
    auth_time      bigint,
    provider_until bigint,
    token_id       text
);
create index log_in_expiry on log_in (expire_time);
