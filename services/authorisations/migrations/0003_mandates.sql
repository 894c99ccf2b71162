-- Revisions of the facts. The one row of `fact_head` is updated first in every
-- transaction that writes facts, and held to its end: revisions are given in
-- the order of the commits, without gaps.
create table fact_head (
    only_row    boolean     primary key default true check (only_row),
    epoch       bytea       not null check (length(epoch) = 8),
    revision    bigint      not null,
    commit_time timestamptz not null
);
-- A node restored from a copy must get another epoch:
--     update fact_head set epoch = substr(sha256(gen_random_uuid()::text::bytea), 1, 8)
insert into fact_head (epoch, revision, commit_time)
    values (substr(sha256(gen_random_uuid()::text::bytea), 1, 8), 0, now());

-- What each revision changed, as `WatchResponse` with `changes`, in parts.
create table fact_change (
    revision    bigint      not null,
    part        integer     not null,
    content     bytea       not null,
    commit_time timestamptz not null,
    primary key (revision, part)
);

create table theme (
    theme_id      text collate "C" primary key,
    uri           text        not null constraint theme_uri unique,
    owner         text        not null,
    document      bytea       not null,
    state         smallint    not null,
    create_time   timestamptz not null,
    update_time   timestamptz not null,
    activate_time timestamptz,
    revision      bigint      not null
);

-- Every mandate that was asked for. Rows are not deleted.
-- `stored` is the state but for the clock (State in mandates.py).
create table mandate (
    mandate_id    uuid        primary key,
    kind          smallint    not null,
    principal     text collate "C" not null,
    delegate      text collate "C" not null,
    theme_id      text collate "C" not null references theme,
    specifier     text        not null,
    first_day     date        not null,
    last_day      date        not null,
    start_time    timestamptz not null,
    end_time      timestamptz not null,
    stored        smallint    not null,
    rule          jsonb       not null,
    confirmers    text[]      not null,
    confirm_until timestamptz not null,
    requested_by  jsonb       not null,
    group_id      uuid        not null,
    create_time   timestamptz not null,
    update_time   timestamptz not null,
    confirmations jsonb       not null,
    confirm_time  timestamptz,
    ending        jsonb,
    issued_under  uuid references mandate,
    renews        uuid references mandate,
    revision      bigint      not null,
    -- When it gives its right, half-open; null where it never did. What checks read.
    held_from     timestamptz,
    held_until    timestamptz
);
create index mandate_delegate on mandate (delegate, principal, theme_id, kind);
create index mandate_principal on mandate (principal, delegate, theme_id, kind);
create index mandate_represents on mandate (delegate, theme_id) where kind = 2 and held_from is not null;
create index mandate_confirmers on mandate using gin (confirmers) where stored in (1, 2);
create index mandate_issued on mandate (issued_under) where issued_under is not null;

-- What happened to each mandate, in order.
create table mandate_event (
    mandate_id uuid        not null references mandate,
    number     integer     not null,
    happening  smallint    not null,
    time       timestamptz not null,
    state      smallint    not null,
    actor      jsonb,
    renewed_by uuid,
    ending     jsonb,
    primary key (mandate_id, number)
);

-- First results of creations, by the caller's party and request id.
create table mandate_request (
    party      text        not null,
    request_id uuid        not null,
    digest     bytea       not null,
    mandates   uuid[]      not null,
    primary key (party, request_id)
);
