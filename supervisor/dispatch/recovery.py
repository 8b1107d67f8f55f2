"""Restores jobs of an earlier server run from the journal's rows: as ended, as waiting, or as lost.

Runs in: supervisor, at its start: after the orphan cleanup, and when the job types are known.

    it had ended            unchanged, for the rest of its `keep_s`
    … and was dropped       its idempotency key only, for the rest of `idempotency_s`
    its start was on disk   `failed`: `supervisor_lost`, or `node_lost` when the machine's boot id is another one
    … and its type says     queued again, RERUNS_MAX times at most, unless it was asked to end
      `on_loss="rerun"`
    … and a node holds it   running: its events come from there once more, from the first of the attempt on
    … and has never got it  queued again
    … and is lost           `failed`, `node_lost`, when its lease is over
    it waited               queued again, in the same order; `queue_s` counts anew, `total_s` has gone on
    … for a retry           the same, when that is due; its earlier attempts count
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
from typing import TYPE_CHECKING, Any

from killable.supervisor.attempts.exit_outcome import message_of
from killable.supervisor.clock import Clock
from killable.supervisor.dispatch.dispatcher import Dispatcher
from killable.supervisor.jobs import job_events
from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.jobs.inputs import seal_large_input
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.lifecycle import State, terminal_state_of
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.journal.job_notes import KEPT_OF_SUBMISSION, JobNotes
from killable.supervisor.journal.journal_file import JournalRow
from killable.supervisor.models import JobType, Outcome, Submission, Verdict
from killable.supervisor.records import JobRecord
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, LIMITS, Limits, over
from killable.workers.errors import Refused

if TYPE_CHECKING:
    from killable.supervisor.files.file_store import FileStore
    from killable.supervisor.pools.pool_protocols import HeldRun, RemotePools

EVENTS_BESIDES_OUTPUT = 1 << 16
"""More events than a job has besides its output: a first event for each attempt, a last one."""
RERUNS_MAX = 3
"""How often a job is run again that was lost with its server: it may be what kills the server."""

logger = logging.getLogger("killable.journal")


async def restore(
    rows: Sequence[JournalRow], *, jobs: Dispatcher, registry: Registry, job_notes: JobNotes, clock: Clock,
    remote: RemotePools | None = None, files: FileStore | None = None,
) -> None:  # fmt: skip
    """Restore the jobs of all rows. A row that cannot be used is set aside. `remote` has told what its nodes hold."""
    restoring = _Restoring(jobs, job_notes, clock, remote)
    restored = []
    for row in rows:
        try:
            restored.append(restoring.take(row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            job_notes.set_aside(row, repr(error))
            registry.skip_number(row.number)
    for job in (*restoring.waiting, *(job for job, *_ in restoring.running)):
        job.submission = await seal_large_input(job.submission)
    if files is not None:
        await _restore_files(files, [job for job, _ in restored if job not in restoring.reduced])
    # What follows is one turn of the loop.
    now = clock.now()
    for job, answer in restored:
        if job in restoring.reduced:
            registry.restore_key(job, answer, now)
        else:
            registry.restore(job)
            registry.note_accepted(job, answer)
    taken = {name: len(getattr(restoring, name)) for name in ("ended", "lost", "waiting", "running")}
    logger.info("restored", extra=taken | {"path": job_notes.journal.path})
    for job in sorted(restoring.ended, key=lambda job: job.ended or 0.0):
        registry.retention.note_end(job, now)
        jobs.call_back(job)
    for job, outcome in restoring.lost:
        jobs.settle(job, outcome)
    for job, held, stop, grace_s in restoring.running:
        jobs.take_over(job, held)
        if stop is not None:
            jobs.stop(job, stop, grace_s)
    for job in restoring.waiting:
        if job.attempts or job.lost_attempts or job in restoring.put_back:
            job_notes.waits(job)  # its first event id is a new one, which must survive this server, too
    jobs.resume(restoring.waiting)


async def _restore_files(files: FileStore, jobs: Sequence[Job]) -> None:
    """Keep the files that jobs have saved, and those that waiting and ended ones use."""
    for job in jobs:
        if job.submission.files:
            job.file_paths = files.use(job.id, job.submission.files)
            if job.is_over:
                files.job_ended(job.id)
        if job.files:
            job.files_folder = files.saved_folder(job.id, job.attempts)
    await files.keep_saved_only(job.files_folder for job in jobs if job.files)


class _Restoring:
    """Sorts rows by what becomes of their jobs."""

    def __init__(self, jobs: Dispatcher, job_notes: JobNotes, clock: Clock, remote: RemotePools | None) -> None:
        self._jobs = jobs
        self._remote = remote
        self._boot = job_notes.boot
        self._clock = clock
        self.ended: list[Job] = []
        self.lost: list[tuple[Job, Outcome]] = []
        self.waiting: list[Job] = []
        self.running: list[tuple[Job, HeldRun, Verdict | None, float | None]] = []
        """Jobs that run on a node, with what they were asked to end, and the grace."""
        self.put_back: set[Job] = set()
        """Jobs that wait, and of which the journal has a start that has not happened."""
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
        job.partial = row.pieces.get("checkpoint")
        job.callback = (row.ended or {}).get("callback")
        job.lost_attempts = (row.ended or row.started or {}).get("lost_attempts", 0)
        if row.ended is not None and row.ended.get("reduced"):
            self.reduced.add(job)
        elif row.ended is not None:
            self._end(job, row.ended, row.pieces)
            self.ended.append(job)
        elif row.started is not None and not row.started.get("waits"):
            if self._goes_on(job, row, missing):
                return job, answer
            self._lose(job, row.started, row.pieces, may_rerun=row.stopped is None and not missing)
        else:
            self._wait(job, row.started, row.pieces, missing)
        return job, answer

    def _goes_on(self, job: Job, row: JournalRow, missing: str) -> bool:
        """Take a job that runs on a node, or that its node has never got; return False if it is neither."""
        started, remote = row.started, self._remote
        if remote is None or started is None or "node" not in started or missing:
            return False
        stopped = dict(row.stopped or {})
        grace_s = stopped.pop("grace_s", None)  # an earlier version has not written it
        stop = Verdict(**stopped) if stopped else None
        held = remote.find(job.id, started)
        if held is not None:
            job.attempts = started["attempt"]
            job.log = self._log_at(job, held.at_event, started, row.pieces)
            job.worker_id = started["worker_id"]
            self.running.append((job, held, stop, grace_s))
        elif remote.never_began(job.id, started):
            job.attempts = started["attempt"] - 1
            job.log = self._log_at(job, started["at_event"], started, row.pieces)
            if stop is None:
                if job.attempts:
                    job_events.note_restored(job)
                self.waiting.append(job)
                self.put_back.add(job)
            else:
                self.lost.append(
                    (job, Outcome(terminal_state_of(stop.code), stop.code, message_of(stop), _facts_of(stop)))
                )
        else:
            return False
        return True

    def _log_at(self, job: Job, at_event: int, started: dict[str, Any], pieces: dict[str, bytes]) -> EventLog:
        """Return the log of a job whose next event, of an attempt that is known, has this id."""
        if started.get("has_output"):
            log = _log_from_journal(job, pieces.get("output", b""))
            if len(log) >= at_event:
                return log
            job.shown = at_event
        return EventLog(job.limits["output_bytes"], at_event)

    def _wait(self, job: Job, started: dict[str, Any] | None, pieces: dict[str, bytes], missing: str) -> None:
        """Queue the job again, or fail it when its type is gone; `missing` is the reason, else empty."""
        if started is not None:
            job.attempts, job.again_at = started["attempt"], started.get("again_at")
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
        job.outcome = Outcome(
            ended["state"], ended["code"], ended["message"], ended["facts"], ended.get("is_transient", False)
        )
        job.started_at, job.ended_at = ended["started_at"], ended["ended_at"]
        job.ended = self._clock.now() - self._clock.age_s(ended["ended_at"])
        job.attempts, job.worker_id, job.pid = ended["attempts"], ended["worker_id"], ended["pid"]
        job.node = ended.get("node")
        job.progress, job.certificate = ended["progress"], ended["certificate"]
        for found in ended.get("files", ()):
            job.files[found["name"]] = found
            job.files_bytes += found["size"]
        job.result, job.partial = pieces.get("result"), pieces.get("partial")
        job.log = EventLog.decode(pieces.get("events", b""), job.limits["output_bytes"], ended["first_event"])

    def _lose(self, job: Job, started: dict[str, Any], pieces: dict[str, bytes], *, may_rerun: bool) -> None:
        """End the job as lost, with the facts that are known; or queue it again if its type says so."""
        outcome = self._loss_of(job.id, started)
        job.attempts = started["attempt"]
        job.log = self._log_of(job, started, pieces)
        if may_rerun and job.type.on_loss == "rerun" and job.lost_attempts < RERUNS_MAX:
            job.lost_attempts += 1
            job_events.note_restored(job, outcome)
            self.waiting.append(job)
            return
        job.instance_id, job.worker_id, job.pid = started["instance_id"], started["worker_id"], started["pid"]
        job.node = started.get("node")
        self.lost.append((job, outcome))

    def _log_of(self, job: Job, started: dict[str, Any], pieces: dict[str, bytes]) -> EventLog:
        """Return the log of a job that had begun, as far as it is known."""
        if started.get("has_output"):
            return _log_from_journal(job, pieces.get("output", b""))
        return _log_after_gap(job)

    def _loss_of(self, job_id: str, started: dict[str, Any]) -> Outcome:
        """Return how an attempt has ended of which no more is known than its start."""
        if started.get("unsure"):
            message = "the journal had lost its end when it was salvaged: whether the job has run is not known"
            return Outcome("failed", "supervisor_lost", message)
        where = (
            f"worker {started['worker_id']} of server instance {started['instance_id']} ran it since {started['at']}, "
            f"attempt {started['attempt']}"
        )
        facts = {name: started[name] for name in ("instance_id", "worker_id", "pid", "attempt")}
        facts |= {"assigned_at": started["at"], "boot_id": started["boot"]}
        if "node" in started:
            code, what = "node_lost", f"the server died while node {started['node']} ran the job: {where}"
            fenced, how = "", "this server has no nodes, and does not know whether it has ended"
            if self._remote is not None:
                fenced, how = self._remote.fence_of(job_id, started)
            what += f"; {how}"
            facts |= {"node": started["node"], "incarnation": started["incarnation"], "fenced": fenced}
        elif started["boot"] == self._boot:
            code, what = "supervisor_lost", f"the server died while the job was running: {where}"
            what += f"; {_ORPHAN_CLEANUP_TEXTS[self._jobs.fleet.swept]}"
        else:
            code = "node_lost"
            what = f"the machine was rebooted or replaced while the job was running: {where}"
        return Outcome("failed", code, f"{what}; how far it got is not known", facts)


def _facts_of(stop: Verdict) -> dict[str, Any]:
    return {"by": stop.by, "reason": stop.reason}


def _log_from_journal(job: Job, output: bytes) -> EventLog:
    """Return the log of a job whose output was written: nobody has seen an event that is not in it."""
    log = EventLog.decode(output, job.limits["output_bytes"], job.log.first)
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
