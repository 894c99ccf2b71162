-- needs: authorisations/0030_audit_waiting.sql
-- That the entry of a link is there is sure without looking: the chain is made of entries that were read, and none can
-- be deleted. The look-up was a lock and a write on the entry's row for each link. Releases that have the key lose a
-- check by this, and nothing that they use.
alter table audit_link drop constraint if exists audit_link_record_fkey;
