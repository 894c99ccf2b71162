-- Templates of messages; a version once made never changes.
create table template (
    unit_id     text        not null references unit,
    template_id text        not null,
    version     integer     not null,
    bodies      bytea       not null,
    create_time timestamptz not null,
    primary key (unit_id, template_id, version)
);
