"""The blocking Python client: submits jobs, reads their tokens and results, cancels them and waits until they are dead.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from killable.api.client.attempt_tokens import AttemptTokens
from killable.api.client.errors import NotEnded, Unreachable
from killable.api.client.events import Ending, Event, Record, token_of
from killable.api.client.file_calls import Download, FileCalls, written_whole
from killable.api.client.file_source import FileLike, FileSource
from killable.api.client.job_calls import JobCalls
from killable.api.client.job_pages import JobFilters, page_of_jobs
from killable.api.client.live_reading import watch_jobs, watch_workers
from killable.api.client.retries import RETRIES, Requester
from killable.api.client.server_answers import Server
from killable.api.client.server_calls import ServerCalls
from killable.api.client.stream_resume import Reading
from killable.api.client.submission import JobOptions, PendingSubmission, Submitting
from killable.api.client.timeouts import ANSWER_S, CONNECT_S
from killable.api.client.transport import Transport

__all__ = ["Client", "Ending", "Event", "JobHandle", "JobOptions", "NotEnded", "Unreachable", "token_of"]


class Client:
    """A blocking client of one killable server. Threads may share it. Close it, or use it as a context manager.

        with Client() as client:
            job = client.submit("split", {"text": text}, limits={"run_s": 60})
            for token in job:
                print(token, end="")

    Durations are in seconds. Every error of a request is a KillableError: Unreachable if no killable server answers,
    Refused if the request is rejected (`code` says why), a JobError if the job did not complete, NotEnded if a wait is
    over. If the server has API keys, `cancel_matching`, `kill_worker`, `drain`, `undrain`, `drained` and `shutdown`
    need a key with the role `operate`.
    """

    def __init__(
        self, url: str | None = None, *, uds: str | None = None, api_key: str | None = None,
        headers: Mapping[str, str] | None = None, http: httpx.Client | None = None, retries: int = RETRIES,
        connect_s: float = CONNECT_S, answer_s: float = ANSWER_S,
    ) -> None:  # fmt: skip
        """Create a client. It connects with the first request.

        url: `http://HOST:PORT`, `HOST:PORT` or `unix:PATH`; default KILLABLE_URL, else http://127.0.0.1:7833.
        uds: path of the server's Unix socket, the same as `unix:PATH`.
        api_key: default KILLABLE_API_KEY, else none.
        headers: sent with every request.
        http: your own httpx.Client, for example with a proxy or certificates. `close` does not close it.
        retries: how often a failed call is sent again; default 2, and 0 turns retries off.
        connect_s: longest time to connect; default 5 s.
        answer_s: longest time for an answer, beyond the wait that the call asks for; default 30 s.

        A call is sent again if the connection fails or the server answers 429, 502, 503 or 504, for at most 10 s, and
        only if that is safe: reads, cancels of one job, and submissions, which carry an idempotency key. A full queue
        is retried only with `wait_for_room_s`. A broken stream is resumed after its last event, until more than
        `retries` connections in a row bring nothing.

        Raise Unreachable for an invalid address, or if the environment (proxies, certificates) prevents connections.
        Raise Refused for a key or header that cannot be sent.
        """
        server = Server.at(
            url, uds=uds, api_key=api_key, headers=headers, connect_s=connect_s, answer_s=answer_s
        )  # fmt: skip
        self.address = server.address
        self._requester = Requester(server, retries)
        self._calls = ServerCalls(self._requester)
        self._submitting = Submitting(self._requester)
        self._files = FileCalls(self._requester)
        self._transport = Transport(server, http)

    def submit(self, type: str, input: Mapping[str, Any] | None = None, **options: Unpack[JobOptions]) -> JobHandle:
        """Start a job and return its handle. The job runs whether or not a client reads it.

            job = client.submit("split", {"text": text}, limits={"run_s": "1m"}, tags={"user": "ada"})

        The values of the input are those of JSON, bytes, dataclasses, enums and pydantic models. The job's schema
        decides how bytes are sent; it is fetched with the first bytes for a type.

        Options: limits, tags, priority, stop_when_client_leaves, idempotency_key, correlation_id, wait_for_room_s,
        within_s. `killable.api.client.client.JobOptions` documents them.

        Raise Refused if the job is not accepted; for the code `invalid`, `faults` has every fault. Raise Unreachable if
        no server answers; the fact `idempotency_key`, if present, finds a job that may have started. Raise TypeError
        for an unknown option. An interrupt (Ctrl-C) cancels the job, unless you passed an `idempotency_key`.
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
        """Run a job and return its result, which is bytes or a JSON value. Options are those of `submit`.

            words = client.run("split", {"text": text}, timeout_s=60)

        `timeout_s` covers submission, queue and run; default None: no timeout. After it, the job is cancelled, and
        JobTimedOut is raised when it is dead, at most 30 s later. An interrupt (Ctrl-C) cancels the job, too. Raise the
        JobError of a job that did not complete, and Unreachable if the server is lost: the fact `job_id`, if present,
        is that of a job that could not be cancelled and may run on.
        """
        submission = PendingSubmission.of(type, input, **options)
        return self._transport.do(
            self._submitting.run(submission, timeout_s), undo=self._submitting.abandon(submission)
        )  # fmt: skip

    def job(self, id: str) -> JobHandle:
        """Return a handle for the job with this full id. Sends no request; if there is no such job, its methods raise
        Refused `unknown_job`.
        """
        return JobHandle(self._transport, JobCalls(self._requester, id))

    def jobs(self, **wanted: Unpack[JobFilters]) -> Iterator[Record]:
        """Yield the short records of jobs, newest first.

            queued = list(client.jobs(state="queued", tag="user:ada"))

        Filters: state, type, tag, node, tenant, code, search. `killable.api.client.job_pages.JobFilters` documents
        them; all that are given must match.
        """
        cursor = None
        while True:
            page, cursor = self._transport.do(page_of_jobs(self._calls.requester, wanted, cursor))
            yield from page
            if cursor is None:
                return

    def watch_jobs(self, *, limit: int = 50, **wanted: Unpack[JobFilters]) -> Generator[Event, None, None]:
        """Yield the matching jobs as they change, until the server ends; filters are those of `jobs`.

            for event in client.watch_jobs(state="active"):
                print(event.name, event.data)

        The first event is `jobs`: `{jobs, total, counts}` with the newest `limit` (200 at most). It comes again when
        too much was missed. Then come `job`: one short record, new or changed; `gone`: `{job_id}`, which does not match
        any more or is no longer kept; `counts`: a number for each state, and `total`.

        A broken stream is resumed (`retries` of `Client`). Raise Unreachable if that fails.
        """
        yield from self._transport.events(watch_jobs(self._requester, limit, wanted))

    def watch_workers(self, *, workers: bool = True) -> Generator[Record, None, None]:
        """Yield the state of the server, at once and then each second, until it ends.

            for now in client.watch_workers():
                print(now["jobs"]["running"], now["server"]["cpu_percent"])

        Each is `{at, seq, workers, retired, pools, queue, jobs, server, nodes}`; workers have `cpu_percent`,
        `memory_bytes`, `processes` and `threads`. With `workers=False` both `workers` and `retired` are None, which
        costs the server less. Nothing is measured while nobody reads. Errors are those of `watch_jobs`.
        """
        for event in self._transport.events(watch_workers(self._requester, workers=workers)):
            yield event.data

    def cancel_matching(
        self, *, reason: str = "", grace_s: float | None = None, dry_run: bool = False, **wanted: Unpack[JobFilters]
    ) -> Record:
        """Cancel every job that matches all given filters, and wait for their ends, at most 25 s.

            client.cancel_matching(tag="user:ada", reason="account closed")

        At least one filter is needed; they are those of `jobs`, and `state="active"` is every job. `grace_s` can only
        shorten each job's own grace period. `dry_run` only returns which jobs match.

        Return `{matched, cancelled, stopping, already_ended, dry_run, jobs: [{job_id, status}]}`; the jobs that are
        `stopping` were not dead after the wait.
        """
        return self._transport.do(self._calls.cancel_matching(wanted, reason, grace_s, dry_run))

    def upload(
        self, source: FileLike | FileSource, *, name: str = "", content_type: str = "",
        on_sent: Callable[[int], None] | None = None,
    ) -> Record:  # fmt: skip
        """Upload a file for jobs; return its record. Pass its `file_id` in the input, for a parameter that is a file.

            video = client.upload("in.mp4")
            job = client.submit("convert", {"video": video["file_id"]})

        `source` is a path, an open binary file or bytes. Jobs find it under `name`; default: that of the source.
        `on_sent` is called with the bytes sent so far. `submit` uploads paths and open files of an input by itself.

        Raise Refused: `too_large`, `files_full`, `disk_full`. Raise OSError for a path that cannot be read.
        """
        source = source if isinstance(source, FileSource) else FileSource(source, name, content_type, on_sent)
        return self._transport.do(self._files.upload(source))

    def files(self) -> list[Record]:
        """Return the uploaded files that are on the server, latest first."""
        return self._transport.do(self._files.files())

    def file(self, file_id: str) -> Record:
        """Return what is known of an uploaded file. Raise Refused `unknown_file`."""
        return self._transport.do(self._files.file(file_id))

    def delete_file(self, file_id: str) -> Record:
        """Remove an uploaded file. Raise Refused `file_in_use` while a job that uses it waits or runs."""
        return self._transport.do(self._files.delete(file_id))

    def types(self) -> list[Record]:
        """Return the job types that can be started, each with the JSON Schema of its input."""
        return self._transport.do(self._calls.records("/v1/job-types", "job_types"))

    def workers(self) -> list[Record]:
        """Return the records of the server's worker processes."""
        return self._transport.do(self._calls.records("/v1/workers", "workers"))

    def nodes(self) -> list[Record]:
        """Return the machines of a cluster, as its head sees them; none where the server is one machine."""
        return self._transport.do(self._calls.records("/v1/nodes", "nodes"))

    def drain_node(self, name: str, deadline_s: float | None = None) -> Record:
        """Give a node no more jobs; return its record. After `deadline_s`, stop what it still runs; None: never.

        What is stopped ends as `node_drained`, or is tried again on another node. Raise Refused `unknown_node`.
        """
        return self._transport.do(self._calls.drain_node("POST", name, deadline_s))

    def undrain_node(self, name: str) -> Record:
        """Give a node jobs again, also one that is not there; return its record. Raise Refused `unknown_node`."""
        return self._transport.do(self._calls.drain_node("DELETE", name))

    def tenants(self) -> list[Record]:
        """Return what each tenant has now, beside its bounds; with a key that is not an operator's, its own only."""
        return self._transport.do(self._calls.records("/v1/tenants", "tenants"))

    def workers_and_retired(self) -> Record:
        """Return `{workers, retired}`. `retired` are the latest workers that were not reused because of what a job left
        behind; `why` is what it left.
        """
        return self._transport.do(self._calls.get("/v1/workers"))

    def worker(self, id: str) -> Record:
        """Return the record of one worker process. Raise Refused `unknown_worker`."""
        return self._transport.do(self._calls.worker(id))

    def kill_worker(self, id: str, reason: str = "") -> Record:
        """Kill one worker process and wait for its end, at most 25 s. Its job, if any, is cancelled by the operator.

        Return its record, in which the state `gone` means dead. Raise Refused `unknown_worker`.
        """
        return self._transport.do(self._calls.kill_worker(id, reason))

    def drain(self, deadline_s: float | None = None) -> Record:
        """Accept no new jobs. After `deadline_s`, cancel the jobs that are left; None: never.

        Return the progress at once, as `drained` does. May be called again, with another deadline.
        """
        return self._transport.do(self._calls.drain("POST", deadline_s))

    def undrain(self) -> Record:
        """Accept jobs again; return the progress, as `drained` does. Raise Refused `draining` during a shutdown."""
        return self._transport.do(self._calls.drain("DELETE"))

    def drained(self) -> Record:
        """Return the progress of a drain: `{draining, shutting_down, deadline_s, running, queued}`."""
        return self._transport.do(self._calls.drain("GET"))

    def reload(self) -> Record:
        """Roll every pool over to the code as it is now, and return when the new code has the jobs that wait. API keys
        and secrets of webhooks are read again, too.

        Return `{state, took_s, files, pools, came, gone, changed, jobs_failed, not_read}`: `came` to `jobs_failed` are
        about job types, `not_read` says why keys or secrets stay as they were.
        Raise Refused `reload_failed` if the code does not load, with its `traceback`: all go on as they are.
        """
        return self._transport.do(self._calls.reload())

    def reloaded(self) -> Record:
        """Return the latest reload, as `reload` does, also one that has failed (`error`) or still loads (`state`)."""
        return self._transport.do(self._calls.reloaded())

    def shutdown(self, grace_s: float | None = None, deadline_s: float = 0.0, reason: str = "") -> Record:
        """Drain for `deadline_s`, then cancel the jobs that are left and end the server.

        `grace_s` can only shorten each job's own grace period. Return the progress at once, as `drained` does.
        """
        return self._transport.do(self._calls.shutdown(grace_s, deadline_s, reason))

    def metrics(self) -> Record:
        """Return the server's metrics, such as `jobs_completed` and `cancel_ms: {p50, p95, p99}`."""
        return self._transport.do(self._calls.get("/v1/metrics"))

    def exposition(self) -> str:
        """Return the server's metrics in the Prometheus text format."""
        return self._transport.do(self._calls.exposition())

    def info(self) -> Record:
        """Return the identity of the server: `{version, instance_id, started_at, features, pid}`."""
        return self._transport.do(self._calls.get("/v1/info"))

    def ready(self) -> Record:
        """Return `{status, degraded, pools}`. Raise Refused `draining` if no job can start."""
        return self._transport.do(self._calls.ready())

    def close(self) -> None:
        """Close the connections, except your own `http`. Jobs continue; later calls raise Refused. May be repeated."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self.address}>"


class JobHandle:
    """One job on the server. As a context manager, it cancels the job on exit, unless it has seen the job's end.

        with client.submit("split", {"text": text}) as job:
            for token in job:
                if token == "end":
                    break  # the exit cancels the job

    The exit waits until the job is dead and raises NotEnded after 30 s, unless another error is being raised.
    """

    def __init__(self, transport: Transport, calls: JobCalls) -> None:
        self.id = calls.id
        self.accepted = calls.accepted
        """The server's answer to the submission; None for a handle from `Client.job`."""
        self.is_replay = calls.is_replay
        """The server knew the submission's idempotency key: this is the job that the first submission started."""
        self.correlation_id = calls.correlation_id
        """The correlation id in the server's answer to the submission; None for a handle from `Client.job`."""
        self._transport = transport
        self._calls = calls

    def __iter__(self) -> Iterator[Any]:
        """Yield the job's tokens from the first one: str, bytes or a JSON value, as the job emitted them.

        If the job did not complete, raise its JobError after the last token. Raise Restarted if tokens were yielded and
        the job begins anew: drop them and iterate again. Errors are otherwise those of `events`.
        """
        tokens = AttemptTokens(self._calls)
        for event in self.events(tokens.after):
            yield from tokens.take(event)

    def events(self, after: int | None = None) -> Generator[Event, None, None]:
        """Yield each event after the id `after`, up to the terminal one, once; None: from the first event.

        A broken stream is resumed (`retries` of `Client`). If that fails, raise a JobError with the code
        `supervisor_lost`: the state of the job is then unknown. Raise Unreachable if no connection succeeded.
        """
        for event in self._transport.events(Reading(self._calls.requester, self.id, after)):
            self._calls.is_over |= event.is_terminal
            yield event

    def result(self, wait_s: float | None = None) -> Any:
        """Return what the job returned, bytes or a JSON value. Wait at most `wait_s` for it; None: without a limit.

        Raise NotEnded if the wait is over; the job continues. Raise the JobError of a job that did not complete.
        """
        return self._transport.do(self._calls.result(wait_s))

    def cancel(self, grace_s: float | None = None, reason: str = "", *, wait_s: float | None = None) -> Ending:
        """Cancel the job, wait until its process tree is dead, and return how it ended. May be called twice.

            ending = job.cancel(grace_s=1, reason="superseded")

        If the job had already ended, no error is raised: `had_ended` is true. `grace_s` can only shorten the job's own
        grace period. `wait_s` limits only the wait (None: no limit); the returned state may then be `stopping`.
        """
        return self._transport.do(self._calls.cancel(grace_s, reason, wait_s))

    def record(self) -> Record:
        """Return the job's current record."""
        return self._transport.do(self._calls.record())

    def output(self) -> bytes:
        """Return the tokens of the latest attempt so far, joined; also after a kill. Text is UTF-8; a JSON value is one
        line.
        """
        return self._transport.do(self._calls.output())

    def files(self) -> list[Record]:
        """Return the files that the job has saved so far: `{name, size, content_type}` of each."""
        return self._transport.do(FileCalls(self._calls.requester).of_job(self.id))

    def download(self, name: str, to: str | os.PathLike[str] = ".") -> Path:
        """Download a file that the job has saved, and return where it is: `to`, or in `to` if that is a folder.

            job.download("out.webm", to="videos/")

        A broken connection is resumed. Nothing is at that place before the file is whole. Raise Refused `unknown_file`,
        and OSError if it cannot be written.
        """
        with written_whole(to, name) as (file, place):
            self._transport.download(Download(self._calls.requester, self.id, name, file))
        return place

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._transport.do(self._calls.leave(error))

    def __repr__(self) -> str:
        return f"<Job {self.id}>"
