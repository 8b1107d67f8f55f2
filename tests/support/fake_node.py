"""The supervisor of a simulated node, and the record of what really ran there, on virtual time.

Runs in: the test process. It is in the place of `Supervisor` in a real `NodeHost`. Its jobs are real `Job` objects with
real event logs, and do what their input says: enter, stream, return, raise, or run until they are stopped. Its guard
ends everything when the lease is over that the node host has told it, also while the node's supervisor is frozen.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from killable.supervisor.jobs import lifecycle
from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.jobs.job import Job, JobListener
from killable.supervisor.jobs.lifecycle import DECIDED, Cause, State
from killable.supervisor.models import Certificate, JobType, Outcome, Submission, Verdict
from killable.supervisor.records import PoolRecord, WorkerRecord
from killable.supervisor.settings import Settings
from killable.supervisor.telemetry.observer import Observer
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, Limits, over

if TYPE_CHECKING:
    from support.fake_network import FakeMachine

GUARD_S = 0.1
"""A guard ends everything within this time, measured from the death of its supervisor."""
TYPE = JobType(
    name="work", description="", input_schema={}, pool="a", codec="json", caps={}, streams=True,
    limits=over(DEFAULT_LIMITS, dict.fromkeys(("queue_s", "start_s", "run_s"))),
)  # fmt: skip

AGAIN = TYPE._replace(name="again", on_loss="rerun")
"""Runs again also if it was lost with its head."""
TYPES = {job_type.name: job_type for job_type in (TYPE, AGAIN)}


@dataclass(slots=True, eq=False)
class Run:
    """One attempt that began on a node."""

    job_id: str
    attempt: int
    node: str
    incarnation: str
    began: float
    first_event: int = 0
    ended: float | None = None
    how: str = ""
    """returned · raised · stopped · killed"""
    is_paused: bool = False
    """Its machine stands still."""
    grace_s: float | None = None
    """With which it was stopped."""

    @property
    def is_running(self) -> bool:
        return self.ended is None and not self.is_paused


@dataclass
class Runs:
    """What really ran, on all nodes."""

    all: dict[str, list[Run]] = field(default_factory=dict)
    """By job."""
    violations: list[str] = field(default_factory=list)
    starts: int = 0

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            self.violations.append(f"at {asyncio.get_running_loop().time():.6f}: {what}")

    def begin(self, run: Run) -> None:
        """An attempt begins: it has not run before, and no other one of its job runs."""
        earlier = self.all.setdefault(run.job_id, [])
        self.check(all(each.attempt != run.attempt for each in earlier), f"{run} runs twice: {earlier}")
        self.check(not any(each.is_running for each in earlier), f"{run} begins while another one runs: {earlier}")
        earlier.append(run)
        self.starts += 1

    def of(self, job_id: str) -> list[Run]:
        return self.all.get(job_id, [])


@dataclass(slots=True, eq=False)
class _Active:
    run: Run
    job: Job
    wants: dict[str, Any]
    timer: asyncio.TimerHandle | None = None
    token: int = 0


class FakeNodeSupervisor:
    """Has what `NodeHost` uses of `Supervisor`; `jobs` is itself."""

    def __init__(self, machine: FakeMachine, settings: Settings, observer: Observer) -> None:
        self.machine, self.runs = machine, machine.network.runs
        self.instance_id = f"{machine.name}#{machine.incarnations}"
        self.jobs = self
        self.settings = settings
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._slots = settings.pools[0].workers
        self._active: dict[Job, _Active] = {}
        self._guard: asyncio.TimerHandle | None = None
        self._guard_until: float | None = None
        self._is_dead = False
        spec = settings.pools[0]
        state = "ready" if machine.has_jobs else "broken"
        self._pools = (
            PoolRecord(spec.name, state, "fork", spec.workers, 0, spec.workers, 0, 0, 1, 0, "cgroup+descendants"),
        )

    # ── what NodeHost asks ──

    async def start(self) -> None: ...

    async def pools(self) -> tuple[PoolRecord, ...]:
        return self._pools

    async def job_types(self) -> tuple[JobType, ...]:
        return tuple(TYPES.values()) if self.machine.has_jobs else ()

    async def workers(self) -> tuple[WorkerRecord, ...]:
        return ()

    def type(self, name: str) -> JobType:
        return TYPES[name]

    def run(
        self, job_id: str, job_type: JobType, submission: Submission, in_force: Limits, listener: JobListener, *,
        log: EventLog, attempts: int, since: float, waits_since: float, checkpoint: bytes | None = None,
    ) -> Job:  # fmt: skip
        job = Job(
            job_id, self.runs.starts, job_type, submission, in_force, log, created_at="", created=since,
            queued=waits_since, listener=listener, attempts=attempts + 1, is_of_head=True,
        )  # fmt: skip
        if self._is_dead:
            return job  # nobody is there who would run it
        run = Run(job_id, job.attempts, self.machine.name, self.instance_id, self._loop.time(), log.first)
        self.runs.begin(run)
        self.machine.network.on_run(run)
        wants = json.loads(submission.input)
        active = self._active[job] = _Active(run, job, wants)
        self.runs.check(len(self._active) <= self._slots, f"{self.instance_id} runs {len(self._active)} jobs")
        job.worker_id, job.pid = f"w-{self.runs.starts}", 1000 + self.runs.starts
        self._move(job, Cause.ASSIGNED)
        self._later(active, wants["enter_s"])
        return job

    def stop(self, job: Job, verdict: Verdict, grace_s: float | None) -> None:
        active = self._active.get(job)
        if active is None or job.verdict is not None:
            return
        job.verdict, job.may_retry, active.run.grace_s = verdict, False, grace_s
        self._move(job, Cause.STOP_REQUESTED)
        self._cancel(active)
        self._later(active, active.wants["stop_s"])

    def stop_jobs(self, jobs: Iterable[Job], verdict: Verdict, grace_s: float | None) -> None:
        for job in tuple(jobs):
            self.stop(job, verdict, grace_s)

    def lease(self, until: float) -> None:
        self._guard_until = until
        self._watch()

    async def close(self, grace_s: float | None = None) -> None:
        """End everything; return when nothing runs."""
        self.stop_jobs(list(self._active), Verdict("cancelled", by="shutdown"), 0.0)
        while self._active and not self._is_dead:
            await asyncio.sleep(0.005)
        if self._guard is not None:
            self._guard.cancel()

    def tell_pools(self, **changes: Any) -> None:
        """Tell what has changed of its pools."""
        self._pools = tuple(pool._replace(**changes) for pool in self._pools)
        self._observer.on_pool_changed()

    # ── what happens to the machine ──

    def die(self, within_s: float) -> None:
        """The process is gone. Its guard ends what runs, at once or a moment later."""
        self._is_dead = True
        if self._guard is not None:
            self._guard.cancel()
        if within_s:
            self._guard = self._loop.call_later(within_s, self.kill_all)
        else:
            self.kill_all()

    @property
    def runs_something(self) -> bool:
        return bool(self._active)

    def freeze(self, *, jobs: bool) -> None:
        """It hears and tells nothing. With `jobs` these stand still, too, and so does the guard."""
        if jobs:
            for active in self._active.values():
                self._cancel(active)
                active.run.is_paused = True
            if self._guard is not None:
                self._guard.cancel()

    def thaw(self, *, jobs: bool) -> None:
        """Go on; a guard whose lease is over ends everything first."""
        if jobs:
            self._watch()
            for active in self._active.values():
                active.run.is_paused = False
                self._later(active, 0.05)

    def _watch(self) -> None:
        """Look at the end of the lease: what runs then is killed."""
        if self._guard is not None:
            self._guard.cancel()
        if self._guard_until is None or self._is_dead:
            return
        left_s = self._guard_until - self._loop.time()
        if left_s <= 0:
            self.kill_all()
        else:
            self._guard = self._loop.call_later(left_s, self._watch)

    def kill_all(self) -> None:
        for active in tuple(self._active.values()):
            self._over(active, "killed")
            if not self._is_dead:  # a frozen supervisor sees it when it goes on, if it still may
                self._tell_end(active.job, Outcome("failed", "worker_lost", "its guard has ended it"))

    # ── what jobs do ──

    def _later(self, active: _Active, after_s: float) -> None:
        active.timer = self._loop.call_later(after_s, self._go_on, active)

    @staticmethod
    def _cancel(active: _Active) -> None:
        if active.timer is not None:
            active.timer.cancel()
            active.timer = None

    def _go_on(self, active: _Active) -> None:
        """Do the next thing: enter, write a token, end."""
        job, wants = active.job, active.wants
        if self.machine.is_frozen:  # its supervisor reads it when it goes on
            self._later(active, 0.05)
        elif job.verdict is not None:
            self._over(active, "stopped")
            self._tell_end(job, Outcome(lifecycle.terminal_state_of(job.verdict.code), job.verdict.code, "stopped"))
        elif job.state is State.STARTING:
            self._move(job, Cause.ENTERED)
            job.log.append("started", b"{}")
            if size := wants["checkpoint_bytes"]:
                job.note_checkpoint(b'{"words":"%s"}' % (b"x" * size))
                job.note_checkpoint(b'["%s"]' % (b"y" * size))
            job.wake()
            self._later(active, wants["run_s"] / (1 + wants["tokens"]))
        elif active.token < wants["tokens"]:
            job.log.append("token", b'{"text":"%d"}' % active.token)
            active.token += 1
            job.wake()
            self._later(active, wants["run_s"] / (1 + wants["tokens"]))
        elif wants["end"] == "returns":
            self._over(active, "returned")
            job.result = b'"%s"' % job.id.encode()
            self._tell_end(job, Outcome("completed", None, ""), wants["slot_s"])
        else:
            self._over(active, "raised")
            self._tell_end(job, Outcome("failed", "exception", "it raises"))

    def _over(self, active: _Active, how: str) -> None:
        """No process of it is left."""
        self._cancel(active)
        active.run.ended, active.run.how = self._loop.time(), how
        self._active.pop(active.job, None)

    def _tell_end(self, job: Job, outcome: Outcome, slot_s: float = 0.02) -> None:
        """As the dispatcher of a node does it."""
        if job.state is not State.SWEEPING:
            self._move(job, Cause.EXITED)
        verdict = job.verdict or Verdict("")
        job.certificate = Certificate(
            requested=None if job.verdict is None else 0.0, exited=1.0, reaped=1.0, tree_empty=2.0,
            cause=verdict.code, by=verdict.by, reason=verdict.reason, proof="cgroup+descendants",
        ).as_json()  # fmt: skip
        job.outcome = outcome
        self._move(job, DECIDED[outcome.state])
        job.log.append(outcome.state, b"{}")
        if slot_s:
            after_ms = slot_s * 1000
            self._loop.call_later(slot_s, lambda: self._is_dead or self._observer.on_slot_ready(job, after_ms))
        else:
            job.certificate["slot_ready"] = 3.0
        job.wake()

    def _move(self, job: Job, cause: Cause) -> None:
        job.state = lifecycle.step(job.state, cause)
        self._observer.on_transition(job, cause)


def input_of(
    *, run_s: float = 1.0, tokens: int = 0, end: str = "returns", enter_s: float = 0.002, slot_s: float = 0.02,
    stop_s: float = 0.01, checkpoint_bytes: int = 0,
) -> bytes:  # fmt: skip
    """Return the input of a job that does this: times from the order to its entry, to its end, to a new worker; from a
    stop to its end. `checkpoint_bytes`: it begins with two checkpoints of this size, an object and a list.
    """
    wants: Mapping[str, Any] = {
        "run_s": run_s, "tokens": tokens, "end": end, "enter_s": enter_s, "slot_s": slot_s, "stop_s": stop_s,
        "checkpoint_bytes": checkpoint_bytes,
    }  # fmt: skip
    return json.dumps(wants).encode()
