"""A text file of secrets, which only its owner may read or change: API keys, secrets of webhooks.

Runs in: api, and the command.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import TypeVar

from killable.workers.errors import KillableError

FILE_BYTES_MAX = 1 << 20
CONFIGURATION = 78
"""EX_CONFIG of sysexits.h."""

Invalid = TypeVar("Invalid", bound=KillableError)


def lines_of(path: str | os.PathLike[str], *, of_any_owner: bool = False) -> list[str]:
    """Return its lines. Raise ValueError with what is wrong with it.

    `of_any_owner`: root looks after the secrets of a service, as whose user it does not run.
    """
    try:
        # A FIFO without a writer would block here, and with it the server.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            content = file.read(FILE_BYTES_MAX + 1) if stat.S_ISREG(found.st_mode) else b""
    except OSError as error:
        raise ValueError(f"it cannot be read: {(error.strerror or str(error)).lower()}") from error
    _check_access(path, found, of_any_owner=of_any_owner and os.geteuid() == 0)
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"it is longer than {FILE_BYTES_MAX} bytes")
    try:
        return content.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line} has a character that is not ASCII") from error


def _check_access(path: str | os.PathLike[str], found: os.stat_result, *, of_any_owner: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is not a regular file")
    if found.st_uid not in (os.geteuid(), 0) and not of_any_owner:
        why = f"it belongs to user {found.st_uid}, who could change it, and this is user {os.geteuid()}"
        # Root often looks at a service that has a user of its own, which could not read a file of root's.
        advice = (
            "" if os.geteuid() else f"run this as that user (sudo -u '#{found.st_uid}'), or, if the server is root's, "
        )
        raise ValueError(f"{why}: {advice}chown {os.geteuid()} {os.fspath(path)}")
    if (mode := stat.S_IMODE(found.st_mode)) & 0o077:
        raise ValueError(f"other users can read or write it (mode {mode:04o}): chmod 600 {os.fspath(path)}")


def invalid(kind: type[Invalid], what: str, path: str | os.PathLike[str], faults: Sequence[str]) -> Invalid:
    """Return the error for a file that cannot be used. Its message has the first fault, and says what the others are;
    its fact `faults` is a sentence for each.
    """
    first, *others = faults
    more = f" (and {len(others)} more: {'; '.join(others)})" if others else ""
    return kind(f"{what} in {os.fspath(path)}: {first}{more}", faults=list(faults))
