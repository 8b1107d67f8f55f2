"""API keys with their roles, read from a file and compared in constant time; tickets for event streams.

Runs in: api.

    # NAME ROLE KEY
    dashboard submit  3f9c2b7e51d04a8896c1
    oncall    operate b4d0f7a95e2c4d71a3f8
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from killable.workers.errors import KillableError

Role = Literal["submit", "operate"]
ROLES: tuple[Role, ...] = get_args(Role)
KEY_CHARS_MIN = 16
"""Guessing 16 hexadecimal characters, at a billion guesses per second, takes centuries."""
KEY_CHARS_MAX = 256
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
KEY = re.compile(r"[!-~]+")
"""Visible ASCII, which can stand both in a header and in a line of the file."""
FILE_BYTES_MAX = 1 << 20
CONFIGURATION = 78
"""EX_CONFIG of sysexits.h."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One caller. Its name is the tenant of the jobs that it submits."""

    name: str
    role: Role
    key: str

    def __repr__(self) -> str:
        return f"<ApiKey {self.name} {self.role}>"  # without the key: reprs end up in logs


class KeysInvalid(KillableError):
    """The key file cannot be used; the fact `faults` has one sentence for each fault."""

    code = "configuration"
    exit_code = CONFIGURATION


def read_keys(path: str | os.PathLike[str]) -> tuple[ApiKey, ...]:
    """Return the keys in a file. Raise KeysInvalid with every fault; no message repeats a key."""
    faults: list[str] = []
    keys: list[ApiKey] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(_lines(Path(path)), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        found = list(_faults_of(words))
        if not found:
            key = ApiKey(words[0], "operate" if words[1] == "operate" else "submit", words[2])
            for what, value in (("name", f"name {key.name}"), ("key", f"key {key.key}")):
                if value in lines:
                    found.append(f"repeats the {what} of line {lines[value]}")
                lines.setdefault(value, number)
            keys.append(key)
        faults += [f"line {number} {fault}" for fault in found]
    if not keys and not faults:
        faults.append("it contains no key; a line is NAME ROLE KEY")
    if faults:
        raise _invalid(path, faults)
    return tuple(keys)


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _invalid(path, [f"it cannot be read: {(error.strerror or str(error)).lower()}"]) from error
    if mode & 0o077:
        raise _invalid(path, [f"other users can read or write it (mode {mode:04o}): chmod 600 {path}"])
    if len(content) > FILE_BYTES_MAX:
        raise _invalid(path, [f"it is longer than {FILE_BYTES_MAX} bytes"])
    try:
        return content.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _invalid(path, [f"line {line} has a character that is not ASCII"]) from error


def _faults_of(words: Sequence[str]) -> Iterator[str]:
    if len(words) != 3:
        yield f"has {len(words)} words, expected three: NAME ROLE KEY"
        return
    name, role, key = words
    if not NAME.fullmatch(name):
        yield "has a name with characters other than A-Z a-z 0-9 _ . - (64 at most)"
    if role not in ROLES:
        yield f"has an unknown role, expected {' or '.join(ROLES)}"
    if not KEY_CHARS_MIN <= len(key) <= KEY_CHARS_MAX or not KEY.fullmatch(key):
        yield (
            f"has a key of {len(key)} characters, expected {KEY_CHARS_MIN} to {KEY_CHARS_MAX} visible ones "
            "(openssl rand -hex 16 makes one)"
        )


def _invalid(path: str | os.PathLike[str], faults: list[str]) -> KeysInvalid:
    first, *others = faults
    more = f" (and {len(others)} more: {'; '.join(others)})" if others else ""
    return KeysInvalid(f"API keys in {os.fspath(path)}: {first}{more}", faults=faults)


class KeyRing:
    """The keys of one server."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        # Digests have equal lengths. With keys, the time of compare_digest would reveal their lengths.
        self._keys = tuple((_digest(key.key.encode()), key) for key in keys)

    def find(self, presented: bytes) -> ApiKey | None:
        """Return the matching key, or None. The time does not depend on which key matches, or on whether one does."""
        digest, found = _digest(presented), None
        for known, key in self._keys:
            if hmac.compare_digest(known, digest):
                found = key
        return found


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class Tickets:
    """Issues permissions to read one job's stream, for clients that cannot send headers (EventSource).

    A ticket is an HMAC over the job id with a secret of this instance, so it expires with the server.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def issue(self, job_id: str) -> str:
        return hmac.new(self._secret, job_id.encode(), hashlib.sha256).hexdigest()

    def is_valid(self, job_id: str, ticket: str) -> bool:
        return hmac.compare_digest(self.issue(job_id).encode(), ticket.encode("utf-8", "replace"))
