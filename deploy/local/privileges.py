"""As whom PostgreSQL runs: it refuses root, and a user that the machine does not know.

    who starts the node             whom PostgreSQL runs as
    a user of the machine           that user
    root                            the owner of the data; else `postgres`; else `nobody`
    root, files that those cannot   a user namespace in which root is called `nobody`
      reach (a clone below /root)
    a number without a user         the same namespace

Each way is tried with the real program and folder before it is taken.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.local.problems import NodeProblem

NAMELESS = 65534
"""The user `nobody` of every Linux: the number into which the namespace maps whoever made it."""

TRIAL_WITHIN = 10.0
"""Seconds for a trial: a shell and `postgres --version`."""


@dataclass(frozen=True)
class Account:
    """A way to run a program: as another user, behind a prefix, or (the default) as we are."""

    uid: int | None = None
    gid: int | None = None
    prefix: tuple[str, ...] = ()

    @property
    def extra_groups(self) -> list[int] | None:
        """As subprocess wants it: none beside the user's own, where it becomes another."""
        return None if self.uid is None else []

    def own(self, folder: Path) -> None:
        """Gives `folder` and all in it to this account, if it belongs to another. Needs root where it does."""
        uid = os.geteuid() if self.uid is None else self.uid
        gid = os.getegid() if self.gid is None else self.gid
        if folder.stat().st_uid == uid:
            return
        for parent, folders, names in os.walk(folder):
            for name in (*folders, *names):
                os.chown(Path(parent) / name, uid, gid, follow_symlinks=False)
        os.chown(folder, uid, gid)  # last: whose it is tells whether this ran to its end


SELF = Account()


def namespace(death_signal: str) -> Account:
    """The caller under another name, in a user namespace of its own.

    Entering it clears the signal that the parent's death would send (prctl(2),
    PR_SET_PDEATHSIG), so setpriv sets it again inside.
    """
    enter = ("unshare", "--user", f"--map-user={NAMELESS}", f"--map-group={NAMELESS}")
    return Account(prefix=(*enter, "setpriv", "--pdeathsig", death_signal))


def for_postgres(program: Path, data: Path, *, death_signal: str) -> Account:
    """The first way in which `program` runs and can enter the existing folder `data`. Raises NodeProblem.

    `data` is what PostgreSQL will own; its owner has the first claim.
    """
    failures = []
    for name, account in _ways(data, death_signal):
        failure = _trial(account, program, data)
        if failure is None:
            return account
        failures.append(f"{name}: {failure}")
    raise NodeProblem(
        f"there is no user as whom PostgreSQL could run from {data}",
        "start the node as an ordinary user, or make the clone and the state folder reachable for the user "
        "`postgres` (not below /root), or allow user namespaces and install util-linux",
        log="\n".join(failures),
    )


def _ways(data: Path, death_signal: str) -> Iterator[tuple[str, Account]]:
    in_namespace = ("in a user namespace", namespace(death_signal))
    if os.geteuid() != 0:
        if _known(os.geteuid()):
            yield "as the user who starts the node", SELF
        yield in_namespace
        return
    owner = data.stat().st_uid
    in_use = next(data.iterdir(), None) is not None
    if owner != 0:
        yield from _users(owner)
    elif in_use:
        yield in_namespace
    yield from _users("postgres", "nobody")
    yield in_namespace


def _users(*users: str | int) -> Iterator[tuple[str, Account]]:
    for user in users:
        try:
            entry = pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
        except KeyError:
            continue
        yield f"as {entry.pw_name}", Account(uid=entry.pw_uid, gid=entry.pw_gid)


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _trial(account: Account, program: Path, data: Path) -> str | None:
    """Why it does not work this way; None where it does. Leaves `data` to whom it belongs."""
    if account.prefix and shutil.which(account.prefix[0]) is None:
        return f"{account.prefix[0]} is not installed"
    # The folder itself may still be another's: what has to be open is the way to it.
    script = 'cd "$0" && exec "$1" --version'
    try:
        done = subprocess.run(
            [*account.prefix, "/bin/sh", "-c", script, str(data.parent), str(program)],
            capture_output=True,
            text=True,
            timeout=TRIAL_WITHIN,
            check=False,
            cwd="/",
            user=account.uid,
            group=account.gid,
            extra_groups=account.extra_groups,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr.strip() or f"exit status {done.returncode}")
