"""Which variables of the server's environment the processes of a pool get.

Runs in: supervisor. Behind `ports`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

_SECRET_NAME = re.compile(
    r"(^|_)(KEY|KEYS|TOKEN|TOKENS|AUTH|CREDENTIALS?|DSN|PWD|PAT)(_|$)|SECRET|PASSW|PASSPHRASE|APIKEY", re.IGNORECASE
)
_NO_SECRETS = frozenset({"PWD", "OLDPWD"})
_SECRET_VALUE = re.compile(r"://[^/\s:@]*:[^/\s@]+@")
"""A URL with a password."""


def inherited(environ: Mapping[str, str], allowed: Sequence[str] | None) -> dict[str, str]:
    """Return what a pool inherits. `allowed` has names and patterns with `*`; None: everything.

    A pattern never matches what looks like a secret, by its name or as a URL with a password: that has to be named.
    """
    if allowed is None:
        return dict(environ)
    return {name: value for name, value in environ.items() if _is_allowed(name, value, allowed)}


def withheld(environ: Mapping[str, str], allowed: Sequence[str] | None) -> list[str]:
    """Return the names of the variables that look like secrets, and that the patterns would match otherwise."""
    given = inherited(environ, allowed)
    return sorted(
        name for name, value in environ.items()
        if name not in given and _looks_secret(name, value) and any(fnmatchcase(name, each) for each in allowed or ())
    )  # fmt: skip


def _is_allowed(name: str, value: str, allowed: Sequence[str]) -> bool:
    if name in allowed:
        return True
    return not _looks_secret(name, value) and any(fnmatchcase(name, each) for each in allowed)


def _looks_secret(name: str, value: str) -> bool:
    return name not in _NO_SECRETS and bool(_SECRET_NAME.search(name) or _SECRET_VALUE.search(value))
