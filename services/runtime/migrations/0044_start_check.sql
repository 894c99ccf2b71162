-- What the process that started first found, by which the next ones know whether database, keys and node belong together.
create table start_check (
    what         text        primary key,
    value        text        not null,
    create_time  timestamptz not null default now()
);
