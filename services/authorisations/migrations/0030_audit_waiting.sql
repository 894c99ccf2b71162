-- Entries of the record that are not in the chain yet, so that chaining costs the same however long the record is.
-- A trigger notes them, whichever release recorded them.
create table audit_waiting (
    record uuid primary key
);

create function note_waiting() returns trigger language plpgsql as $$
begin
    insert into audit_waiting select record from fresh;
    return null;
end $$;
create trigger waits_for_chain after insert on audit_record
    referencing new table as fresh for each statement execute function note_waiting();

insert into audit_waiting
    select record from audit_record
     where not exists (select from audit_link where audit_link.record = audit_record.record)
    on conflict do nothing;
