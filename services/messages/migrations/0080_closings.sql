-- Why a mailbox is closed: 1 its owner's word, 2 death, 3 dissolution, 4 a decision; 0 while it is not, and before this.
alter table mailbox
    add column close_reason smallint not null default 0,
    add column close_reference text not null default '',
    add column close_time timestamptz;
