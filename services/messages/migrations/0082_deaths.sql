-- The register's record of the owner's death, also of one whose mailbox was closed before or never opened; empty: none.
alter table mailbox add column death_record text not null default '';
