"""The Python client: submit a job, iterate over its tokens, wait for its result, cancel it and know that it is dead.

Runs in: any machine (no supervisor, no Linux).

    with Client() as c:
        job = c.submit("split", {"text": t}, limits={"run_s": 60})
        for token in job:
            print(token, end="")

Everything that the methods raise is a KillableError: Unreachable when no killable server answers, Refused for what was
not taken, a JobError for how a job ended, NotEnded when a wait is over. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from killable.api.client.exchange import ANSWER_S, CONNECT_S, Server
from killable.api.client.job_calls import JobCalls
from killable.api.client.outcomes import Ending, Event, NotEnded, Record, Unreachable, job_error, token_of
from killable.api.client.retries import RETRIES, Asking
from killable.api.client.server_calls import ServerCalls
from killable.api.client.stream_reading import Reading
from killable.api.client.submission import JobOptions, PendingSubmission, Submitting
from killable.api.client.transport import Transport

__all__ = ["Client", "Ending", "Event", "JobHandle", "JobOptions", "NotEnded", "Unreachable", "token_of"]


class Client:
    """A killable server. Safe to share between threads; close it, or use it as a context manager."""

    def __init__(
        self, url: str | None = None, *, uds: str | None = None, api_key: str | None = None,
        headers: Mapping[str, str] | None = None, http: httpx.Client | None = None, retries: int = RETRIES,
        connect_s: float = CONNECT_S, answer_s: float = ANSWER_S,
    ) -> None:  # fmt: skip
        """Open nothing yet. Defaults: KILLABLE_URL, else http://127.0.0.1:7833; KILLABLE_API_KEY.

        `url` may be `unix:PATH`, which is what `uds` is. `headers` are sent with every request. `http` is your own
        httpx client (proxies, certificates), which stays yours to close. `connect_s` bounds connecting, `answer_s` what
        the server may take beyond a wait that it was asked for.

        `retries`: how often a call is sent again when the connection fails or the server answers 429, 502, 503 or 504,
        within 10 s in all. Only what is safe: reads, cancels, and submissions, which carry an idempotency key; a full
        queue only with `wait_for_room_s`. A broken stream is taken up again as long as each connection brings
        something, and so often when none does. 0 turns retries off.

        Raise Unreachable for what is no address, or an environment (proxies, certificates) that allows no connection,
        Refused for a key or header that cannot be sent.
        """
        server = Server.at(
            url, uds=uds, api_key=api_key, headers=headers, connect_s=connect_s, answer_s=answer_s
        )  # fmt: skip
        self.address = server.address
        self._asking = Asking(server, retries)
        self._calls = ServerCalls(self._asking)
        self._submitting = Submitting(self._asking)
        self._transport = Transport(server, http)

    def submit(self, type: str, input: Mapping[str, Any] | None = None, **options: Unpack[JobOptions]) -> JobHandle:
        """Start a job; it runs whether or not anyone reads it.

        Options: limits, tags, priority, stop_when_client_leaves, idempotency_key, correlation_id, wait_for_room_s,
        within_s (JobOptions says what each is). Raise Refused; for `invalid` it has every fault.
        """
        submission = PendingSubmission.of(type, input, **options)
        job = self._transport.do(
            self._submitting.submit(submission), undo=self._submitting.abandon_unkeyed(submission)
        )  # fmt: skip
        return JobHandle(self._transport, job)

    def run(
        self, type: str, input: Mapping[str, Any] | None = None, *, timeout_s: float | None = None,
        **options: Unpack[JobOptions],
    ) -> Any:  # fmt: skip
        """Run a job and return its result; options as for `submit`.

        After `timeout_s`, which covers submission, queue and run, the job is cancelled, and JobTimedOut raised when it
        is dead, 30 s later at most. An interrupt, as Ctrl-C, cancels it too. Raise the JobError of a job that did not
        complete.
        """
        submission = PendingSubmission.of(type, input, **options)
        return self._transport.do(
            self._submitting.run(submission, timeout_s), undo=self._submitting.abandon(submission)
        )  # fmt: skip

    def job(self, id: str) -> JobHandle:
        """Return the job of this full id, without asking whether it exists."""
        return JobHandle(self._transport, JobCalls(self._asking, id))

    def jobs(self, *, state: str | None = None, type: str | None = None, tag: str | None = None) -> Iterator[Record]:
        """Yield short records, newest first; `state` may be `active`, `tag` is `key:value`."""
        query, cursor = {"state": state, "type": type, "tag": tag}, None
        while True:
            page, cursor = self._transport.do(self._calls.page(query, cursor))
            yield from page
            if cursor is None:
                return

    def cancel_matching(
        self, *, type: str | None = None, tag: str | None = None, state: str | None = None, reason: str = "",
        grace_s: float | None = None, dry_run: bool = False,
    ) -> Record:  # fmt: skip
        """Cancel every job that matches all that is given, one of type, tag and state at least; wait for their ends.

        Return `{matched, cancelled, stopping, already_ended, dry_run, jobs: [{job_id, status}]}`; `stopping` are those
        that were not dead after 60 s. `dry_run` only tells which.
        """
        return self._transport.do(self._calls.cancel_matching(type, tag, state, reason, grace_s, dry_run))

    def types(self) -> list[Record]:
        """Return the job types that can be started, with the JSON Schema of each one's input."""
        return self._transport.do(self._calls.member("/v1/job-types", "job_types"))

    def workers(self) -> list[Record]:
        """Return the server's worker processes."""
        return self._transport.do(self._calls.member("/v1/workers", "workers"))

    def workers_and_retired(self) -> Record:
        """Return `workers` and `retired`: the latest that were not used again, `why` being what a job had left."""
        return self._transport.do(self._calls.get("/v1/workers"))

    def worker(self, id: str) -> Record:
        """Return one worker process. Raise Refused `unknown_worker`."""
        return self._transport.do(self._calls.worker(id))

    def kill_worker(self, id: str, reason: str = "") -> Record:
        """Kill one worker process, whose job ends cancelled by the operator, and wait for its end, 60 s at most."""
        return self._transport.do(self._calls.kill_worker(id, reason))

    def drain(self, deadline_s: float | None = None) -> Record:
        """Take no new jobs; after `deadline_s` cancel what still runs. Return how it stands, as `drained`."""
        return self._transport.do(self._calls.drain("POST", deadline_s))

    def undrain(self) -> Record:
        """Take jobs again. Raise Refused `draining` when the server is shutting down."""
        return self._transport.do(self._calls.drain("DELETE"))

    def drained(self) -> Record:
        """Return `{draining, shutting_down, deadline_s, running, queued}`."""
        return self._transport.do(self._calls.drain("GET"))

    def shutdown(self, grace_s: float | None = None, deadline_s: float = 0.0, reason: str = "") -> Record:
        """Drain, let jobs end for `deadline_s`, cancel the rest with `grace_s` at most, and end the server.

        Return at once with how it stands.
        """
        return self._transport.do(self._calls.shutdown(grace_s, deadline_s, reason))

    def metrics(self) -> Record:
        """Return the server's counts, as `jobs_completed` and `cancel_ms: {p50, p95, p99}`."""
        return self._transport.do(self._calls.get("/v1/metrics"))

    def exposition(self) -> str:
        """Return the server's metrics as Prometheus text."""
        return self._transport.do(self._calls.exposition())

    def info(self) -> Record:
        """Return which server this is: `{version, instance_id, started_at, features, pid}`."""
        return self._transport.do(self._calls.get("/v1/info"))

    def ready(self) -> Record:
        """Return what is ready and what degraded. Raise Refused `draining` when no job can start."""
        return self._transport.do(self._calls.ready())

    def close(self) -> None:
        """Close the connections; jobs go on. May be called twice; whatever is asked afterwards is Refused."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self.address}>"


class JobHandle:
    """One job on the server. Leaving it as a context manager cancels it, unless its end was seen."""

    def __init__(self, transport: Transport, calls: JobCalls) -> None:
        self.id = calls.id
        self.accepted = calls.accepted
        """The server's answer to the submission; None for a job that was only looked up."""
        self.is_replay = calls.is_replay
        """The submission's idempotency key was known: this is the job that it started then."""
        self.correlation_id = calls.correlation_id
        """As the server answered it to the submission; None for a job that was only looked up."""
        self._transport = transport
        self._calls = calls

    def __iter__(self) -> Iterator[Any]:
        """Yield the job's tokens from the first: str, bytes or a JSON value, as it emitted them.

        Raise the typed error of a job that did not complete, after its last token.
        """
        for event in self.events():
            if event.name == "token":
                yield token_of(event.data)
            elif event.is_terminal and event.name != "completed":
                raise job_error(event.data)

    def events(self, after: int | None = None) -> Generator[Event, None, None]:
        """Yield the events after that id, to the terminal one, each once; a broken connection is taken up again.

        Raise JobError `supervisor_lost` when that does not help: what became of the job is not known then.
        """
        for event in self._transport.events(Reading(self._calls.asking, self.id, after)):
            self._calls.is_over |= event.is_terminal
            yield event

    def result(self, wait_s: float | None = None) -> Any:
        """Return what the job returned, bytes or a JSON value, waiting for it, without end when `wait_s` is None.

        Raise NotEnded when the wait is over, the JobError of a job that did not complete.
        """
        return self._transport.do(self._calls.result(wait_s))

    def cancel(self, grace_s: float | None = None, reason: str = "", *, wait_s: float | None = None) -> Ending:
        """Stop the job and return how it ended, when everything that it had started is dead.

        Never raises because the job had already ended. `grace_s` can only shorten the job's own. `wait_s` bounds the
        wait, not the job's end: then the ending may be `stopping`.
        """
        return self._transport.do(self._calls.cancel(grace_s, reason, wait_s))

    def record(self) -> Record:
        """Return the job's record as it stands."""
        return self._transport.do(self._calls.record())

    def output(self) -> bytes:
        """Return the tokens so far, one after the other, also after a kill: text as UTF-8, other values a JSON line."""
        return self._transport.do(self._calls.output())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._transport.do(self._calls.leave(error))

    def __repr__(self) -> str:
        return f"<Job {self.id}>"
