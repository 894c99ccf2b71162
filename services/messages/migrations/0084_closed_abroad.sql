-- On what ground, as its node says, the mailbox was closed in which the message waits; empty: it is not.
alter table passage add column mailbox_closed text not null default '';
