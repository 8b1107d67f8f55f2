"""The file of API keys: read whole or not at all, and rewritten in one step.

Runs in: api, and the command.

    # NAME ROLE KEY, and what else there is to say of it
    dashboard submit  sha256:9f86d0818… created=2026-11-30T08:00:00Z expires=2026-12-30T08:00:00Z visibility=own
    oncall    operate b4d0f7a95e2c4d71a3f8

`killable keys make` keeps the digest of a key. A key that a person has written is there in clear text.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from killable.api.http.api_keys import KEY, KEY_CHARS_MAX, KEY_CHARS_MIN, ApiKey, new_key
from killable.api.http.owner_only_file import CONFIGURATION, invalid, lines_of
from killable.api.http.route_roles import ROLES, VISIBILITIES, Role, Visibility
from killable.supervisor.models import DEFAULT_TENANT
from killable.workers.errors import KillableError

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
HEADER = "# Keys of killable: NAME ROLE KEY. `killable keys` adds and removes them."


class KeysInvalid(KillableError):
    """The key file cannot be used; the fact `faults` has one sentence for each fault."""

    code = "configuration"
    exit_code = CONFIGURATION


# ── reading ──


def read_keys(
    path: str | os.PathLike[str], *, may_be_empty: bool = False, of_any_owner: bool = False
) -> tuple[ApiKey, ...]:
    """Return the keys in a file. Raise KeysInvalid with every fault; no message repeats a key.

    `may_be_empty`: of a server that runs with keys, and whose last key was revoked.
    """
    return _parsed(path, _lines(path, of_any_owner=of_any_owner), may_be_empty)


def _parsed(path: str | os.PathLike[str], lines: Sequence[str], may_be_empty: bool) -> tuple[ApiKey, ...]:
    faults: list[str] = []
    keys: list[ApiKey] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        words = _words(line)
        if not words:
            continue
        found = list(_faults_of(words))
        if not found:
            key = _key_of(words)
            for what, value in (("name", f"name {key.name}"), ("key", f"key {key.sha256}")):
                if value in seen:
                    found.append(f"repeats the {what} of line {seen[value]}")
                seen.setdefault(value, number)
            keys.append(key)
        faults += [f"line {number} {fault}" for fault in found]
    if not keys and not faults and not may_be_empty:
        faults.append("it contains no key; a line is NAME ROLE KEY (`killable keys make` adds one)")
    if faults:
        raise _invalid(path, faults)
    return tuple(keys)


def _words(line: str) -> list[str]:
    words = line.split()
    return [] if not words or words[0].startswith("#") else words


def _lines(path: str | os.PathLike[str], *, of_any_owner: bool = False) -> list[str]:
    try:
        return lines_of(path, of_any_owner=of_any_owner)
    except ValueError as error:
        raise _invalid(path, [str(error)]) from error


def _key_of(words: Sequence[str]) -> ApiKey:
    """Return the key of a line without faults."""
    name, role, key, *options = words
    members: dict[str, Any] = dict(option.split("=", 1) for option in options)
    digest = DIGEST.fullmatch(key)
    members |= {"sha256": digest[1]} if digest else {"key": key}
    return ApiKey(name, next(each for each in ROLES if each == role), **members)


def _faults_of(words: Sequence[str]) -> Iterator[str]:
    if len(words) < 3:
        yield f"has {len(words)} words, expected three or more: NAME ROLE KEY"
        return
    name, role, key, *options = words
    if not NAME.fullmatch(name):
        yield "has a name with characters other than A-Z a-z 0-9 _ . - (64 at most)"
    if role not in ROLES:
        yield f"has an unknown role, expected {', '.join(ROLES[:-1])} or {ROLES[-1]}"
    if key.startswith("sha256:") and not DIGEST.fullmatch(key):
        yield "has a digest that is not sha256: and 64 hexadecimal digits"
    elif not KEY_CHARS_MIN <= len(key) <= KEY_CHARS_MAX or not KEY.fullmatch(key):
        yield (
            f"has a key of {len(key)} characters, expected {KEY_CHARS_MIN} to {KEY_CHARS_MAX} visible ones "
            "(`killable keys make` makes one)"
        )
    names = [option.partition("=")[0] for option in options]
    if len(set(names)) < len(names):
        yield "says something twice after the key"
    for option in options:
        yield from _faults_of_option(*option.partition("="))


def _faults_of_option(name: str, _: str, value: str) -> Iterator[str]:
    match name:
        case "created" | "expires":
            if not _is_time(value):
                yield f"has a time in {name}= that is not like 2026-12-30T08:00:00Z"
        case "visibility":
            if value not in VISIBILITIES:
                yield f"has an unknown visibility, expected {' or '.join(VISIBILITIES)}"
        case _:
            yield "has more after its key than created=, expires= and visibility="


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _invalid(path: str | os.PathLike[str], faults: list[str]) -> KeysInvalid:
    return invalid(KeysInvalid, "API keys", path, faults)


# ── writing ──


def make_key(
    path: str | os.PathLike[str], name: str, role: Role, *, visibility: Visibility | None, lasts_s: float | None,
    now: float,
) -> tuple[ApiKey, str]:  # fmt: skip
    """Add a key and return what the file has of it, and the key itself, which nothing keeps. `now`: the time of day.

    Creates the file. Raise KeysInvalid for a file or a name that cannot be used, or a name that is there.
    """
    secret = new_key()
    digest = ApiKey(name, role, secret).sha256
    expires = "" if lasts_s is None else _time(now + lasts_s)
    key = ApiKey(name, role, sha256=digest, visibility=visibility, created=_time(now), expires=expires)

    def add(lines: list[str]) -> list[str]:
        if not NAME.fullmatch(name):
            raise _invalid(path, ["a name has 1 to 64 characters of A-Z a-z 0-9 _ . -"])
        if name == DEFAULT_TENANT:
            raise _invalid(path, [f"{name} is the tenant of requests without a key; choose another name"])
        if any(each.name == name for each in _parsed(path, lines, may_be_empty=True)):
            raise _invalid(path, [f"there is a key named {name}; revoke it first, or choose another name"])
        return [*(lines or [HEADER]), _line(key)]

    _rewrite(path, add, creates=True)
    return key, secret


def revoke_key(path: str | os.PathLike[str], name: str) -> ApiKey:
    """Remove a key and return it. Other lines stay as they are. Raise KeysInvalid if there is none of this name."""
    gone: list[ApiKey] = []

    def remove(lines: list[str]) -> list[str]:
        gone.extend(key for key in _parsed(path, lines, may_be_empty=True) if key.name == name)
        if not gone:
            raise _invalid(path, [f"there is no key named {name}"])
        return [line for line in lines if _words(line)[:1] != [name]]

    _rewrite(path, remove)
    return gone[0]


def _line(key: ApiKey) -> str:
    options = {"created": key.created, "expires": key.expires, "visibility": key.visibility}
    told = (f"{name}={value}" for name, value in options.items() if value)
    return " ".join((key.name, key.role, f"sha256:{key.sha256}", *told))


def _time(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).isoformat().replace("+00:00", "Z")


def _rewrite(path: str | os.PathLike[str], change: Callable[[list[str]], list[str]], *, creates: bool = False) -> None:
    """Replace the lines of a file in one step: a reader finds the old ones or the new ones. Raise KeysInvalid."""
    # Where the file is a symbolic link, the file behind it is replaced, and not the link.
    real = Path(os.path.realpath(path))
    try:
        with _locked(real.parent):
            is_new = creates and not os.path.lexists(real)
            lines = change([] if is_new else _lines(real, of_any_owner=True))
            text = "".join(f"{line}\n" for line in lines)
            descriptor, temporary = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)  # mode 0600
            try:
                with open(descriptor, "w", encoding="ascii") as file:
                    file.write(text)
                    file.flush()
                    if not is_new or os.geteuid() == 0:
                        _give_to_owner_of(real.parent if is_new else real, file.fileno())
                    os.fsync(file.fileno())
                os.replace(temporary, real)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
    except OSError as error:
        raise _invalid(path, [f"it cannot be written: {(error.strerror or str(error)).lower()}"]) from error


def _give_to_owner_of(path: Path, descriptor: int) -> None:
    """Let root's file belong to the user of the service, as it did before, or as the folder does: else the service
    could not read it.
    """
    before = path.stat()
    if before.st_uid != os.geteuid():
        os.fchown(descriptor, before.st_uid, before.st_gid)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder: of two that rewrite a file in it, the second one sees what the first one wrote."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
