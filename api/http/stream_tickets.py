"""Tickets: the permission to read one job's stream, for clients that cannot send a key.

Runs in: api. `auth` checks them, the answer to a submission has one (`stream_url`).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Literal

Reader = Literal["client", "watcher"]
"""Whose leaving matters to a job with `stop_when_client_leaves`, and whose does not."""


class Tickets:
    """Issues permissions to read one job's stream, for clients that cannot send headers (EventSource).

    A ticket is an HMAC over the job id with a secret of this instance, so it expires with the server.
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
