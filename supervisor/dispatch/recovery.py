"""Restores jobs of an earlier server run from the journal's rows: as ended, as waiting, or as lost.

Runs in: supervisor, at its start: after the orphan cleanup, and when the job types are known.

    it had ended            unchanged, for the rest of its `keep_s`
    … and was dropped       its idempotency key only, for the rest of `idempotency_s`
    its start was on disk   `failed`: `supervisor_lost`, or `node_lost` when the machine's boot id is another one
    … and its type says     queued again, RERUNS_MAX times at most, unless it was asked to end
      `on_loss="rerun"`
    it waited               queued again, in the same order; `queue_s` counts anew, `total_s` has gone on
    … for a retry           the same, and at once; its earlier attempts count
    … and its type is gone  `failed`, `spawn`

How many events a lost job had is unknown. Its terminal event gets an id above all that it can have had (each takes at
least one byte of `output_bytes`, except for a few), so that a client that resumes with Last-Event-ID gets it, once. A
job that waited for a retry, or is run again, continues after such a gap with the event `restored`. A row that cannot be
used is set aside, and the other jobs are restored. With `journal_output` all events that anybody has seen are in the
journal, and there is no gap.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from killable.supervisor.clock import Clock
from killable.supervisor.dispatch.dispatcher import Dispatcher
from killable.supervisor.jobs import job_events
from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.jobs.inputs import seal_large_input
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.lifecycle import State
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.journal.journal_file import JournalRow
from killable.supervisor.journal.journal_writer import KEPT_OF_SUBMISSION, JournalWriter
from killable.supervisor.models import JobRecord, JobType, Outcome, Submission
from killable.workers.authoring.limits import DEFAULT_LIMITS, LIMITS, Limits, over
from killable.workers.errors import Refused

EVENTS_BESIDES_OUTPUT = 1 << 16
"""More events than a job has besides its output: a first event for each attempt, a last one."""
RERUNS_MAX = 3
"""How often a job is run again that was lost with its server: it may be what kills the server."""

logger = logging.getLogger("killable.journal")


async def restore(
    rows: Sequence[JournalRow], *, jobs: Dispatcher, registry: Registry, journal_writer: JournalWriter, clock: Clock
) -> None:
    """Restore the jobs of all rows. A row that cannot be used is set aside."""
    restoring = _Restoring(jobs, journal_writer, clock)
    restored = []
    for row in rows:
        try:
            restored.append(restoring.take(row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            journal_writer.set_aside(row, repr(error))
            registry.skip_number(row.number)
    for job in restoring.waiting:
        job.submission = await seal_large_input(job.submission)
    # What follows is one turn of the loop.
    now = clock.now()
    for job, answer in restored:
        if job in restoring.reduced:
            registry.restore_key(job, answer, now)
        else:
            registry.restore(job)
            registry.note_accepted(job, answer)
    taken = {name: len(getattr(restoring, name)) for name in ("ended", "lost", "waiting")}
    logger.info("restored", extra=taken | {"path": journal_writer.journal.path})
    for job in sorted(restoring.ended, key=lambda job: job.ended or 0.0):
        registry.retention.note_end(job, now)
    for job, outcome in restoring.lost:
        jobs.settle(job, outcome)
    for job in restoring.waiting:
        if job.attempts or job.lost_attempts:
            journal_writer.waits(job)  # its first event id is a new one, which must survive this server, too
    jobs.resume(restoring.waiting)


class _Restoring:
    """Sorts rows by what becomes of their jobs."""

    def __init__(self, jobs: Dispatcher, journal_writer: JournalWriter, clock: Clock) -> None:
        self._jobs = jobs
        self._boot = journal_writer.boot
        self._clock = clock
        self.ended: list[Job] = []
        self.lost: list[tuple[Job, Outcome]] = []
        self.waiting: list[Job] = []
        self.reduced: set[Job] = set()
        """Jobs that were dropped and have an idempotency key."""

    def take(self, row: JournalRow) -> tuple[Job, JobRecord]:
        """Return a row's job, and its record at the time of acceptance: the answer to its idempotency key."""
        accepted = row.accepted
        limits = over(DEFAULT_LIMITS, {name: value for name, value in accepted["limits"].items() if name in LIMITS})
        known = {name: value for name, value in accepted["submission"].items() if name in KEPT_OF_SUBMISSION}
        job_type, missing = self._type(accepted, limits)
        job = Job(
            id=row.job_id,
            number=row.number,
            type=job_type,
            submission=Submission(job_type.name, row.pieces.get("input", b""), **known),
            limits=limits,
            log=EventLog(limits["output_bytes"], (row.started or {}).get("first_event", accepted["first_event"])),
            created_at=accepted["created_at"],
            created=self._clock.now() - self._clock.age_s(accepted["created_at"]),
            queued=self._clock.now(),
            state=State.QUEUED if row.ended is None else State(row.ended["state"]),
        )
        answer = job.record(accepted["instance_id"])
        answer = answer._replace(state=State.QUEUED.value, events=accepted["first_event"])
        job.lost_attempts = (row.ended or row.started or {}).get("lost_attempts", 0)
        if row.ended is not None and row.ended.get("reduced"):
            self.reduced.add(job)
        elif row.ended is not None:
            self._end(job, row.ended, row.pieces)
            self.ended.append(job)
        elif row.started is not None and not row.started.get("waits"):
            self._lose(job, row.started, row.pieces, may_rerun=row.stopped is None and not missing)
        else:
            self._wait(job, row.started, row.pieces, missing)
        return job, answer

    def _wait(self, job: Job, started: dict[str, Any] | None, pieces: dict[str, bytes], missing: str) -> None:
        """Queue the job again, or fail it when its type is gone; `missing` is the reason, else empty."""
        if started is not None:
            job.attempts = started["attempt"]
            job.log = self._log_of(job, started, pieces)
            job_events.note_restored(job)
        if missing:
            message = f"the restarted server has no job type {job.type.name}: {missing}"
            self.lost.append((job, Outcome("failed", "spawn", message)))
        else:
            self.waiting.append(job)

    def _type(self, accepted: dict[str, Any], limits: Limits) -> tuple[JobType, str]:
        """Return the job's type and "", or a type that has only its name, and why the type is gone."""
        name, codec = accepted["type"], accepted["codec"]
        try:
            return self._jobs.fleet.type(name), ""
        except Refused as refused:
            gone = JobType(name, "", {}, "", codec, limits, {}, available=False, unavailable_reason=refused.message)
            return gone, refused.message

    def _end(self, job: Job, ended: dict[str, Any], pieces: dict[str, bytes]) -> None:
        job.instance_id, job.durable = ended["instance_id"], True
        job.outcome = Outcome(ended["state"], ended["code"], ended["message"], ended["facts"])
        job.started_at, job.ended_at = ended["started_at"], ended["ended_at"]
        job.ended = self._clock.now() - self._clock.age_s(ended["ended_at"])
        job.attempts, job.worker_id, job.pid = ended["attempts"], ended["worker_id"], ended["pid"]
        job.progress, job.certificate = ended["progress"], ended["certificate"]
        job.result, job.partial = pieces.get("result"), pieces.get("partial")
        job.log = EventLog.decode(pieces.get("events", b""), job.limits["output_bytes"], ended["first_event"])

    def _lose(self, job: Job, started: dict[str, Any], pieces: dict[str, bytes], *, may_rerun: bool) -> None:
        """End the job as lost, with the facts that are known; or queue it again if its type says so."""
        outcome = self._loss_of(started)
        job.attempts = started["attempt"]
        job.log = self._log_of(job, started, pieces)
        if may_rerun and job.type.on_loss == "rerun" and job.lost_attempts < RERUNS_MAX:
            job.lost_attempts += 1
            job_events.note_restored(job, outcome)
            self.waiting.append(job)
            return
        job.instance_id, job.worker_id, job.pid = started["instance_id"], started["worker_id"], started["pid"]
        self.lost.append((job, outcome))

    def _log_of(self, job: Job, started: dict[str, Any], pieces: dict[str, bytes]) -> EventLog:
        """Return the log of a job that had begun, as far as it is known."""
        if started.get("has_output"):
            return _log_from_journal(job, pieces.get("output", b""))
        return _log_after_gap(job)

    def _loss_of(self, started: dict[str, Any]) -> Outcome:
        """Return how an attempt has ended of which no more is known than its start."""
        if started.get("unsure"):
            message = "the journal had lost its end when it was salvaged: whether the job has run is not known"
            return Outcome("failed", "supervisor_lost", message)
        where = (
            f"worker {started['worker_id']} of server instance {started['instance_id']} ran it since {started['at']}, "
            f"attempt {started['attempt']}"
        )
        if started["boot"] == self._boot:
            code, what = "supervisor_lost", f"the server died while the job was running: {where}"
            what += f"; {_ORPHAN_CLEANUP_TEXTS[self._jobs.fleet.swept]}"
        else:
            code = "node_lost"
            what = f"the machine was rebooted or replaced while the job was running: {where}"
        facts = {name: started[name] for name in ("instance_id", "worker_id", "pid", "attempt")}
        facts |= {"assigned_at": started["at"], "boot_id": started["boot"]}
        return Outcome("failed", code, f"{what}; how far it got is not known", facts)


def _log_from_journal(job: Job, output: bytes) -> EventLog:
    """Return the log of a job whose output was written: nobody has seen an event that is not in it."""
    log = EventLog.decode(output, job.limits["output_bytes"], job.log.first)
    log.output_bytes = log.bytes
    job.shown = len(log)
    return log


def _log_after_gap(job: Job) -> EventLog:
    output_bytes = job.limits["output_bytes"]
    return EventLog(output_bytes, job.log.first + output_bytes + EVENTS_BESIDES_OUTPUT)


_ORPHAN_CLEANUP_TEXTS = {
    None: "this start searched for no orphans",
    True: "this server ended the orphans of dead servers that it found before it started",
    False: "the search for orphans of dead servers was not finished when this server started",
}
"""What the message may claim about orphans, by `Fleet.swept`."""
