"""One worker as the supervisor sees it: warm, busy with one attempt, on its way out.

Runs in: supervisor. Hears its process (`seam.ProcessListener`) and passes on: to its attempt what belongs to a job,
to its pool what belongs to the worker.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Protocol

from killable.supervisor import event_loops
from killable.supervisor.jobs.job import Job
from killable.supervisor.models import Verdict, WorkerId, WorkerRecord
from killable.supervisor.pools.lease import Lease
from killable.supervisor.ports import Gone, Process, Usage
from killable.supervisor.settings import PoolSpec
from killable.workers.protocol.frames import Frame
from killable.workers.protocol.messages import IDLE_FREE, Broken, Kind, Ready
from killable.workers.protocol.shared_memory import MemoryFile, ResultBuffer

_RESULT, _IDLE = int(Kind.RESULT), int(Kind.IDLE)

SAID_BYTES_MAX = 4096
"""What is kept of a worker's output before it is ready: why it never was."""


class WorkerStage(Enum):
    SPAWNING = "spawning"
    IDLE = "idle"
    BUSY = "busy"
    """With an attempt, or ending one: its slot is taken until its tree is empty."""
    LEAVING = "leaving"
    """Killed, or failed, without an attempt."""
    QUARANTINED = "quarantined"
    GONE = "gone"

    __hash__ = object.__hash__  # Enum's own is written in Python, and workers are counted by stage twice a job


class WorkerOwner(Protocol):
    """The pool, as a worker sees it."""

    def on_stage(self, was: WorkerStage, stage: WorkerStage) -> None: ...
    def on_worker_ready(self, worker: Worker) -> None: ...
    def on_worker_failed(self, worker: Worker, why: str, errno: int | None) -> None:
        """It died, or said that it is broken, before it was ready."""
        ...

    def on_worker_retired(self, worker: Worker, job_id: str, why: str) -> None:
        """It was to be used again, and cannot be."""
        ...

    def on_worker_free(self, worker: Worker) -> None:
        """Its attempt is over and it can take another."""
        ...

    def on_worker_gone(self, worker: Worker) -> None: ...
    def on_worker_quarantined(self, worker: Worker) -> None: ...


class Occupant(Protocol):
    """What keeps a worker busy: an attempt, as its worker sees it."""

    job: Job

    def stop(self, verdict: Verdict, grace_s: float | None = None) -> None: ...
    def on_frames(self, frames: list[Frame]) -> None: ...
    def on_output(self, data: bytes) -> None: ...
    def on_notifications(self, notifications: bytes) -> None: ...
    def on_protocol_error(self, why: str) -> None: ...
    def on_exited(self) -> None: ...
    def on_gone(self, gone: Gone) -> None: ...


