"""PostgreSQL of the embedded node: cluster, configuration, a role and a database per service.

It listens on the loopback interface only and takes only TLS 1.3 with a
certificate of the internal authority: `messages` logs in as `messages`, to the
database `messages`, with the certificate of `messages`, and nobody else does.
The superuser logs in with the certificate of `operator`. There are no
passwords, and no unix socket: its path could grow too long.

With SOLMU_POSTGRES_ADDRESS=host:port the node starts no PostgreSQL. That server
must then hold what `provision` makes here: for each service a role and a
database of its name, owned by the role, closed to the public; TLS with a
certificate for that host name from the node's internal authority
(`pki/internal/ca.pem`), and log-in by certificate, common name = role.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

import asyncpg

from deploy import files
from deploy.local import procfs
from deploy.local.child import bound_to_parent
from deploy.local.engines import Engine
from deploy.local.ports import LOOPBACK
from deploy.local.privileges import Account
from deploy.local.probes import accepts
from deploy.local.problems import NodeProblem
from services.runtime import mesh, tls

SUPERUSER = "postgres"
"""Log-in name of the superuser, open to the certificate of `operator` alone."""

INITDB_WITHIN = 120.0
"""Seconds; it takes under one on an idle disk, and syncs what it wrote."""

CONNECT_WITHIN = 5.0
"""Seconds for one attempt to connect."""

POOL = 12
"""Connections of one process of a service, and as many for tools; each costs memory."""

PROCESSES = 4
"""Of all services, for which a PostgreSQL of containers has connections."""

BUFFERS = 256
"""Megabytes of PostgreSQL's own cache in containers that may have 1 GiB."""

BUFFERS_SHARE, LEAST_BUFFERS, MOST_BUFFERS = 8, 64, 1024
"""On a machine of one's own the cache is an eighth of its memory, within these megabytes: pages that are not used cost
nothing, and what goes beyond is for the operator to say."""

DEATH_SIGNAL = signal.SIGQUIT
"""Immediate shutdown: without a last word to the disk, the journal has it all. Its children go with it."""

MIGRATED_FROM = "PG_VERSION"
"""The file of a cluster that tells the major version that made it."""

LOCAL_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
"""What PostgreSQL inherits; not the PG* variables, which would change its settings."""


