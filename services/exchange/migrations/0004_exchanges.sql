-- The subsystem that an identifier of a service begins with.
create function subsystem_of(service text) returns text language sql immutable strict parallel safe as $$
    select array_to_string((string_to_array(service, '/'))[1:4], '/')
$$;

create index exchange_provider on exchange (subsystem_of(service), start_time);
create index exchange_start on exchange (consumer, start_time);
