"""The Python client: submit a job, iterate over its tokens, wait for its result, cancel it and know that it is dead.

Runs in: any machine (no supervisor, no Linux).

    with Client() as c:
        job = c.submit("split", {"text": t}, limits={"run_s": 60})
        for token in job:
            print(token, end="")
"""

from __future__ import annotations

import base64
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from killable.api.transport import DEFAULT_URL, Event, Transport, Unreachable, job_error, job_path
from killable.workers.errors import JobTimedOut, KillableError, Refused

__all__ = ["Client", "Ending", "Event", "Job", "NotEnded", "Unreachable"]

HELD_S_MAX = 60.0
"""The longest that the server holds one request (HTTP.md); longer waits ask again."""
PAGE_JOBS = 200

Record = dict[str, Any]


class NotEnded(KillableError, TimeoutError):
    """The job had not ended when the wait was over; it goes on. Fact: `record`."""

    code = "not_ended"
    exit_code = 75

    @property
    def retryable(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended, or, after a wait that was too short, how far its end has come."""

    job_id: str
    state: str
    certificate: dict[str, Any] | None
    error: dict[str, Any] | None = None
    had_ended: bool = False
    """It ended in another way before the cancel could: `state` and `error` say how."""

    @property
    def is_over(self) -> bool:
        return self.state != "stopping"


class Client:
    """A killable server. Safe to share between threads; close it, or use it as a context manager."""

    def __init__(
        self, url: str | None = None, *, uds: str | None = None, api_key: str | None = None,
        http: httpx.Client | None = None,
    ) -> None:  # fmt: skip
        """Open nothing yet. Defaults: KILLABLE_URL, else http://127.0.0.1:7833; KILLABLE_API_KEY.

        `url` may be `unix:PATH`, which is what `uds` is. `http` is your own httpx client, which stays yours to close.
        """
        address = url or os.environ.get("KILLABLE_URL") or DEFAULT_URL
        key = api_key or os.environ.get("KILLABLE_API_KEY")
        self._transport = Transport(address, uds=uds, api_key=key, http=http)

    @property
    def address(self) -> str:
        return self._transport.address

    def submit(
        self, type: str, input: Mapping[str, Any] | None = None, *, limits: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None, priority: int = 0, stop_when_client_leaves: bool = False,
    ) -> Job:  # fmt: skip
        """Start a job; it runs whether or not anyone reads it. Raise Refused; for `invalid` it has every fault."""
        body = {
            "type": type,
            "input": dict(input or {}),
            "limits": dict(limits or {}),
            "tags": dict(tags or {}),
            "priority": priority,
            "stop_when_client_leaves": stop_when_client_leaves,
        }
        accepted = self._transport.members("POST", "/v1/jobs", json=body)
        return Job(self._transport, str(accepted["job_id"]), accepted)

    def run(
        self, type: str, input: Mapping[str, Any] | None = None, *, timeout_s: float | None = None,
        limits: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None, priority: int = 0,
    ) -> Any:  # fmt: skip
        """Run a job and return its result. After `timeout_s` the job is cancelled and dead, and JobTimedOut raised."""
        with self.submit(type, input, limits=limits, tags=tags, priority=priority) as job:
            try:
                return job.result(wait_s=timeout_s)
            except NotEnded:
                ending = job.cancel(reason=f"the client's timeout of {timeout_s:g} s")
            if ending.had_ended:
                return job.result(wait_s=0)  # it won the race: its own result, or its own error
            raise JobTimedOut(
                f"no result within {timeout_s:g} s; {job.id} was cancelled and is dead",
                job_id=job.id, certificate=ending.certificate, partial=None, by="client", timeout_s=timeout_s,
            )  # fmt: skip

    def job(self, id: str) -> Job:
        """Return the job of this full id, without asking whether it exists."""
        return Job(self._transport, id)

    def jobs(self, *, state: str | None = None, type: str | None = None, tag: str | None = None) -> Iterator[Record]:
        """Yield short records, newest first; `state` may be `active`, `tag` is `key:value`."""
        cursor: str | None = None
        while True:
            query = {"state": state, "type": type, "tag": tag, "limit": PAGE_JOBS, "cursor": cursor}
            page = self._transport.members("GET", "/v1/jobs", params=query)
            yield from page["jobs"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def workers(self) -> list[Record]:
        """Return the server's worker processes."""
        return list(self._transport.members("GET", "/v1/workers")["workers"])

    def worker(self, id: str) -> Record:
        """Return one worker process. Raise Refused `unknown_worker`."""
        return self._transport.members("GET", f"/v1/workers/{quote(id, safe='')}")

    def types(self) -> list[Record]:
        """Return the job types that can be started, with the JSON Schema of each one's input."""
        return list(self._transport.members("GET", "/v1/job-types")["job_types"])

    def close(self) -> None:
        """Close the connections; jobs go on. May be called twice."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self.address}>"


class Job:
    """One job on the server. Leaving it as a context manager cancels it, unless it has ended."""

    def __init__(self, transport: Transport, id: str, accepted: Mapping[str, Any] | None = None) -> None:
        self.id = id
        self.accepted = accepted
        """The server's answer to the submission; None for a job that was only looked up."""
        self._transport = transport
        self._path = job_path(id)
        self._seen_ending = False

    def __iter__(self) -> Iterator[Any]:
        """Yield the job's tokens from the first: str, bytes or a JSON value, as it emitted them.

        At the end raise the typed error of a job that did not complete. Each iteration starts anew.
        """
        for event in self.events():
            if event.name == "token":
                yield token_of(event.data)
            elif event.is_terminal and event.name != "completed":
                raise job_error(event.data)

    def events(self, after: int | None = None) -> Iterator[Event]:
        """Yield the events after that id, to the terminal one; a broken connection is taken up again where it broke."""
        for event in self._transport.events(self.id, -1 if after is None else after):
            if event.is_terminal:
                self._seen_ending = True
            yield event

    def result(self, wait_s: float | None = None) -> Any:
        """Return what the job returned, waiting for it, without end when `wait_s` is None.

        Raise NotEnded when the wait is over, or the typed error of a job that did not complete.
        """
        deadline = None if wait_s is None else time.monotonic() + wait_s
        while True:
            left = HELD_S_MAX if deadline is None else min(HELD_S_MAX, max(0.0, deadline - time.monotonic()))
            try:
                answer = self._transport.request("GET", f"{self._path}/result", params={"wait_s": left}, wait_s=left)
            except Refused as refusal:
                if refusal.code != "no_result":
                    raise
                self._seen_ending = True
                raise job_error(refusal.facts.get("job") or {"job_id": self.id, "state": "worker_lost"}) from None
            if answer.status_code == httpx.codes.OK:
                self._seen_ending = True
                is_bytes = answer.headers.get("content-type", "").startswith("application/octet-stream")
                return answer.content if is_bytes else answer.json()
            if deadline is not None and time.monotonic() >= deadline:
                record = self._transport.parsed(answer)
                raise NotEnded(f"{self.id} has not ended; it is {record.get('state')}", record=record, job_id=self.id)

    def cancel(self, grace_s: float | None = None, reason: str = "", *, wait_s: float | None = None) -> Ending:
        """Stop the job and return how it ended, when everything that it had started is dead.

        Never raises because the job had already ended. `wait_s` bounds the wait: then the ending may be `stopping`.
        """
        deadline = None if wait_s is None else time.monotonic() + wait_s
        while True:
            left = HELD_S_MAX if deadline is None else min(HELD_S_MAX, max(0.0, deadline - time.monotonic()))
            try:
                answer = self._transport.request(
                    "DELETE", self._path, params={"grace_s": grace_s, "reason": reason},
                    headers={"Prefer": f"wait={math.ceil(left)}"}, wait_s=left,
                )  # fmt: skip
            except Refused as refusal:
                if refusal.code != "already_ended":
                    raise
                self._seen_ending = True
                record = refusal.facts.get("job") or {}
                return Ending(
                    self.id, record.get("state", "completed"), record.get("certificate"), record.get("error"), True
                )
            members = self._transport.parsed(answer)
            ending = Ending(self.id, str(members.get("status")), members.get("certificate"))
            if ending.is_over or (deadline is not None and time.monotonic() >= deadline):
                self._seen_ending = ending.is_over
                return ending

    def record(self) -> Record:
        """Return the job's record as it stands."""
        return self._transport.members("GET", self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._seen_ending:
            return
        try:
            self.cancel(reason="the client left")
        except KillableError:
            if error is None:  # otherwise the body's own error says more than that the server is gone, too
                raise

    def __repr__(self) -> str:
        return f"<Job {self.id}>"


def token_of(data: Mapping[str, Any]) -> Any:
    """Return what the job emitted, from a token event's data."""
    if "text" in data:
        return data["text"]
    if "base64" in data:
        return base64.b64decode(data["base64"])
    return data.get("value")
