-- That the entry of a link is there is sure without looking: the chain is made of entries that were read, and none can
-- be deleted. The look-up was a lock and a write on the entry's row for each link.
alter table audit_link drop constraint audit_link_record_fkey;
