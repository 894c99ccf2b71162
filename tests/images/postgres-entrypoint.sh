#!/bin/sh
# What Solmu relies on of the official image's entry point: it drops root, makes the cluster once, starts it once
# behind a socket, with the options given, for initialisation, and then becomes the server with them.
set -eu
if [ "$(id -u)" = 0 ]; then
    install -d -o postgres -g postgres -m 700 "$PGDATA"
    install -d -o postgres -g postgres -m 3775 /var/run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
mkdir -p "$PGDATA"
chmod 700 "$PGDATA"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username="${POSTGRES_USER:-postgres}" --auth="${POSTGRES_HOST_AUTH_METHOD:-reject}" \
        ${POSTGRES_INITDB_ARGS:-} > /dev/null
    printf '\nhost all all all %s\n' "${POSTGRES_HOST_AUTH_METHOD:-reject}" >> "$PGDATA/pg_hba.conf"
    (shift && pg_ctl -w -o "$* -c listen_addresses=''" start > /dev/null)
    psql --quiet --no-password --username="${POSTGRES_USER:-postgres}" --command='SELECT 1' > /dev/null
    pg_ctl -m fast -w stop > /dev/null
    echo 'PostgreSQL init process complete; ready for start up.'
fi
exec "$@"
