-- Themes about which a client may ask, as names `themes/{theme}`; none for all.
alter table client add column themes text[] not null default '{}';
