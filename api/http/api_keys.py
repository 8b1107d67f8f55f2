"""API keys and the ring that finds the one a request presents.

Runs in: api. `key_file` reads and writes the file that keeps them.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from killable.api.http.route_roles import SOCKET_USER, Role, Visibility

KEY_CHARS_MIN = 16
"""Guessing 16 hexadecimal characters, at a billion guesses per second, takes centuries."""
KEY_CHARS_MAX = 256
KEY = re.compile(r"[!-~]+")
"""Visible ASCII, which can stand both in a header and in a line of the file."""
KEY_PREFIX = "killable_"
"""Of the keys that killable makes: whoever finds one in a log or a repository can see what it is."""
KEY_BYTES = 32
"""256 random bits: no slow hash is needed to keep them from being guessed by their digest."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One caller. Its name is the tenant of the jobs that it submits."""

    name: str
    role: Role
    key: str = ""
    """Empty if the file has its digest only."""
    sha256: str = ""
    """The digest of the key, in hexadecimal."""
    visibility: Visibility | None = None
    """Which jobs it sees; None: the default of the server, and with the role operate all."""
    created: str = ""
    """RFC 3339 in UTC, as `expires`; empty: not known."""
    expires: str = ""
    """Empty: never."""

    def __post_init__(self) -> None:
        if self.key:
            object.__setattr__(self, "sha256", digest_of(self.key.encode()))

    def __repr__(self) -> str:
        return f"<ApiKey {self.name} {self.role}>"  # without the key: reprs end up in logs

    def has_expired(self, now: float) -> bool:
        """`now`: the time of day, in seconds since the epoch."""
        return bool(self.expires) and datetime.fromisoformat(self.expires).timestamp() <= now

    @property
    def id(self) -> str:
        """The beginning of its digest, for logs; empty for a key in clear text, which might be guessed by it."""
        return "" if self.key else self.sha256[:12]

    @property
    def is_clear(self) -> bool:
        """Whether whoever reads the file has the key."""
        return bool(self.key)


def new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest_of(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


class KeyRing:
    """The keys of one server. They may be replaced while it runs."""

    def __init__(self, keys: Iterable[ApiKey], visibility: Visibility = "all") -> None:
        """`visibility`: of a key that does not say, unless its role is operate."""
        self._visibility = visibility
        self._keys: dict[str, ApiKey] = {}
        self.replace(keys)

    def replace(self, keys: Iterable[ApiKey]) -> tuple[list[str], list[str]]:
        """Let these be the keys from now on. Return the names that came, and those that went; a key that is another
        one under its old name is in both.
        """
        before, self._keys = self._keys, {key.sha256: self._complete(key) for key in keys}
        came = [key.name for digest, key in self._keys.items() if digest not in before]
        self._are_shared = len({key.name for key in self._keys.values() if key.role != "operate"}) > 1
        gone = [key.name for digest, key in before.items() if digest not in self._keys]
        return came, gone

    def _complete(self, key: ApiKey) -> ApiKey:
        implied: Visibility = "all" if key.role == "operate" else self._visibility
        return replace(key, visibility=key.visibility or implied)

    @property
    def are_shared(self) -> bool:
        """Whether there are several names that are not operators'."""
        return self._are_shared

    def has(self, name: str) -> bool:
        """Return whether a key has this name, expired or not."""
        return any(key.name == name for key in self._keys.values())

    def named(self, name: str) -> ApiKey | None:
        """Return the key of this name, which may have expired, or None."""
        return next((key for key in self._keys.values() if key.name == name), None)

    def admits(self, key: ApiKey, now: float) -> bool:
        """Return whether a key that was admitted once still is; who has none of these came another way."""
        if key.name.startswith(SOCKET_USER):
            return True
        found = self._keys.get(key.sha256)
        return found == key and not key.has_expired(now)

    def find(self, presented: bytes) -> ApiKey | None:
        """Return the matching key, which may have expired, or None.

        Its time depends on the digest, which tells nothing of a key: nobody can choose one with a given beginning.
        """
        return self._keys.get(digest_of(presented))
