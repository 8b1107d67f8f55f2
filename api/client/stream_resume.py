"""The position of one reader in a job's stream, over as many connections as needed, without I/O.

Runs in: any machine (no supervisor, no Linux).

    call ──► httpx ──► opened ──► httpx-sse ──► taken ──► Event …      and `reconnecting` around each connection:
      ▲                                                                 a broken one is resumed after the last event,
      └──────────────────────── pause_s ◄──────────────────────────────  as long as new ones bring something

This module corrects what httpx-sse 0.4.3 does against WHATWG HTML, 9.2.5 and 9.2.6: it decodes with the charset of the
Content-Type, keeps a byte order mark, passes on events without data, and accepts `retry` values with a sign.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from httpx_sse import ServerSentEvent

from killable.api.client.errors import Unreachable
from killable.api.client.events import Event
from killable.api.client.http_call import HttpCall, job_path
from killable.api.client.retries import PAUSE_S, Requester, is_busy, may_repeat, pause_s
from killable.api.client.retry_after import bounded_s
from killable.api.client.timeouts import SILENCE_S
from killable.workers.error_classes import error_class
from killable.workers.error_codes import LOST
from killable.workers.errors import KillableError, Refused

ALIVE_S = 10.0
"""A connection that lasted this many seconds (one ping) was useful, even if the job sent no event."""
RETRY_S_MAX = 30.0
"""The longest wait before a connection, in seconds, whatever `retry` and Retry-After are."""


class Reading:
    """The state of one reader: the last event that it received, and whether and when to connect again."""

    def __init__(self, requester: Requester, job_id: str, after: int | None) -> None:
        self.is_over = False
        self.pause_s = 0.0
        """Seconds to wait before the next connection."""
        self._requester = requester
        self._job_id = job_id
        self._after = -1 if after is None else after
        self._seen: int | None = None
        """Id of the last event that this reader received."""
        self._retry_s = PAUSE_S
        self._failures = 0
        """Number of connections in a row that brought nothing."""
        self._was_open = False
        self._opened_at: float | None = None
        self._progress = False

    @property
    def call(self) -> HttpCall:
        """The request for the next connection."""
        last = self._after if self._seen is None else self._seen
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if last >= 0:
            headers["Last-Event-ID"] = str(last)
        return HttpCall("GET", f"{job_path(self._job_id)}/stream", headers=headers, answer_s=SILENCE_S)

    def opened(self, response: httpx.Response) -> None:
        """Check the answer of a new connection, or raise its error. The body has been read if it is not 2xx."""
        server = self._requester.server
        server.checked(response)
        if response.status_code == httpx.codes.NO_CONTENT:
            if self._after < 0 or self._seen is not None:
                raise server.unexpected_answer(
                    response
                )  # 204 means that this reader has the terminal event; it has not
            self.is_over = True
            return
        if response.headers.get("content-type", "").partition(";")[0].strip().lower() != "text/event-stream":
            raise server.unexpected_answer(response)
        response.encoding = "utf-8-sig"  # always UTF-8, without its byte order mark
        self._was_open, self._opened_at = True, time.monotonic()

    def taken(self, sent: ServerSentEvent) -> Event | None:
        """Return a server-sent event as an event of the job, or None if it is not one. Raise Unreachable if invalid."""
        self._take_retry(sent)
        if not sent.data or not sent.id or sent.event == "message":  # markers have no name
            return None
        try:
            event = Event(int(sent.id), sent.event, json.loads(sent.data))
        except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
            raise self._invalid_stream(f"event {sent.id!r} is not numbered JSON") from error
        if not isinstance(event.data, dict):
            raise self._invalid_stream(f"the data of event {event.id} are not a JSON object")
        if self._seen is not None:
            if event.id <= self._seen:
                return None  # seen already
            if event.id > self._seen + 1 and not _explains_gap(event):
                raise self._invalid_stream(f"events {self._seen + 1} to {event.id - 1} are missing")
        self._seen, self._progress = event.id, True
        self.is_over = event.is_terminal
        return event

    def _take_retry(self, sent: ServerSentEvent) -> None:
        """Take note of how long the server wants its readers to wait."""
        if sent.retry is not None and sent.retry >= 0:
            self._retry_s = bounded_s(sent.retry, per_s=1000)

    @contextmanager
    def reconnecting(self) -> Iterator[None]:
        """Wrap one connection. When it ends, decide whether to connect again, or raise if that is useless."""
        self._opened_at, self._progress = None, False
        try:
            yield
        except httpx.HTTPError as error:
            lasted = not isinstance(error, httpx.TimeoutException) and self._has_lasted()
            self._decide(self._requester.server.unreachable(error), lasted)
        except (Unreachable, Refused) as error:
            self._decide(error, lasted=False)
        else:
            if not self.is_over:
                self._decide(None, self._has_lasted())

    def _has_lasted(self) -> bool:
        return self._opened_at is not None and time.monotonic() - self._opened_at >= ALIVE_S

    def _decide(self, error: KillableError | None, lasted: bool) -> None:
        self._failures = 0 if self._progress or lasted else self._failures + 1
        is_hopeful = error is None or self._opened_at is not None or may_repeat(self.call, error)
        if self._failures <= self._requester.retries and is_hopeful:
            busy = error if error is not None and is_busy(error) else None
            self.pause_s = min(RETRY_S_MAX, pause_s(self._failures, busy, base_s=self._retry_s))
            return
        if error is not None and not self._was_open:
            raise error
        raise self._lost() from error

    def _invalid_stream(self, what: str) -> Unreachable:
        address = self._requester.server.address
        return Unreachable(f"{address} sent an invalid event stream: {what}", url=address)

    def _lost(self) -> KillableError:
        code = "supervisor_lost"
        return error_class(code)(
            f"the stream of {self._job_id} ended without its terminal event: how the job ended is not known; "
            f"ask {self._requester.server.address} again, or check whether the server is running",
            code=code, job_id=self._job_id, certificate=None, partial=None, last_sequence=self._seen,
        )  # fmt: skip


def _explains_gap(event: Event) -> bool:
    """Return whether this event explains a gap: a server lost events, and the next has the job from the journal."""
    return event.name == "restored" or _is_lost_ending(event)


def _is_lost_ending(event: Event) -> bool:
    return event.is_terminal and (event.data.get("error") or {}).get("code") in LOST
