"""One worker as the supervisor sees it: warm, busy with one attempt, or leaving.

Runs in: supervisor. Implements `ports.ProcessListener`: reports on a job go to its attempt, those on the worker to
its pool.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Protocol

from killable.supervisor import event_loops
from killable.supervisor.jobs.job import Job
from killable.supervisor.models import Verdict, WorkerId
from killable.supervisor.pools.lane import Lane, LaneHolder
from killable.supervisor.pools.start_failures import kept_output, why_not_ready
from killable.supervisor.ports import Gone, Process, Sample
from killable.supervisor.records import WorkerRecord
from killable.supervisor.settings import PoolSpec
from killable.workers.protocol.frames import Frame
from killable.workers.protocol.messages import Broken, Kind, Ready
from killable.workers.protocol.shared_memory import MemoryFile, ResultBuffer


class WorkerStage(Enum):
    SPAWNING = "spawning"
    IDLE = "idle"
    BUSY = "busy"
    """Holds an attempt, or is ending one: its slot is taken until its process tree is empty."""
    RESERVED = "reserved"
    """Idle, and kept for a job whose start is being written to the journal."""
    LEAVING = "leaving"
    """Killed or failed, without an attempt."""
    QUARANTINED = "quarantined"
    GONE = "gone"

    __hash__ = object.__hash__  # Enum's is written in Python, and workers are counted by stage twice per job


class WorkerOwner(Protocol):
    """The pool, as a worker sees it."""

    def on_stage(self, was: WorkerStage, stage: WorkerStage) -> None: ...
    def on_worker_ready(self, worker: Worker) -> None: ...
    def on_early_output(self, data: bytes, stream: str) -> None:
        """Take what a worker has printed before it was ready."""
        ...

    def on_worker_failed(self, worker: Worker, why: str, errno: int | None, *, of_code: bool) -> None:
        """Count a worker that died, or reported that it is broken, before it was ready.

        `of_code`: it reported that what it runs at its start has failed.
        """
        ...

    def on_worker_retired(self, worker: Worker, job_id: str, why: str) -> None:
        """Record a worker that was to be reused and cannot be."""
        ...

    def on_worker_free(self, worker: Worker) -> None:
        """Make a worker available whose attempt is over."""
        ...

    def on_worker_idle(self, worker: Worker) -> None:
        """Take note that a worker with a lane has no call any more."""
        ...

    def when_warm(self, callback: Callable[[], None]) -> None: ...
    def on_worker_ending(self) -> None:
        """Take note that a worker was killed or has exited; `on_worker_gone` follows."""
        ...

    def on_worker_gone(self, worker: Worker, why: str) -> None:
        """Forget it. `why`: one of `records.REPLACED`."""
        ...

    def on_worker_quarantined(self, worker: Worker) -> None: ...


class Occupant(Protocol):
    """The attempt that keeps a worker busy, as the worker sees it."""

    job: Job

    def stop(self, verdict: Verdict, grace_s: float | None = None) -> None: ...
    def on_frames(self, frames: list[Frame]) -> None: ...
    def on_tokens(self, fence: int, sequence: int, tokens: list[bytes]) -> None: ...
    def on_output(self, data: bytes, stream: str = "stdout") -> None: ...
    def on_notifications(self, notifications: bytes) -> None: ...
    def on_protocol_error(self, why: str) -> None: ...
    def on_exited(self) -> None: ...
    def on_gone(self, gone: Gone) -> None: ...


class Worker:
    """One worker. It never gets another attempt once it was signalled."""

    process: Process

    def __init__(
        self, worker_id: WorkerId, owner: WorkerOwner, spec: PoolSpec, *, start_method: str, born: float,
        generation: int = 1,
    ) -> None:  # fmt: skip
        self.id = worker_id
        self._stage = WorkerStage.SPAWNING
        self.attempt: Occupant | None = None
        self.signalled = False
        self.served = 0
        self._owner = owner
        self._spec = spec
        self._start_method = start_method
        self._born = born
        self._generation = generation
        self._forked = False
        self._ready = False
        self._exited = False
        self._broken: Broken | None = None
        self._early_output = b""
        self.lane: Lane | None = None
        """Set while threads of the program may give the worker calls."""
        self._leaves_for = ""
        """Why it was asked to end by itself, of `records.REPLACED`; empty: it was not."""
        self._is_spoilt = False
        """A call that has run through has left a process there: it is to get no other."""
        self.last = 0
        """The fence of the last call or job that it has ended, as far as its frames were read; negative: with IDLE."""
        self._result_buffer: ResultBuffer | None = None
        """The supervisor's side of the shared memory that takes a large result."""
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
    def may_be_reused(self) -> bool:
        """Return whether it may get another attempt, apart from what the worker itself reports."""
        jobs_max = self._spec.jobs_per_worker_max
        return not self.signalled and (jobs_max == 0 or self.served < jobs_max)

    def take(self, attempt: Occupant) -> None:
        """Hold this attempt. The worker must be idle."""
        assert self.stage in (WorkerStage.IDLE, WorkerStage.RESERVED) and not self.signalled, self
        self.stage = WorkerStage.BUSY
        self.attempt = attempt
        self.served += 1

    def reserve(self) -> None:
        """Be kept for a job that is not its own yet. The worker must be idle."""
        assert self.stage is WorkerStage.IDLE, self
        self.stage = WorkerStage.RESERVED

    def is_reserved(self) -> bool:
        """Return whether it is still there for the job that it was kept for."""
        return self.stage is WorkerStage.RESERVED and not self.process.look_for_exit()

    def unreserve(self) -> None:
        """Become idle again: the job does not come. Does nothing when the worker has gone meanwhile."""
        if self.stage is WorkerStage.RESERVED:
            self.release()

    def release(self) -> None:
        """Become idle again: the attempt is over and nothing of it is left."""
        self.attempt = None
        self.stage = WorkerStage.IDLE
        self._owner.on_worker_free(self)

    def open_lane(self, holder: LaneHolder, fences: Iterator[int], *, quiet: bool) -> Lane:
        """Let threads of the program give the worker calls; each takes the next of `fences`."""
        jobs_max = self._spec.jobs_per_worker_max
        room = math.inf if jobs_max == 0 else jobs_max - self.served
        self.lane = Lane(self, holder, fences, result_buffer=self.result_buffer_to_pass(), room=room, quiet=quiet)
        return self.lane

    def calls(self) -> int:
        """Return how many calls are in its lane."""
        return 0 if self.lane is None else len(self.lane)

    def revoke_lane(self) -> None:
        """End the lane, if any: no thread of the program may use the worker. Its call, if any, becomes an attempt."""
        if self.lane is not None:
            self.lane.revoke()

    def announce_busy(self) -> None:
        """Have the pool learn at once when the worker is busy: there is no spare for it."""
        if self.lane is not None:
            self.lane.quiet = False
            self.lane.settle()

    # ── LaneWorker ──

    def on_ran(self, count: int, *, is_idle: bool) -> None:
        self.served += count  # `may_be_reused` has to count these calls
        self._is_spoilt = self.process.shares_cgroup()
        if self._is_spoilt and self.lane is not None:
            self.lane.is_closed = True  # nothing more is lined up, until `on_frames` ends it
        elif is_idle:
            self._owner.on_worker_idle(self)

    def on_lane_over(self, *, is_dying: bool) -> None:
        self.lane = None
        if is_dying:
            self.mark_lost()  # else the next job would die with it, and be taken for the one that was cancelled

    def retire(self, why: str) -> None:
        """Let it end by itself. It is busy until its attempt is proven gone. `why`: what the attempt left behind."""
        if why and self.attempt is not None:
            self._owner.on_worker_retired(self, self.attempt.job.id, why)
        self._leaves_for = "served" if self.served == self._spec.jobs_per_worker_max else "retired"
        self.process.retire()

    def leave(self) -> None:
        """Let a worker end by itself that holds no attempt: it is to get none any more."""
        self.revoke_lane()
        if self.stage is WorkerStage.IDLE:
            self.stage = WorkerStage.LEAVING
            self._leaves_for = "retired" if self._is_spoilt else "reloaded"
            self.process.retire()

    def kill(self) -> None:
        """Kill a worker that holds no attempt."""
        self.revoke_lane()
        assert self.attempt is None, self
        self.signalled = True
        self.stage = WorkerStage.LEAVING
        self.process.kill()
        self.process.retire()  # where it cannot be signalled, it ends by itself

    def on_killed(self) -> None:
        """Take note that its attempt was sent SIGKILL."""
        self._owner.on_worker_ending()

    def mark_lost(self) -> None:
        """Mark it lost: it is dying, or will with its zygote or guard, which has ended. It gets no other attempt."""
        self.revoke_lane()
        self.signalled = True
        if self.stage in (WorkerStage.IDLE, WorkerStage.RESERVED):
            self.stage = WorkerStage.LEAVING

    def quarantine(self) -> None:
        """Give the worker up: its attempt gets no more reports, its slot is lost until the process goes after all."""
        self.stage = WorkerStage.QUARANTINED
        self.attempt = None
        self._owner.on_worker_quarantined(self)

    def result_buffer_to_pass(self) -> int:
        """Return a file for the next large result, to pass with an order; -1: the process has one, or none is free."""
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
        """Return the result that was written to shared memory. Raise ValueError when there is none."""
        if self._result_buffer is None:
            raise ValueError("no result buffer was sent to this process")
        result_buffer, self._result_buffer = self._result_buffer, None
        self._result_buffer_passed = False
        return result_buffer.take()

    def close_result_buffer(self) -> None:
        """Close it in a fork of this process, and when the pool is closed. May be called twice."""
        if self._result_buffer is not None:
            self._result_buffer.close()

    @property
    def pid(self) -> int | None:
        return self.process.pid

    async def measured(self, *, alone: bool) -> Sample | None:
        return await self.process.measured(alone=alone)

    def when_slot_ready(self, callback: Callable[[], None]) -> None:
        """Call `callback` when a worker of its pool is idle: at once, or later."""
        self._owner.when_warm(callback)

    async def until_gone(self, timeout_s: float) -> None:
        """Wait until nothing of the process is left, at most `timeout_s` seconds."""
        await event_loops.wait_within(self._gone, timeout_s)

    def _leave(self) -> None:
        self.stage = WorkerStage.GONE
        self._gone.set()
        self.close_result_buffer()

    # ── ProcessListener ──

    def on_forked(self, pid: int) -> None:
        self._forked = True
        self._become_idle()

    def on_fork_failed(self, errno: int, why: str) -> None:
        self._leave()
        self._owner.on_worker_failed(self, f"fork failed: {why}", errno, of_code=False)
        self._owner.on_worker_gone(self, "not_started")

    def on_frames(self, frames: list[Frame]) -> None:
        if self.lane is not None:
            frames = frames[self.lane.ran(frames) :]
            if self._is_spoilt:
                self.leave()
            if not frames:
                return
            if self.lane is not None:  # else it ended when callers heard of their results
                self.lane.promote()
        if self.attempt is not None:
            self.attempt.on_frames(frames)
            return
        for frame in frames:
            if self.stage is not WorkerStage.SPAWNING:
                continue  # a late frame of an attempt that is over
            try:
                word = _first_message(frame)
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                self.on_protocol_error(f"an invalid frame of kind {frame.kind}: {error!s:.200}")
                return
            if isinstance(word, Broken):
                self._broken = word
            else:
                if word.cgroup_errno:
                    self.process.without_cgroup()
                self.process.read_output()  # before it can be taken for the output of a job
                self._ready = True
                self._become_idle()

    def on_tokens(self, fence: int, sequence: int, tokens: list[bytes]) -> None:
        if self.attempt is not None:
            self.attempt.on_tokens(fence, sequence, tokens)

    def _become_idle(self) -> None:
        """Become idle after READY and `on_forked`, in any order: without the pidfd the worker could not be stopped."""
        alive = not self._exited and not self.signalled
        if self._ready and self._forked and alive and self.stage is WorkerStage.SPAWNING:
            self.stage = WorkerStage.IDLE
            self._owner.on_worker_ready(self)

    @property
    def reading_output(self) -> _ReadingOutput:
        return _ReadingOutput(self)

    def on_output(self, data: bytes, stream: str = "stdout") -> None:
        if self.attempt is not None:
            self.attempt.on_output(data, stream)
        elif self.stage is WorkerStage.SPAWNING:
            self._early_output = kept_output(self._early_output, data)
            self._owner.on_early_output(data, stream)

    def on_notifications(self, notifications: bytes) -> None:
        if self.lane is not None:
            self.lane.settle()
        if self.attempt is not None:
            self.attempt.on_notifications(notifications)

    def on_protocol_error(self, why: str) -> None:
        self.revoke_lane()
        if self.attempt is not None:
            self.attempt.on_protocol_error(why)
        elif self.stage is WorkerStage.SPAWNING:
            self._broken = Broken(f"it sent an invalid message before it was ready: {why}")
            self.kill()
        elif self.stage is not WorkerStage.GONE:
            self.kill()

    def on_exited(self) -> None:
        self._owner.on_worker_ending()
        self.revoke_lane()
        if self.attempt is not None:
            if self.process.killed_for is not None:
                self.attempt.stop(self.process.killed_for, 0.0)
            self.attempt.on_exited()
        else:
            self._exited = True
            if self.stage in (WorkerStage.IDLE, WorkerStage.RESERVED):
                self.stage = WorkerStage.LEAVING  # it must get no more jobs

    def on_gone(self, gone: Gone) -> None:
        failed = self.stage is WorkerStage.SPAWNING or self._broken is not None
        self._leave()
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            attempt.on_gone(gone)
        if failed and not gone.zygote_lost:  # else the zygote's end is the failure, and counts once
            broken = self._broken or Broken(why_not_ready(gone, self._early_output))
            of_code = self._broken is not None and broken.errno is None
            self._owner.on_worker_failed(self, broken.why, broken.errno, of_code=of_code)
        self._owner.on_worker_gone(self, self._why_gone(gone, failed=failed))

    def _why_gone(self, gone: Gone, *, failed: bool) -> str:
        if self._leaves_for and not self.signalled:
            return self._leaves_for  # the zygote of code that was replaced may end before its idle workers
        if gone.zygote_lost:
            return "zygote_lost"
        return "not_started" if failed else "stopped" if self.signalled else "died"

    @property
    def state(self) -> str:
        """Return its stage, or `stopping` while its attempt is being ended. A reserved one counts as idle."""
        if self.attempt is not None and self.attempt.job.public_state == "stopping":
            return "stopping"
        return WorkerStage.IDLE.value if self.stage is WorkerStage.RESERVED else self.stage.value

    def age_s(self, now: float) -> float:
        return now - self._born

    def share(self, sample: Sample, now: float) -> float | None:
        """Return what it has used of a core over its life."""
        age_s = self.age_s(now)
        return round(sample.cpu_s / age_s, 3) if age_s > 0 else None

    def record(self, now: float, sample: Sample | None, share: float | None) -> WorkerRecord:
        attempt = self.attempt
        return WorkerRecord(
            worker_id=self.id,
            pool=self._spec.name,
            pid=self.process.pid,
            state=self.state,
            job_id=attempt.job.id if attempt else None,
            type=attempt.job.type.name if attempt else None,
            attempt=attempt.job.attempts if attempt else None,
            age_s=round(self.age_s(now), 3),
            jobs=self.served,
            start_method=self._start_method,
            proof=self.process.proof,
            cpu=share,
            rss_bytes=None if sample is None else sample.resident_bytes,
            uss_bytes=None if sample is None else sample.alone_bytes,
            generation=self._generation,
        )

    def __repr__(self) -> str:
        job = f" job={self.attempt.job.id} attempt={self.attempt.job.attempts}" if self.attempt else ""
        return f"<Worker {self.id} {self.stage.value}{job} pid={self.process.pid}>"


class _ReadingOutput:
    """While output is read its worker gets no other call: what is read is the output of the one it has."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __enter__(self) -> None:
        # When its call ends meanwhile, the worker may get another lane, and at once a call.
        lane = None
        while self._worker.lane is not lane:
            lane = self._worker.lane
            if lane is not None:
                lane.settle(reopens=False)

    def __exit__(self, *_: object) -> None:
        if self._worker.lane is not None:
            self._worker.lane.reopen()


def _first_message(frame: Frame) -> Ready | Broken:
    """Decode a message that a worker without a job may send. Raise ValueError, TypeError, RecursionError for others."""
    match frame.kind:
        case Kind.READY:
            return Ready.decode(frame.payload)
        case Kind.BROKEN:
            return Broken.decode(frame.payload)
    raise ValueError("it has no job yet")
