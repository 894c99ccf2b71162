-- What officers propose and decide. Rows are not deleted.
-- `stored` is the state but for the clock (State in proposals.py); `change` is a Proposal of the contract with its
-- change alone, parties by name.
create table proposal (
    proposal_id uuid        primary key,
    change      bytea       not null,
    purpose     text        not null,
    stored      smallint    not null,
    proposed_by jsonb       not null,
    create_time timestamptz not null,
    expire_time timestamptz not null,
    decided_by  jsonb,
    decide_time timestamptz,
    result      text        not null,
    token       text        not null,
    revision    bigint      not null,
    -- The creation, by the officer and request id, so that a repeat is known.
    officer     text        not null,
    request_id  uuid        not null,
    digest      bytea       not null,
    unique (officer, request_id)
);

-- Blocks that officers place stand beside those of registers, so that whoever asks for blocks finds both. They belong
-- to this register without a name, which nobody can read, change or import into.
insert into register (register_id, display_name, importer, contents, create_time, revision)
    values ('', '', '', array['block'], now(), 1);
