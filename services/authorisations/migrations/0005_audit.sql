-- The record of decisions and changes: append-only, as this service's own role is held to as well.
create table audit_record (
    record      uuid        primary key,
    record_time timestamptz not null,
    kind        smallint    not null,
    client      text        not null,
    resource    text        not null,
    parties     text[]      not null,
    content     bytea       not null
);
create index audit_record_parties on audit_record using gin (parties);

-- The chain over it. Entries are recorded at once and chained a moment later, so that decisions do not wait for one
-- another; what is recorded is what is chained, or the chain does not verify.
create table audit_link (
    sequence      bigint primary key,
    record        uuid   not null unique references audit_record,
    previous_hash bytea  not null,
    hash          bytea  not null
);

-- Signed heads of the chain.
create table audit_head (
    head      uuid        primary key,
    sequence  bigint      not null references audit_link,
    hash      bytea       not null,
    sign_time timestamptz not null,
    jws       text        not null
);

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'the audit record is append-only';
end $$;
create trigger append_only before update or delete or truncate on audit_record
    for each statement execute function refuse_change();
create trigger append_only before update or delete or truncate on audit_link
    for each statement execute function refuse_change();
create trigger append_only before update or delete or truncate on audit_head
    for each statement execute function refuse_change();
