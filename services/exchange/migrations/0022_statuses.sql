-- What responders said last of the certificates of this node's keys, fetched ahead to be stapled.
create table own_status (
    certificate_sha256 bytea primary key,
    answer bytea not null default '',           -- an OCSPResponse that was verified; empty: none yet
    update_time timestamptz,                    -- thisUpdate
    end_time timestamptz,                       -- nextUpdate
    revoke_time timestamptz,
    refresh_time timestamptz not null,          -- when it is asked again
    failure text not null default ''            -- why the last try failed
);
