"""The user and the group that a pool's workers run as, from the machine's user database.

Runs in: supervisor. Behind `ports`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from killable.workers.named_tuples import NamedTuple

if TYPE_CHECKING:
    import pwd


class AccountError(OSError):
    """There is no such user or group, or this process may not become it. `key` is the wrong setting, user or group."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(why)
        self.key = key


class UserAccount(NamedTuple):
    """The numbers of an account for the kernel, and the environment variables that a login would set."""

    uid: int
    gid: int
    groups: list[int]
    environment: dict[str, str]


def account(user: str | int, group: str | int) -> UserAccount | None:
    """Return the account that workers run as; None: that of this process. Raise AccountError.

    Either may be a name, a number or empty: the user of this process, the user's own group. A number need not be in the
    database; it has no other groups then.
    """
    if user == "" and group == "":
        return None
    if os.geteuid() != 0:
        raise AccountError("group" if user == "" else "user", "only root can start workers as another user")
    job = _user(os.geteuid() if user == "" else user)
    if group != "":
        gid = _group(group)
    elif job is not None:
        gid = job.pw_gid
    else:
        raise AccountError("user", "it is not in the user database, so a group must be set too")
    if job is None:
        return UserAccount(int(user), gid, [], {})
    login = {"HOME": job.pw_dir, "USER": job.pw_name, "LOGNAME": job.pw_name}
    return UserAccount(job.pw_uid, gid, os.getgrouplist(job.pw_name, gid), login)


def _user(user: str | int) -> pwd.struct_passwd | None:
    """Return the database entry of a user; None for a number that has none."""
    import pwd  # not on Windows, where the command line is used too

    try:
        return pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except KeyError:
        if isinstance(user, int):
            return None
        raise AccountError("user", "there is no such user") from None


def _group(group: str | int) -> int:
    import grp

    try:
        return group if isinstance(group, int) else grp.getgrnam(group).gr_gid
    except KeyError:
        raise AccountError("group", "there is no such group") from None
