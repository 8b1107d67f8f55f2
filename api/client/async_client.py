"""The Python client on asyncio: `Client` with async and await. Cancelling a task cancels the jobs that it runs.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from killable.api.client.async_transport import AsyncTransport
from killable.api.client.attempt_tokens import AttemptTokens
from killable.api.client.events import Ending, Event, Record
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

__all__ = ["AsyncClient", "AsyncJobHandle", "AsyncSubmission"]


class AsyncClient:
    """An asyncio client of one killable server. Tasks of one event loop may share it. Close it, or use `async with`.

        async with AsyncClient() as client:
            async with client.submit("split", {"text": text}, limits={"run_s": 60}) as job:
                async for token in job:
                    print(token, end="")

    Errors, units and defaults are those of `Client`. If the task is cancelled in such a block, in `run` or in `submit`,
    the remote job is cancelled, too. The CancelledError continues when the job is dead, at most 30 s later.
    """

    def __init__(
        self, url: str | None = None, *, uds: str | None = None, api_key: str | None = None,
        headers: Mapping[str, str] | None = None, http: httpx.AsyncClient | None = None, retries: int = RETRIES,
        connect_s: float = CONNECT_S, answer_s: float = ANSWER_S,
    ) -> None:  # fmt: skip
        """Create a client. It connects with the first request. Parameters are those of `Client`, defaults too.

        http: your own httpx.AsyncClient, for example with a proxy or certificates. `aclose` does not close it.

        Raise Unreachable for an invalid address, Refused for a key or header that cannot be sent.
        """
        server = Server.at(url, uds=uds, api_key=api_key, headers=headers, connect_s=connect_s, answer_s=answer_s)
        self.address = server.address
        self._requester = Requester(server, retries)
        self._calls = ServerCalls(self._requester)
        self._submitting = Submitting(self._requester)
        self._files = FileCalls(self._requester)
        self._transport = AsyncTransport(server, http)

    def submit(
        self, type: str, input: Mapping[str, Any] | None = None, **options: Unpack[JobOptions]
    ) -> AsyncSubmission:
        """Start a job when the returned object is awaited or entered. Options and errors are those of `Client.submit`.

            job = await client.submit("split", {"text": text})  # the job continues after the handle is dropped
            async with client.submit("split", {"text": text}) as job:  # the exit cancels the job
                ...

        If the task is cancelled while it submits, the job is cancelled, unless you passed an `idempotency_key`.
        """
        return AsyncSubmission(self._submit(PendingSubmission.of(type, input, **options)))

    async def run(
        self, type: str, input: Mapping[str, Any] | None = None, *, timeout_s: float | None = None,
        **options: Unpack[JobOptions],
    ) -> Any:  # fmt: skip
        """Run a job and return its result, which is bytes or a JSON value. Options are those of `submit`.

            words = await client.run("split", {"text": text}, timeout_s=60)

        `timeout_s` covers submission, queue and run; default None: no timeout. After it, or if the task is cancelled
        (asyncio.timeout, wait_for), the job is cancelled. JobTimedOut or the CancelledError is raised when the job is
        dead, at most 30 s later. Raise the JobError of a job that did not complete, and Unreachable if the server is
        lost: the fact `job_id`, if present, is that of a job that could not be cancelled and may run on.
        """
        submission = PendingSubmission.of(type, input, **options)
        run, undo = self._submitting.run(submission, timeout_s), self._submitting.abandon(submission)
        return await self._transport.do(run, undo)

    def job(self, id: str) -> AsyncJobHandle:
        """Return a handle for the job with this full id. Sends no request; if there is no such job, its methods raise
        Refused `unknown_job`.
        """
        return AsyncJobHandle(self._transport, JobCalls(self._requester, id))

    async def jobs(self, **wanted: Unpack[JobFilters]) -> AsyncIterator[Record]:
        """Yield the short records of jobs, newest first.

        Filters: state, type, tag, node, tenant, code, search. `killable.api.client.job_pages.JobFilters` documents
        them; all that are given must match.
        """
        cursor = None
        while True:
            page, cursor = await self._transport.do(page_of_jobs(self._calls.requester, wanted, cursor))
            for record in page:
                yield record
            if cursor is None:
                return

    async def watch_jobs(self, *, limit: int = 50, **wanted: Unpack[JobFilters]) -> AsyncGenerator[Event, None]:
        """Yield the matching jobs as they change, until the server ends; filters are those of `jobs`.

            async for event in client.watch_jobs(state="active"):
                print(event.name, event.data)

        The first event is `jobs`: `{jobs, total, counts}` with the newest `limit` (200 at most). It comes again when
        too much was missed. Then come `job`: one short record, new or changed; `gone`: `{job_id}`, which does not match
        any more or is no longer kept; `counts`: a number for each state, and `total`.

        A broken stream is resumed (`retries` of `Client`). Raise Unreachable if that fails.
        """
        async with aclosing(self._transport.events(watch_jobs(self._requester, limit, wanted))) as events:
            async for event in events:
                yield event

    async def watch_workers(self, *, workers: bool = True) -> AsyncGenerator[Record, None]:
        """Yield the state of the server, at once and then each second, until it ends.

            async for now in client.watch_workers():
                print(now["jobs"]["running"], now["server"]["cpu_percent"])

        Each is `{at, seq, workers, retired, pools, queue, jobs, server, nodes}`; workers have `cpu_percent`,
        `memory_bytes`, `processes` and `threads`. With `workers=False` both `workers` and `retired` are None, which
        costs the server less. Nothing is measured while nobody reads. Errors are those of `watch_jobs`.
        """
        async with aclosing(self._transport.events(watch_workers(self._requester, workers=workers))) as events:
            async for event in events:
                yield event.data

    async def cancel_matching(
        self, *, reason: str = "", grace_s: float | None = None, dry_run: bool = False, **wanted: Unpack[JobFilters]
    ) -> Record:
        """Cancel every job that matches all given filters, and wait for their ends, at most 25 s.

        At least one filter is needed; they are those of `jobs`, and `state="active"` is every job. `grace_s` can only
        shorten each job's own grace period. `dry_run` only returns which jobs match.

        Return `{matched, cancelled, stopping, already_ended, dry_run, jobs: [{job_id, status}]}`; the jobs that are
        `stopping` were not dead after the wait.
        """
        return await self._transport.do(self._calls.cancel_matching(wanted, reason, grace_s, dry_run))

    async def upload(
        self, source: FileLike | FileSource, *, name: str = "", content_type: str = "",
        on_sent: Callable[[int], None] | None = None,
    ) -> Record:  # fmt: skip
        """Upload a file for jobs; return its record. Pass its `file_id` in the input, for a parameter that is a file.

            video = await client.upload("in.mp4")
            job = await client.submit("convert", {"video": video["file_id"]})

        `source` is a path, an open binary file or bytes. Jobs find it under `name`; default: that of the source.
        `on_sent` is called with the bytes sent so far. `submit` uploads paths and open files of an input by itself.

        Raise Refused: `too_large`, `files_full`, `disk_full`. Raise OSError for a path that cannot be read.
        """
        source = source if isinstance(source, FileSource) else FileSource(source, name, content_type, on_sent)
        return await self._transport.do(self._files.upload(source))

    async def files(self) -> list[Record]:
        """Return the uploaded files that are on the server, latest first."""
        return await self._transport.do(self._files.files())

    async def file(self, file_id: str) -> Record:
        """Return what is known of an uploaded file. Raise Refused `unknown_file`."""
        return await self._transport.do(self._files.file(file_id))

    async def delete_file(self, file_id: str) -> Record:
        """Remove an uploaded file. Raise Refused `file_in_use` while a job that uses it waits or runs."""
        return await self._transport.do(self._files.delete(file_id))

    async def types(self) -> list[Record]:
        """Return the job types that can be started, each with the JSON Schema of its input."""
        return await self._transport.do(self._calls.records("/v1/job-types", "job_types"))

    async def workers(self) -> list[Record]:
        """Return the records of the server's worker processes."""
        return await self._transport.do(self._calls.records("/v1/workers", "workers"))

    async def nodes(self) -> list[Record]:
        """Return the machines of a cluster, as its head sees them; none where the server is one machine."""
        return await self._transport.do(self._calls.records("/v1/nodes", "nodes"))

    async def drain_node(self, name: str, deadline_s: float | None = None) -> Record:
        """Give a node no more jobs; return its record. After `deadline_s`, stop what it still runs; None: never.

        What is stopped ends as `node_drained`, or is tried again on another node. Raise Refused `unknown_node`.
        """
        return await self._transport.do(self._calls.drain_node("POST", name, deadline_s))

    async def undrain_node(self, name: str) -> Record:
        """Give a node jobs again, also one that is not there; return its record. Raise Refused `unknown_node`."""
        return await self._transport.do(self._calls.drain_node("DELETE", name))

    async def tenants(self) -> list[Record]:
        """Return what each tenant has now, beside its bounds; with a key that is not an operator's, its own only."""
        return await self._transport.do(self._calls.records("/v1/tenants", "tenants"))

    async def workers_and_retired(self) -> Record:
        """Return `{workers, retired}`. `retired` are the latest workers that were not reused because of what a job left
        behind; `why` is what it left.
        """
        return await self._transport.do(self._calls.get("/v1/workers"))

    async def worker(self, id: str) -> Record:
        """Return the record of one worker process. Raise Refused `unknown_worker`."""
        return await self._transport.do(self._calls.worker(id))

    async def kill_worker(self, id: str, reason: str = "") -> Record:
        """Kill one worker process and wait for its end, at most 25 s. Its job, if any, is cancelled by the operator.

        Return its record, in which the state `gone` means dead. Raise Refused `unknown_worker`.
        """
        return await self._transport.do(self._calls.kill_worker(id, reason))

    async def drain(self, deadline_s: float | None = None) -> Record:
        """Accept no new jobs. After `deadline_s`, cancel the jobs that are left; None: never.

        Return the progress at once, as `drained` does. May be called again, with another deadline.
        """
        return await self._transport.do(self._calls.drain("POST", deadline_s))

    async def undrain(self) -> Record:
        """Accept jobs again; return the progress, as `drained` does. Raise Refused `draining` during a shutdown."""
        return await self._transport.do(self._calls.drain("DELETE"))

    async def drained(self) -> Record:
        """Return the progress of a drain: `{draining, shutting_down, deadline_s, running, queued}`."""
        return await self._transport.do(self._calls.drain("GET"))

    async def reload(self) -> Record:
        """Roll every pool over to the code as it is now, and return when the new code has the jobs that wait. API keys
        and secrets of webhooks are read again, too.

        Return `{state, took_s, files, pools, came, gone, changed, jobs_failed, not_read}`: `came` to `jobs_failed` are
        about job types, `not_read` says why keys or secrets stay as they were.
        Raise Refused `reload_failed` if the code does not load, with its `traceback`: all go on as they are.
        """
        return await self._transport.do(self._calls.reload())

    async def reloaded(self) -> Record:
        """Return the latest reload, as `reload` does, also one that has failed (`error`) or still loads (`state`)."""
        return await self._transport.do(self._calls.reloaded())

    async def shutdown(self, grace_s: float | None = None, deadline_s: float = 0.0, reason: str = "") -> Record:
        """Drain for `deadline_s`, then cancel the jobs that are left and end the server.

        `grace_s` can only shorten each job's own grace period. Return the progress at once, as `drained` does.
        """
        return await self._transport.do(self._calls.shutdown(grace_s, deadline_s, reason))

    async def metrics(self) -> Record:
        """Return the server's metrics, such as `jobs_completed` and `cancel_ms: {p50, p95, p99}`."""
        return await self._transport.do(self._calls.get("/v1/metrics"))

    async def exposition(self) -> str:
        """Return the server's metrics in the Prometheus text format."""
        return await self._transport.do(self._calls.exposition())

    async def info(self) -> Record:
        """Return the identity of the server: `{version, instance_id, started_at, features, pid}`."""
        return await self._transport.do(self._calls.get("/v1/info"))

    async def ready(self) -> Record:
        """Return `{status, degraded, pools}`. Raise Refused `draining` if no job can start."""
        return await self._transport.do(self._calls.ready())

    async def aclose(self) -> None:
        """Close the connections, except your own `http`. Jobs continue; later calls raise Refused. May be repeated."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<AsyncClient {self.address}>"

    async def _submit(self, submission: PendingSubmission) -> AsyncJobHandle:
        submit, undo = self._submitting.submit(submission), self._submitting.abandon_unkeyed(submission)
        return AsyncJobHandle(self._transport, await self._transport.do(submit, undo))


class AsyncJobHandle:
    """One job on the server; attributes and errors are those of `JobHandle`.

    As a context manager, it cancels the job on exit, unless it has seen the job's end. The exit waits until the job is
    dead and raises NotEnded after 30 s, unless another error is being raised.
    """

    def __init__(self, transport: AsyncTransport, calls: JobCalls) -> None:
        self.id = calls.id
        self.accepted = calls.accepted
        self.is_replay = calls.is_replay
        self.correlation_id = calls.correlation_id
        self._transport = transport
        self._calls = calls

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Yield the job's tokens from the first one: str, bytes or a JSON value, as the job emitted them.

        If the job did not complete, raise its JobError after the last token. Raise Restarted if tokens were yielded and
        the job begins anew: drop them and iterate again. Errors are otherwise those of `events`.
        """
        tokens = AttemptTokens(self._calls)
        async with aclosing(self.events(tokens.after)) as events:
            async for event in events:
                for token in tokens.take(event):
                    yield token

    async def events(self, after: int | None = None) -> AsyncGenerator[Event, None]:
        """Yield each event after the id `after`, up to the terminal one, once; None: from the first event.

        A broken stream is resumed (`retries` of `Client`). If that fails, raise a JobError with the code
        `supervisor_lost`: the state of the job is then unknown. Raise Unreachable if no connection succeeded.
        """
        async with aclosing(self._transport.events(Reading(self._calls.requester, self.id, after))) as events:
            async for event in events:
                self._calls.is_over |= event.is_terminal
                yield event

    async def result(self, wait_s: float | None = None) -> Any:
        """Return what the job returned, bytes or a JSON value. Wait at most `wait_s` for it; None: without a limit.

        Raise NotEnded if the wait is over; the job continues. Raise the JobError of a job that did not complete.
        """
        return await self._transport.do(self._calls.result(wait_s))

    async def cancel(self, grace_s: float | None = None, reason: str = "", *, wait_s: float | None = None) -> Ending:
        """Cancel the job, wait until its process tree is dead, and return how it ended. May be called twice.

        If the job had already ended, no error is raised: `had_ended` is true. `grace_s` can only shorten the job's own
        grace period. `wait_s` limits only the wait (None: no limit); the returned state may then be `stopping`.
        """
        return await self._transport.do(self._calls.cancel(grace_s, reason, wait_s))

    async def record(self) -> Record:
        """Return the job's current record."""
        return await self._transport.do(self._calls.record())

    async def output(self) -> bytes:
        """Return the tokens of the latest attempt so far, joined; also after a kill. Text is UTF-8; a JSON value is one
        line.
        """
        return await self._transport.do(self._calls.output())

    async def files(self) -> list[Record]:
        """Return the files that the job has saved so far: `{name, size, content_type}` of each."""
        return await self._transport.do(FileCalls(self._calls.requester).of_job(self.id))

    async def download(self, name: str, to: str | os.PathLike[str] = ".") -> Path:
        """Download a file that the job has saved, and return where it is: `to`, or in `to` if that is a folder.

            await job.download("out.webm", to="videos/")

        A broken connection is resumed. Nothing is at that place before the file is whole. Raise Refused `unknown_file`,
        and OSError if it cannot be written.
        """
        with written_whole(to, name) as (file, place):
            await self._transport.download(Download(self._calls.requester, self.id, name, file))
        return place

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._transport.finish(self._calls.leave(error))

    def __repr__(self) -> str:
        return f"<AsyncJob {self.id}>"


class AsyncSubmission:
    """A submission that is sent when it is awaited, or entered with `async with`, whose exit cancels the job."""

    def __init__(self, submitting: Coroutine[Any, Any, AsyncJobHandle]) -> None:
        self._submitting = submitting
        self._job: AsyncJobHandle | None = None

    def __await__(self) -> Generator[Any, Any, AsyncJobHandle]:
        return self._submitting.__await__()

    async def __aenter__(self) -> AsyncJobHandle:
        self._job = await self._submitting
        return self._job

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._job is not None:
            await self._job.__aexit__(kind, error, traceback)
