-- The keys that wrap the service's data keys. They are kept wrapped: by each root that may open them.
create table service_key (
    generation   integer     primary key,
    create_time  timestamptz not null default now()
);
create table service_key_wrapping (
    generation   integer     not null references service_key,
    root         text        not null,
    wrapped      bytea       not null,
    create_time  timestamptz not null default now(),
    primary key (generation, root)
);
-- Where the file of the root key has wrapped data keys itself until now, it is the first of the service's keys.
insert into service_key (generation)
    select 0 where exists (select from schema_migration where name not like 'runtime/%');
