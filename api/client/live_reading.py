"""The position of one reader in the stream of jobs or of workers, over as many connections as needed, without I/O.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from httpx_sse import ServerSentEvent

from killable.api.client.errors import Unreachable
from killable.api.client.events import Event
from killable.api.client.http_call import HttpCall
from killable.api.client.job_pages import JobFilters
from killable.api.client.retries import Requester
from killable.api.client.stream_resume import Reading
from killable.api.client.timeouts import SILENCE_S
from killable.workers.errors import KillableError


class LiveReading(Reading):
    """Of a stream that has no end but the server's. Ids only go up, and a reader may miss some."""

    def __init__(self, requester: Requester, path: str, query: Mapping[str, Any]) -> None:
        super().__init__(requester, "", None)
        self._path = path
        self._query = query

    @property
    def call(self) -> HttpCall:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._seen is not None:
            headers["Last-Event-ID"] = str(self._seen)
        return HttpCall("GET", self._path, query=self._query, headers=headers, answer_s=SILENCE_S)

    def taken(self, sent: ServerSentEvent) -> Event | None:
        self._take_retry(sent)
        if not sent.data:
            return None
        try:
            data = json.loads(sent.data)
            id = int(sent.id or 0)
        except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
            raise self._invalid_stream(f"event {sent.id!r} is not numbered JSON") from error
        if not isinstance(data, dict):
            raise self._invalid_stream(f"the data of event {id} are not a JSON object")
        if sent.event == "end":
            # Of a key that is gone the next connection says so.
            self.is_over = data.get("reason") == "shutdown"
            return None
        self._seen, self._progress = id, True
        return Event(id, sent.event, data)

    def _lost(self) -> KillableError:
        address = self._requester.server.address
        return Unreachable(f"the stream of {address} ended, and could not be resumed", url=address)


def watch_jobs(requester: Requester, limit: int, wanted: JobFilters) -> LiveReading:
    """Return a reader of jobs that match."""
    return LiveReading(requester, "/v1/jobs/stream", {**wanted, "limit": limit})


def watch_workers(requester: Requester, *, workers: bool) -> LiveReading:
    """Return a reader of the server's state, with each worker or without."""
    return LiveReading(requester, "/v1/workers/stream", {} if workers else {"workers": "false"})