class Worker:
    """Never given another attempt once it was signalled."""

    process: Process

    def __init__(
        self, worker_id: WorkerId, owner: WorkerOwner, spec: PoolSpec, *, start_method: str, born: float
    ) -> None:
        self.id = worker_id
        self._stage = WorkerStage.SPAWNING
        self.attempt: Occupant | None = None
        self.signalled = False
        self.served = 0
        self._owner = owner
        self._spec = spec
        self._start_method = start_method
        self._born = born
        self._forked = False
        self._ready = False
        self._exited = False
        self._broken: Broken | None = None
        self._said = b""
        self.lease: Lease | None = None
        """While a caller's thread may give it an order."""
        self._result_buffer: ResultBuffer | None = None
        """Ours of the file in which a large result will lie."""
        self._result_buffer_passed = False
        self._gone = asyncio.Event()

    @property
    def stage(self) -> WorkerStage:
        return self._stage

    @stage.setter
    def stage(self, stage: WorkerStage) -> None:
        was, self._stage = self._stage, stage
        self._owner.on_stage(was, stage)

    @property
    def may_go_on(self) -> bool:
        """Whether it may be given another attempt, whatever it says of itself."""
        jobs_max = self._spec.jobs_per_worker_max
        return not self.signalled and (jobs_max == 0 or self.served < jobs_max)

    def take(self, attempt: Occupant) -> None:
        """Hold this attempt; only an idle worker may."""
        assert self.stage is WorkerStage.IDLE and not self.signalled, self
        self.stage = WorkerStage.BUSY
        self.attempt = attempt
        self.served += 1

    def release(self) -> None:
        """The attempt is over and nothing of it is left: idle again."""
        self.attempt = None
        self.stage = WorkerStage.IDLE
        self._owner.on_worker_free(self)

    def lend(self, fence: int, *, quiet: bool) -> Lease:
        """Let a caller's thread give it an order, which begins the attempt `fence`."""
        lease = Lease(
            self.id, self.process, fence, self.result_buffer_to_pass(), quiet=quiet, on_over=self._on_lease_over
        )
        self.lease = lease
        self.process.hold(fence)
        return lease

    def _on_lease_over(self) -> None:
        self.lease = None

    def come_home(self) -> None:
        """Whatever happens to it next, no caller's thread is to meet it; one that was there before has its attempt."""
        if self.lease is not None:
            self.lease.come_home()

    def announce_busy(self) -> None:
        """Its pool has to know at once whether it is idle: there is no spare for it."""
        if self.lease is not None:
            self.lease.quiet = False
            self.lease.promote()

    def _promote_lease(self) -> None:
        """Something is heard of it: of a call that a caller's thread has given it, if there is one."""
        if self.lease is not None:
            self.lease.promote()

    def retire(self, why: str) -> None:
        """Let it end by itself; it is busy until its attempt is proven gone. `why` is what that has left."""
        if why and self.attempt is not None:
            self._owner.on_worker_retired(self, self.attempt.job.id, why)
        self.process.retire()

    def kill(self) -> None:
        """End a worker that holds no attempt."""
        self.come_home()
        assert self.attempt is None, self
        self.signalled = True
        self.stage = WorkerStage.LEAVING
        self.process.kill()
        self.process.retire()  # should it not be ours to signal, it ends by itself

    def mark_lost(self) -> None:
        """Its zygote has ended, or its guard, and it dies with that: it is given no other attempt."""
        self.come_home()
        self.signalled = True
        if self.stage is WorkerStage.IDLE:
            self.stage = WorkerStage.LEAVING

    def quarantine(self) -> None:
        """Give it up: its attempt hears nothing more, its slot is lost until it goes after all."""
        self.stage = WorkerStage.QUARANTINED
        self.attempt = None
        self._owner.on_worker_quarantined(self)

    def result_buffer_to_pass(self) -> int:
        """Return a file for the next large result, to go along with an order; -1: its process has one."""
        if self._result_buffer_passed:
            return -1
        if self._result_buffer is None:
            try:
                self._result_buffer = ResultBuffer()
            except OSError:
                return -1  # no descriptor is left: results go through the pipe
        return self._result_buffer.descriptor

    def note_result_buffer_passed(self) -> None:
        self._result_buffer_passed = self._result_buffer is not None

    def take_result_buffer(self) -> MemoryFile:
        """Return the result that was laid into it. Raise ValueError when there is none."""
        if self._result_buffer is None:
            raise ValueError("no file for a result was given to this process")
        result_buffer, self._result_buffer = self._result_buffer, None
        self._result_buffer_passed = False
        return result_buffer.take()

    def leave_to_parent(self) -> None:
        """In a fork of this process."""
        if self._result_buffer is not None:
            self._result_buffer.close()

    async def until_gone(self, timeout_s: float) -> None:
        """Wait until nothing of its process is left, at most `timeout_s`."""
        await event_loops.came(self._gone, timeout_s)

    def _leave(self) -> None:
        self.stage = WorkerStage.GONE
        self._gone.set()
        if self._result_buffer is not None:
            self._result_buffer.close()

    # ── what its process reports ──

    def on_forked(self, pid: int) -> None:
        self._forked = True
        self._become_idle()

    def on_fork_failed(self, errno: int, why: str) -> None:
        self._leave()
        self._owner.on_worker_failed(self, f"fork failed: {why}", errno)
        self._owner.on_worker_gone(self)

    def on_frames(self, frames: list[Frame]) -> None:
        if self.lease is not None:
            if self._completes(self.lease, frames):
                return
            self._promote_lease()
        if self.attempt is not None:
            self.attempt.on_frames(frames)
            return
        for frame in frames:
            if self.stage is not WorkerStage.SPAWNING:
                continue  # a late word of an attempt that is over
            try:
                word = _first_word(frame)
            except (ValueError, TypeError, RecursionError) as error:
                self.on_protocol_error(f"a frame of kind {frame.kind} that cannot be read: {error}")
                return
            if isinstance(word, Broken):
                self._broken = word
            else:
                if word.cgroup_errno:
                    self.process.without_cgroup()
                self._ready = True
                self._become_idle()

    def _completes(self, lease: Lease, frames: list[Frame]) -> bool:
        """Take the end of a call of which nothing else was ever heard; return whether it is that."""
        if len(frames) != 2:
            return False
        (kind, fence, sequence, result), last = frames
        if kind != _RESULT or fence != lease.fence or sequence or last != (_IDLE, fence, 1, IDLE_FREE):
            return False
        self.process.read_output()  # what it has printed makes an attempt of it
        self.served += 1  # `may_go_on` has to count this call
        if not lease.is_given or lease.is_over or not (self.may_go_on and self.process.let_go()):
            self.served -= 1
            return False
        call = lease.end()
        assert call is not None, self
        self.note_result_buffer_passed()
        try:
            self._owner.on_worker_free(self)  # first: whoever sees its result finds the worker ready
        finally:
            call.complete(result)
        return True

    def _become_idle(self) -> None:
        """Its own word and the zygote's come by two ways, in any order: without the pidfd it could not be stopped."""
        alive = not self._exited and not self.signalled
        if self._ready and self._forked and alive and self.stage is WorkerStage.SPAWNING:
            self.stage = WorkerStage.IDLE
            self._owner.on_worker_ready(self)

    def on_output(self, data: bytes) -> None:
        self._promote_lease()
        if self.attempt is not None:
            self.attempt.on_output(data)
        elif self.stage is WorkerStage.SPAWNING:
            self._said = (self._said + data)[-SAID_BYTES_MAX:]

    def on_notifications(self, notifications: bytes) -> None:
        self._promote_lease()
        if self.attempt is not None:
            self.attempt.on_notifications(notifications)

    def on_protocol_error(self, why: str) -> None:
        self.come_home()
        if self.attempt is not None:
            self.attempt.on_protocol_error(why)
        elif self.stage is WorkerStage.SPAWNING:
            self._broken = Broken(f"what it said before it was ready makes no sense: {why}")
            self.kill()
        elif self.stage is not WorkerStage.GONE:
            self.kill()

    def on_exited(self) -> None:
        self.come_home()
        if self.attempt is not None:
            if self.process.killed_for is not None:
                self.attempt.stop(self.process.killed_for, 0.0)
            self.attempt.on_exited()
        else:
            self._exited = True
            if self.stage is WorkerStage.IDLE:
                self.stage = WorkerStage.LEAVING  # no job must be given to it any more

    def on_gone(self, gone: Gone) -> None:
        failed = self.stage is WorkerStage.SPAWNING or self._broken is not None
        self._leave()
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            attempt.on_gone(gone)
        if failed and not gone.zygote_lost:  # else the zygote's end is the failure, and counts once
            said = self._said.decode("utf-8", "replace")
            broken = self._broken or Broken(f"{_how_it_ended(gone)}\n{said}".rstrip())
            self._owner.on_worker_failed(self, broken.why, broken.errno)
        self._owner.on_worker_gone(self)

    @property
    def state(self) -> str:
        """Its stage; `stopping` while its attempt is being ended."""
        if self.attempt is not None and self.attempt.job.public_state == "stopping":
            return "stopping"
        return self.stage.value

    def record(self, now: float, usage: Usage) -> WorkerRecord:
        attempt = self.attempt
        return WorkerRecord(
            worker_id=self.id,
            pool=self._spec.name,
            pid=self.process.pid,
            state=self.state,
            job_id=attempt.job.id if attempt else None,
            type=attempt.job.type.name if attempt else None,
            attempt=attempt.job.attempts if attempt else None,
            age_s=round(now - self._born, 3),
            jobs=self.served,
            start_method=self._start_method,
            proof=self.process.proof,
            cpu=usage.cpu,
            rss_bytes=usage.rss_bytes,
            uss_bytes=usage.uss_bytes,
        )

    def __repr__(self) -> str:
        job = f" job={self.attempt.job.id} attempt={self.attempt.job.attempts}" if self.attempt else ""
        return f"<Worker {self.id} {self.stage.value}{job} pid={self.process.pid}>"


def _first_word(frame: Frame) -> Ready | Broken:
    """Return what a worker says before it has a job. Raise ValueError, TypeError, RecursionError for anything else."""
    match frame.kind:
        case Kind.READY:
            return Ready.decode(frame.payload)
        case Kind.BROKEN:
            return Broken.decode(frame.payload)
    raise ValueError("it has no job yet")


def _how_it_ended(gone: Gone) -> str:
    if gone.ending is None:
        return "the worker ended before it was ready, and nobody knows how"
    if gone.ending.signal is not None:
        return f"the worker was killed by signal {gone.ending.signal} before it was ready"
    return f"the worker ended with exit code {gone.ending.exit_code} before it was ready"
