-- The meshes that this node takes part in: its own, and those with which that one is federated.
create table mesh (
    instance text primary key,
    own boolean not null,
    node text not null,                         -- this node's identifier, spelt with "/"; of the own mesh only
    first_anchor bytea not null,                -- serialised SignedDocument, with which it was joined
    directory bytea,                            -- serialised SignedDocument; null: awaited
    version bigint not null default 0,          -- of the directory; the highest that was ever taken
    refresh_time timestamptz,
    refresh_failure text not null default '',
    change_time timestamptz not null default clock_timestamp()
);

create unique index mesh_own on mesh (own) where own;

create table anchor (
    instance text not null references mesh on delete cascade,
    version bigint not null,
    signed bytea not null,                      -- serialised SignedDocument
    primary key (instance, version)
);

-- Parts of directories by their digest; those that no directory names are swept.
create table directory_part (
    sha256 bytea primary key,
    content bytea not null
);

-- What the publisher's node works on: the directory as it is to be.
create table publication (
    instance text primary key references mesh on delete cascade,
    lifetime interval not null,
    parameters bytea not null,                  -- serialised MeshParameters
    changed boolean not null default false      -- whether something waits for the next directory
);

create table draft_entry (
    instance text not null references publication on delete cascade,
    kind smallint not null,                     -- 1 member, 2 subsystem, 3 node, 4 global group, 5 trust service, 6 federation
    identifier text not null,
    content bytea not null,
    primary key (instance, kind, identifier)
);

create table pending_anchor (
    instance text not null references publication on delete cascade,
    version bigint not null,
    signed bytea not null,
    effect_time timestamptz,
    primary key (instance, version)
);

create table registration (
    registration_id uuid primary key,           -- the document's request_id
    instance text not null,
    own boolean not null,                       -- this node asked
    applicant text not null,                    -- the node that asked, to the publisher; empty for a newcomer
    document bytea not null,                    -- serialised SignedDocument
    state smallint not null,
    rejection text not null default '',
    create_time timestamptz not null default clock_timestamp(),
    decide_time timestamptz,
    directory_version bigint not null default 0,
    revision bigint not null default 1
);

create index registration_state on registration (state);

-- Keys of this node and of the members that it serves. A private key never leaves its token.
create table organisation_key (
    organisation_key_id uuid primary key,
    use smallint not null,
    holder text not null,
    algorithm smallint not null,
    token text not null,
    batch boolean not null,
    state smallint not null,
    public_key bytea not null,                  -- SubjectPublicKeyInfo, DER
    private_key bytea not null,                 -- sealed; empty once destroyed, or in a token
    data_key bytea not null,                    -- wrapped
    certificate bytea not null default '',
    create_time timestamptz not null default clock_timestamp(),
    activate_time timestamptz,
    retire_time timestamptz,
    revision bigint not null default 1,
    request_id uuid unique
);

create index organisation_key_active on organisation_key (use, holder) where state = 4;
