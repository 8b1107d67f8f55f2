"""All jobs that the server knows: live ones, and ended ones until retention drops them.

Runs in: supervisor. Does no I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter

from killable.supervisor.jobs.idempotency import IdempotencyKeys
from killable.supervisor.jobs.inputs import head_of
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.job_filter import JobFilter
from killable.supervisor.jobs.lifecycle import PUBLIC, State
from killable.supervisor.jobs.retention import Retention
from killable.supervisor.jobs.tenants import Tenants
from killable.supervisor.jobs.wakeup_turns import wakeup_turns
from killable.supervisor.models import ACTIVE_STATES, TERMINAL_STATES, Submission
from killable.supervisor.records import JobCounts, JobRecord, TenantRecord
from killable.supervisor.settings import SupervisorSettings

SEARCH = "search"
"""Under this name searches wait for their turns."""
SEARCHED_A_TURN = 128 << 10
"""Bytes of what jobs say of themselves: a millisecond, if the search has most words."""
SEARCHED_JOB_BYTES, PASSED_JOB_BYTES = 512, 64
"""What it takes beside those to look at one, and to see that it need not be looked at, as if it were bytes."""
STATES = (*ACTIVE_STATES, *TERMINAL_STATES)
_STATE = attrgetter("state")


class Registry:
    """Jobs by id, in order of submission. Live jobs are never dropped."""

    def __init__(
        self,
        settings: SupervisorSettings,
        tenants: Tenants,
        *,
        on_dropped: Callable[[Job, bool], None] | None = None,
        on_forgotten: Callable[[int, bool], None] | None = None,
    ) -> None:
        """`on_dropped` is called for each ended job that retention drops, and with whether its idempotency key is still
        remembered; `on_forgotten` then with its number when that is forgotten, too, and whether that was early.
        """
        self.tenants = tenants
        self.retention = Retention(
            keep_jobs=settings.keep_jobs,
            keep_bytes=settings.keep_bytes,
            keep_s=settings.keep_s,
            keep_files_bytes=settings.keep_files_bytes,
            tenants=tenants,
            drop=self._drop,
        )
        self.idempotency_keys = IdempotencyKeys(
            keep_s=settings.idempotency_s, keys_max=settings.idempotency_keys_max, on_forgotten=on_forgotten
        )
        self._on_dropped = on_dropped
        self._on_forgotten = on_forgotten
        self._jobs: dict[str, Job] = {}
        self._active: dict[str, Job] = {}
        """Those that were not over when they came, until their end is noted."""
        self._numbers = 0
        self._keep_input_bytes = settings.keep_input_bytes

    def __len__(self) -> int:
        return len(self._jobs)

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def add(self, job: Job) -> None:
        self._jobs[job.id] = job
        if not job.is_over:
            self._active[job.id] = job
        if self._keep_input_bytes:
            job.input_head = head_of(job.submission.input, self._keep_input_bytes), len(job.submission.input)
        if job.state is State.QUEUED:
            self.tenants.entered(job)

    def skip_number(self, number: int) -> None:
        """Give no job this number: a row of the journal that was set aside had it."""
        self._numbers = max(self._numbers, number)

    def restore(self, job: Job) -> None:
        """Add a job of an earlier server run, which keeps its number."""
        self._numbers = max(self._numbers, job.number)
        self.add(job)

    def withdraw(self, job: Job) -> None:
        """Remove a job that was not accepted in the end."""
        self.retention.forget(job)
        self._jobs.pop(job.id, None)
        self._active.pop(job.id, None)

    def make_way(self, job_id: str) -> None:
        """Remove an ended job of this id, if there is one: another supervisor runs it again here."""
        job = self._jobs.get(job_id)
        if job is not None and job.is_over:
            self.withdraw(job)

    def get(self, job_id: str, tenant: str | None = None) -> Job:
        """Return a job, with `tenant` only one of its own. Raise Refused: unknown_job."""
        job = self._jobs.get(job_id)
        if job is None or tenant not in (None, job.submission.tenant):
            raise self.retention.unknown(job_id, tenant)
        return job

    def tenant_of(self, job_id: str) -> str | None:
        """Return whose job this is; None: it is not kept."""
        job = self._jobs.get(job_id)
        return None if job is None else job.submission.tenant

    def has(self, job: Job) -> bool:
        """Return whether a job can be read."""
        return self._jobs.get(job.id) is job

    def keeps(self, job: Job) -> bool:
        """Return whether a job has ended and its record can be read."""
        return job.is_over and job.id in self._jobs

    def first_answer(self, submission: Submission, now: float) -> JobRecord | None:
        """Return the first answer to this submission's key, if it is remembered. Nobody has had that of a job that its
        client had left: who comes again with its key wants another.

        Raise Refused: idempotency_conflict.
        """
        first = self.idempotency_keys.first_answer(submission, now)
        job = None if first is None else self._jobs.get(first.job_id)
        return None if job is not None and job.is_abandoned else first

    def knows(self, tenant: str, key: str, now: float) -> bool:
        """Return whether a submission with this key gets a first answer, if it is the same request."""
        job_id = self.idempotency_keys.job_id_of(tenant, key, now)
        job = None if job_id is None else self._jobs.get(job_id)
        return job_id is not None and not (job is not None and job.is_abandoned)

    def note_accepted(self, job: Job, record: JobRecord) -> None:
        """Remember the first answer to an idempotency key."""
        if job.id in self._jobs:
            self.idempotency_keys.note(job, record)

    def restore_key(self, job: Job, record: JobRecord, now: float) -> None:
        """Remember the key of a job of an earlier server run that is no longer kept."""
        self._numbers = max(self._numbers, job.number)
        self.idempotency_keys.note(job, record)
        if not self.idempotency_keys.on_dropped(job, now) and self._on_forgotten is not None:
            self._on_forgotten(job.number, False)

    def active(self) -> list[Job]:
        return [job for job in self._active.values() if not job.is_over]

    def has_active(self) -> bool:
        """Return whether any job is not over yet; the newest are checked first."""
        return any(not job.is_over for job in reversed(self._active.values()))

    def note_end(self, job: Job, now: float) -> None:
        """Hand an ended job to retention, which may drop it. A task of an Executor is removed at once."""
        self._active.pop(job.id, None)
        if job.is_executor_task:
            del self._jobs[job.id]
            return
        self.retention.note_end(job, now)

    def known_tenants(self) -> set[str]:
        """Return every tenant that has something now, or a table of its own."""
        return self.tenants.active() | {tenant for tenant, _, _ in self.retention.shares()}

    def tenant_records(
        self, tenants: Iterable[str], is_operator: Callable[[str], bool] = lambda _: False
    ) -> list[TenantRecord]:
        """Return what each of these has beside its bounds, sorted by name."""
        kept = {tenant: (jobs, size) for tenant, jobs, size in self.retention.shares()}
        return [
            TenantRecord(
                tenant=tenant,
                queued=self.tenants.queued[tenant],
                queued_bytes=self.tenants.queued_bytes[tenant],
                running=self.tenants.running[tenant],
                kept=kept.get(tenant, (0, 0))[0],
                kept_bytes=kept.get(tenant, (0, 0))[1],
                streams=self.tenants.streams[tenant],
                idempotency_keys=self.idempotency_keys.count_alone(tenant),
                bounds=self.tenants.bounds(tenant, operator=is_operator(tenant)).as_json(),
            )
            for tenant in sorted(tenants)
        ]

    def _drop(self, job: Job, now: float) -> None:
        del self._jobs[job.id]
        has_key = self.idempotency_keys.on_dropped(job, now)
        if self._on_dropped is not None:
            self._on_dropped(job, has_key)

    def matching(self, wanted: JobFilter) -> Iterator[Job]:
        """Yield matching jobs, newest first."""
        return filter(wanted.fits, reversed(self._jobs.values()))

    async def search(self, wanted: JobFilter) -> None:
        """Look for the words of a filter in all jobs, in turns of the loop: what follows then finds the answers."""
        if not wanted.words:
            return
        room = 0
        for job in tuple(self._jobs.values()):
            is_asked = wanted.has_to_look(job)
            room -= SEARCHED_JOB_BYTES + job.described_bytes if is_asked else PASSED_JOB_BYTES
            if room < 0:
                await wakeup_turns().turn(SEARCH)
                room = SEARCHED_A_TURN
            if is_asked:
                wanted.missing_words(job)

    def page(self, wanted: JobFilter, limit: int, before: int | None = None) -> tuple[list[Job], int | None]:
        """Return the newest matching jobs below the number `before`, and the `before` of the next page.

        Stable: a job that comes or goes meanwhile does not shift the others.
        """
        found: list[Job] = []
        for job in self.matching(wanted):
            if before is not None and job.number >= before:
                continue
            if len(found) == limit:
                return found, found[-1].number
            found.append(job)
        return found, None

    def count(self, wanted: JobFilter) -> JobCounts:
        """Count the jobs that match, and by public state those that match but for their state."""
        jobs: Iterable[Job] = self._jobs.values()
        if wanted != JobFilter(wanted.state):
            jobs = list(filter(wanted.fits_but_for_state, jobs))
        found = Counter(map(_STATE, jobs))  # in C: ten thousand jobs take half a millisecond
        by_state = dict.fromkeys(STATES, 0)
        for state, number in found.items():
            by_state[PUBLIC[state]] += number
        if by_state["running"]:
            stopping = sum(job.verdict is not None and job.public_state == "stopping" for job in jobs)
            by_state["running"] += by_state["stopping"] - stopping
            by_state["stopping"] = stopping
        states = ACTIVE_STATES if wanted.state == "active" else STATES if wanted.state is None else (wanted.state,)
        return JobCounts(sum(by_state[state] for state in states), by_state)
