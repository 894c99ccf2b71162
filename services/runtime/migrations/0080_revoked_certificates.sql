-- Client certificates that an edge found on its revocation lists. Rows stay, so that
-- an edge that starts anew and reports its lists does not report them as news.
create table revoked_certificate (
    serial_number  text        primary key,
    report_time    timestamptz not null
);
create index revoked_certificate_time on revoked_certificate (report_time);
