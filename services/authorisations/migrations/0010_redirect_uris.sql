-- Where people may be sent after a log-in that a client began.
alter table client add column redirect_uris text[] not null default '{}';
