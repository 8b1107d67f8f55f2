"""Tickets: the permission to read a stream, of a job or of all of them, for clients that cannot send a key.

Runs in: api. `auth` checks them, the answer to a submission has one (`stream_url`).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Literal

from killable.api.http.api_keys import ApiKey, KeyRing
from killable.supervisor.clock import rfc_3339

Reader = Literal["client", "watcher"]
"""Whose leaving matters to a job with `stop_when_client_leaves`, and whose does not."""


LIVE_S = 3600
"""Seconds for which a ticket for the streams of jobs and of workers is taken; what it has begun goes on."""


class Tickets:
    """Issues permissions to read streams, for clients that cannot send headers (EventSource).

    A job's ticket is an HMAC over the job id with a secret of this instance, so it expires with the server. One for the
    streams of jobs and of workers is another over a key and a time: it reads what that key reads, as long as the key is
    there.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def issue(self, job_id: str, reader: Reader = "client") -> str:
        return hmac.new(self._secret, f"{reader} {job_id}".encode(), hashlib.sha256).hexdigest()

    def reader(self, job_id: str, ticket: str) -> Reader | None:
        """Return whom a ticket was issued to; None: it is not valid."""
        given = ticket.encode("utf-8", "replace")
        readers: tuple[Reader, ...] = ("client", "watcher")
        found = [each for each in readers if hmac.compare_digest(self.issue(job_id, each).encode(), given)]
        return found[0] if found else None

    def issue_live(self, key: ApiKey, now: float) -> tuple[str, str]:
        """Return a ticket for the streams of jobs and of workers, and when it expires. `now`: the time of day."""
        expires = int(now) + LIVE_S
        return f"{key.name}.{expires}.{self._of_live(key, expires)}", rfc_3339(expires)

    def live_caller(self, ticket: str, keys: KeyRing, now: float) -> ApiKey | None:
        """Return the key that a ticket was issued to; None: it is not valid, or not any more."""
        name, expires, given = ([""] * 3 + ticket.rsplit(".", 2))[-3:]
        key = keys.named(name)
        if key is None or not (expires.isascii() and expires.isdecimal() and len(expires) <= 12):
            return None
        issued = self._of_live(key, int(expires))
        is_valid = hmac.compare_digest(issued.encode(), given.encode("utf-8", "replace"))
        return key if is_valid and now < int(expires) and not key.has_expired(now) else None

    def _of_live(self, key: ApiKey, expires: int) -> str:
        named = f"live {key.name} {key.sha256} {expires}"
        return hmac.new(self._secret, named.encode(), hashlib.sha256).hexdigest()