class Cluster:
    """One PostgreSQL cluster in `folder`: the data, its configuration and its copy of the certificate."""

    def __init__(
        self,
        *,
        engine: Engine,
        account: Account,
        folder: Path,
        port: int,
        identity: tls.Files,
        operator: tls.Files,
        services: Iterable[str],
        buffers: int,
        processes: int = PROCESSES,
    ) -> None:
        """`buffers` are the megabytes of its own cache; `processes` those of all services together."""
        self._engine = engine
        self._account = account
        self._folder = folder
        self._port = port
        self._identity = identity
        self._operator = operator
        self._services = tuple(services)
        self._buffers = buffers
        self._processes = processes
        self.data = folder / "data"

    @property
    def command(self) -> list[str]:
        """How the server is started."""
        return [str(self._engine.program), "-D", str(self.data), "-c", f"config_file={self._folder}/postgresql.conf"]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the server and of initdb."""
        inherited = {name: os.environ[name] for name in LOCAL_ENVIRONMENT if name in os.environ}
        return {**inherited, "LC_ALL": "C.UTF-8", "TZ": "UTC", **self._engine.environment}

    async def prepare(self) -> None:
        """Makes the cluster if there is none, and writes its configuration; before every start. Raises NodeProblem."""
        self._end_survivors()
        self._check_major()
        if not self.data.exists():
            await self._initialise()
        self.write_identity()
        told = configuration(port=self._port, folder=self._folder, buffers=self._buffers, processes=self._processes)
        self._write("postgresql.conf", told)
        self._write("pg_hba.conf", host_based_authentication(self._services))
        self._write("pg_ident.conf", identity_map(self._services))
        self._account.own(self._folder)

    async def probe(self) -> None:
        """Takes in the superuser over TLS. Raises what asyncpg raises while it does not."""
        await accepts(self._port)
        connection = await self._connect()
        await connection.close()

    async def settle(self) -> None:
        """Makes what a service needs and is not there yet."""
        connection = await self._connect()
        try:
            await provision(connection, self._services)
        finally:
            await connection.close()

    def write_identity(self) -> None:
        """Copies the certificate to where PostgreSQL may read it. A running server reads it on SIGHUP."""
        self._write("server.key", self._identity.key.read_bytes())
        self._write("server.pem", self._identity.certificate.read_bytes())
        self._write("ca.pem", self._identity.authorities.read_bytes())

    async def _connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(
            host=LOOPBACK,
            port=self._port,
            user=SUPERUSER,
            database="postgres",
            ssl=tls.client_context(self._operator),
            timeout=CONNECT_WITHIN,
        )

    def _write(self, name: str, content: str | bytes) -> None:
        path = self._folder / name
        files.write(path, content)
        if self._account.uid is not None and self._account.gid is not None:
            os.chown(path, self._account.uid, self._account.gid)

    async def _initialise(self) -> None:
        """Runs initdb into a folder that gets its name when it is whole, so that half a cluster is never started."""
        draft = self._folder / "data.new"
        # As the account itself: the folder may belong to it already.
        script = 'rm -rf "$0" && exec "$@"'
        initdb = self._engine.program.parent / "initdb"
        arguments = [str(initdb), "-D", str(draft), "--username", SUPERUSER, "--auth=reject", "--data-checksums"]
        arguments += ["--encoding=UTF8", "--locale=C.UTF-8"]
        self._account.own(self._folder)
        process = await asyncio.create_subprocess_exec(
            *self._account.prefix,
            *("/bin/sh", "-c", script, str(draft), *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            cwd="/",
            preexec_fn=bound_to_parent(signal.SIGKILL),
            user=self._account.uid,
            group=self._account.gid,
            extra_groups=self._account.extra_groups,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), INITDB_WITHIN)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            raise NodeProblem(
                "PostgreSQL could not make its cluster",
                "mend what its last lines say, then run the same command again",
                log="\n".join(output.decode(errors="replace").splitlines()[-8:]),
            )
        draft.rename(self.data)

    def _check_major(self) -> None:
        try:
            made_by = (self.data / MIGRATED_FROM).read_text().strip()
        except FileNotFoundError:
            return
        major = self._engine.version.split(".")[0]
        if made_by != major:
            raise NodeProblem(
                f"the data in {self.data} was made by PostgreSQL {made_by}, and {self._engine.program} is {major}",
                f"name a PostgreSQL {made_by} with SOLMU_POSTGRES_BIN, "
                f"or move the data with pg_upgrade while the node is down",
            )

    def _end_survivors(self) -> None:
        """Ends what is left of a server whose main process was killed: a new one would refuse to start beside it.

        They stand in the data folder and are not children of ours any more.
        A lock file that names a process which is none of them is left over, too.
        """
        main = self._locked_by()
        survivors = [
            birth
            for pid in procfs.pids()
            if procfs.working_folder(pid) == self.data and (birth := procfs.Birth.of(pid)) is not None
        ]
        # The main process ends the others; those that lost theirs are ended one by one.
        for survivor in sorted(survivors, key=lambda birth: birth.pid != main):
            procfs.end(survivor, first=DEATH_SIGNAL, grace=5.0)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _locked_by(self) -> int | None:
        try:
            return int((self.data / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return None


def buffers_for(memory: int) -> int:
    """The megabytes of PostgreSQL's own cache on a machine with so many bytes of memory."""
    return min(max(memory // 1_048_576 // BUFFERS_SHARE, LEAST_BUFFERS), MOST_BUFFERS)


def configuration(*, port: int, folder: Path, buffers: int = BUFFERS, processes: int = PROCESSES) -> str:
    """postgresql.conf; `buffers` in megabytes, `processes` of all services.

    What is not named here stays at PostgreSQL's default.
    After a checkpoint each page that is written to goes whole into the journal
    once, so they are far apart; the journal may grow to `max_wal_size` for it.
    """
    return f"""\
# Written at each start of the node; changes here are lost.
listen_addresses = '{LOOPBACK}'
port = {port}
unix_socket_directories = ''
hba_file = {_quoted(folder / "pg_hba.conf")}
ident_file = {_quoted(folder / "pg_ident.conf")}
ssl = on
ssl_cert_file = {_quoted(folder / "server.pem")}
ssl_key_file = {_quoted(folder / "server.key")}
ssl_ca_file = {_quoted(folder / "ca.pem")}
ssl_min_protocol_version = 'TLSv1.3'
max_connections = {POOL * (processes + 1)}
shared_buffers = {buffers}MB
max_wal_size = 4GB
checkpoint_timeout = 15min
jit = off
log_timezone = 'UTC'
timezone = 'UTC'
lc_messages = 'C'
# Neither statements nor the values of a violated key: they hold personal data.
log_min_error_statement = panic
log_error_verbosity = terse
"""


def host_based_authentication(services: Iterable[str], *, source: str = f"{LOOPBACK}/32") -> str:
    """pg_hba.conf: by certificate, from `source`, a service to its own database only; all else is refused."""
    rows = [(SUPERUSER, "all"), *((service, service) for service in services)]
    rows.append((SUPERUSER, "replication"))  # a backup is a copy that PostgreSQL makes of itself
    lines = [f"hostssl {database} {role} {source} cert map=node" for role, database in rows]
    return "\n".join([*lines, "host all all all reject", ""])


def identity_map(services: Iterable[str]) -> str:
    """pg_ident.conf: which common name may log in as which role."""
    pairs = [(mesh.OPERATOR, SUPERUSER), *((service, service) for service in services)]
    return "".join(f"node {common_name} {role}\n" for common_name, role in pairs)


async def provision(connection: asyncpg.Connection, services: Iterable[str]) -> None:
    """Makes the roles and databases that are missing, and closes each database to all but its owner."""
    roles = {row[0] for row in await connection.fetch("SELECT rolname FROM pg_roles")}
    databases = {row[0] for row in await connection.fetch("SELECT datname FROM pg_database")}
    for service in services:
        if service not in roles:
            await connection.execute(f'CREATE ROLE "{service}" LOGIN')
        if service not in databases:
            await connection.execute(f'CREATE DATABASE "{service}" OWNER "{service}"')
        await connection.execute(f'REVOKE ALL ON DATABASE "{service}" FROM PUBLIC')
    await connection.execute("REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC")


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("\\", "\\\\").replace("'", "''") + "'"
