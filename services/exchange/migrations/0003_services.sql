-- Changes with every change of what follows, so that each process knows when its copy is old.
create table configuration (
    single boolean primary key default true check (single),
    revision bigint not null default 1
);

insert into configuration default values;

-- Services of the subsystems that this node serves.
create table service (
    identifier text primary key,                -- spelt with "/", with its version where it has one
    content bytea not null,                     -- serialised Service: what a client may set, and the endpoints
    description bytea,                          -- an OpenAPI document, as it was set
    description_type text not null default '',
    create_time timestamptz not null default clock_timestamp(),
    update_time timestamptz not null default clock_timestamp(),
    revision bigint not null default 1,
    request_id uuid unique
);

create table access_right (
    access_right_id uuid primary key,
    parent text not null,                       -- "services", "topics" or "inbox", a space, and the identifier
    content bytea not null,                     -- serialised AccessRight: what a client may set
    create_time timestamptz not null default clock_timestamp(),
    creator text not null
);

-- The same right given twice is one right.
create unique index access_right_once on access_right (parent, sha256(content));

create table local_group (
    subsystem text not null,
    code text not null,
    content bytea not null,                     -- serialised LocalGroup
    revision bigint not null default 1,
    primary key (subsystem, code)
);

-- What this node has to know of a subsystem beyond the directory.
create table hosting (
    subsystem text primary key,
    content bytea not null,                     -- serialised Hosting
    revision bigint not null default 1
);

-- Every revision of a policy: statements name them.
create table exchange_policy (
    policy_id text not null,
    revision bigint not null,
    content bytea not null,                     -- serialised ExchangePolicy: what a client may set
    current boolean not null default true,
    create_time timestamptz not null default clock_timestamp(),
    primary key (policy_id, revision)
);

create unique index exchange_policy_current on exchange_policy (policy_id) where current;

insert into exchange_policy (policy_id, revision, content) values ('default', 1, '');

create table maintenance (
    single boolean primary key default true check (single),
    content bytea not null                      -- serialised Maintenance
);
