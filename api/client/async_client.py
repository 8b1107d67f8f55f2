"""The Python client on asyncio: `Client` with async and await. Leaving a task cancels what it had running.

Runs in: any machine (no supervisor, no Linux).

    async with AsyncClient() as c:
        async with c.submit("split", {"text": t}, limits={"run_s": 60}) as job:
            async for token in job:
                print(token, end="")

Errors, units and defaults are those of `blocking.Client`. When the task is cancelled inside such a block, in `run` or
in a `submit`, the remote job is cancelled too, and the CancelledError goes on when the certificate has come, 30 s later
at most.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from killable.api.client.async_transport import AsyncTransport
from killable.api.client.exchange import ANSWER_S, CONNECT_S, Server
from killable.api.client.job_calls import JobCalls
from killable.api.client.outcomes import Ending, Event, Record, job_error, token_of
from killable.api.client.retries import RETRIES, Asking
from killable.api.client.server_calls import ServerCalls
from killable.api.client.stream_reading import Reading
from killable.api.client.submission import JobOptions, PendingSubmission, Submitting

__all__ = ["AsyncClient", "AsyncJobHandle", "AsyncSubmission"]


class AsyncClient:
    """A killable server. Safe to share between the tasks of one event loop; close it, or use it with `async with`."""

    def __init__(
        self, url: str | None = None, *, uds: str | None = None, api_key: str | None = None,
        headers: Mapping[str, str] | None = None, http: httpx.AsyncClient | None = None, retries: int = RETRIES,
        connect_s: float = CONNECT_S, answer_s: float = ANSWER_S,
    ) -> None:  # fmt: skip
        """Open nothing yet; everything as in `Client`, but for `http`, an httpx.AsyncClient of your own."""
        server = Server.at(url, uds=uds, api_key=api_key, headers=headers, connect_s=connect_s, answer_s=answer_s)
        self.address = server.address
        self._asking = Asking(server, retries)
        self._calls = ServerCalls(self._asking)
        self._submitting = Submitting(self._asking)
        self._transport = AsyncTransport(server, http)

    def submit(
        self, type: str, input: Mapping[str, Any] | None = None, **options: Unpack[JobOptions]
    ) -> AsyncSubmission:
        """Start a job: `job = await c.submit(...)`, which runs on, or `async with c.submit(...) as job`.

        Options as in `Client.submit`. Raise Refused; for `invalid` it has every fault.
        """
        return AsyncSubmission(self._submit(PendingSubmission.of(type, input, **options)))

    async def run(
        self, type: str, input: Mapping[str, Any] | None = None, *, timeout_s: float | None = None,
        **options: Unpack[JobOptions],
    ) -> Any:  # fmt: skip
        """Run a job and return its result; options as for `submit`.

        After `timeout_s`, or when the task is cancelled (asyncio.timeout, wait_for), the job is cancelled and dead, and
        JobTimedOut or the CancelledError raised. Raise the JobError of a job that did not complete.
        """
        submission = PendingSubmission.of(type, input, **options)
        run, undo = self._submitting.run(submission, timeout_s), self._submitting.abandon(submission)
        return await self._transport.do(run, undo)

    def job(self, id: str) -> AsyncJobHandle:
        """Return the job of this full id, without asking whether it exists."""
        return AsyncJobHandle(self._transport, JobCalls(self._asking, id))

    async def jobs(
        self, *, state: str | None = None, type: str | None = None, tag: str | None = None
    ) -> AsyncIterator[Record]:
        """Yield short records, newest first; `state` may be `active`, `tag` is `key:value`."""
        query, cursor = {"state": state, "type": type, "tag": tag}, None
        while True:
            page, cursor = await self._transport.do(self._calls.page(query, cursor))
            for record in page:
                yield record
            if cursor is None:
                return

    async def cancel_matching(
        self, *, type: str | None = None, tag: str | None = None, state: str | None = None, reason: str = "",
        grace_s: float | None = None, dry_run: bool = False,
    ) -> Record:  # fmt: skip
        """Cancel every job that matches all that is given, and wait for their ends, 60 s at most."""
        return await self._transport.do(self._calls.cancel_matching(type, tag, state, reason, grace_s, dry_run))

    async def types(self) -> list[Record]:
        """Return the job types that can be started, with the JSON Schema of each one's input."""
        return await self._transport.do(self._calls.member("/v1/job-types", "job_types"))

    async def workers(self) -> list[Record]:
        """Return the server's worker processes."""
        return await self._transport.do(self._calls.member("/v1/workers", "workers"))

    async def workers_and_retired(self) -> Record:
        """Return `workers` and `retired`: the latest that were not used again, `why` being what a job had left."""
        return await self._transport.do(self._calls.get("/v1/workers"))

    async def worker(self, id: str) -> Record:
        """Return one worker process. Raise Refused `unknown_worker`."""
        return await self._transport.do(self._calls.worker(id))

    async def kill_worker(self, id: str, reason: str = "") -> Record:
        """Kill one worker process, whose job ends cancelled by the operator, and wait for its end, 60 s at most."""
        return await self._transport.do(self._calls.kill_worker(id, reason))

    async def drain(self, deadline_s: float | None = None) -> Record:
        """Take no new jobs; after `deadline_s` cancel what still runs. Return how it stands, as `drained`."""
        return await self._transport.do(self._calls.drain("POST", deadline_s))

    async def undrain(self) -> Record:
        """Take jobs again. Raise Refused `draining` when the server is shutting down."""
        return await self._transport.do(self._calls.drain("DELETE"))

    async def drained(self) -> Record:
        """Return `{draining, shutting_down, deadline_s, running, queued}`."""
        return await self._transport.do(self._calls.drain("GET"))

    async def shutdown(self, grace_s: float | None = None, deadline_s: float = 0.0, reason: str = "") -> Record:
        """Drain, let jobs end for `deadline_s`, cancel the rest, and end the server. Return at once."""
        return await self._transport.do(self._calls.shutdown(grace_s, deadline_s, reason))

    async def metrics(self) -> Record:
        """Return the server's counts, as `jobs_completed` and `cancel_ms: {p50, p95, p99}`."""
        return await self._transport.do(self._calls.get("/v1/metrics"))

    async def exposition(self) -> str:
        """Return the server's metrics as Prometheus text."""
        return await self._transport.do(self._calls.exposition())

    async def info(self) -> Record:
        """Return which server this is: `{version, instance_id, started_at, features, pid}`."""
        return await self._transport.do(self._calls.get("/v1/info"))

    async def ready(self) -> Record:
        """Return what is ready and what degraded. Raise Refused `draining` when no job can start."""
        return await self._transport.do(self._calls.ready())

    async def aclose(self) -> None:
        """Close the connections; jobs go on. May be called twice; whatever is asked afterwards is Refused."""
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
    """One job on the server. Leaving it as a context manager cancels it, unless its end was seen."""

    def __init__(self, transport: AsyncTransport, calls: JobCalls) -> None:
        self.id = calls.id
        self.accepted = calls.accepted
        self.is_replay = calls.is_replay
        self.correlation_id = calls.correlation_id
        self._transport = transport
        self._calls = calls

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Yield the job's tokens from the first, then raise the typed error of a job that did not complete."""
        async with aclosing(self.events()) as events:
            async for event in events:
                if event.name == "token":
                    yield token_of(event.data)
                elif event.is_terminal and event.name != "completed":
                    raise job_error(event.data)

    async def events(self, after: int | None = None) -> AsyncGenerator[Event, None]:
        """Yield the events after that id, to the terminal one, each once; a broken connection is taken up again."""
        async with aclosing(self._transport.events(Reading(self._calls.asking, self.id, after))) as events:
            async for event in events:
                self._calls.is_over |= event.is_terminal
                yield event

    async def result(self, wait_s: float | None = None) -> Any:
        """Return what the job returned. Raise NotEnded when the wait is over, or the JobError of its end."""
        return await self._transport.do(self._calls.result(wait_s))

    async def cancel(self, grace_s: float | None = None, reason: str = "", *, wait_s: float | None = None) -> Ending:
        """Stop the job and return how it ended, when everything that it had started is dead, or `wait_s` is over."""
        return await self._transport.do(self._calls.cancel(grace_s, reason, wait_s))

    async def record(self) -> Record:
        """Return the job's record as it stands."""
        return await self._transport.do(self._calls.record())

    async def output(self) -> bytes:
        """Return the tokens so far, one after the other, also after a kill."""
        return await self._transport.do(self._calls.output())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._transport.finish(self._calls.leave(error))

    def __repr__(self) -> str:
        return f"<AsyncJob {self.id}>"


class AsyncSubmission:
    """A submission that is made when it is awaited, or entered: then leaving the block cancels what still runs."""

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
