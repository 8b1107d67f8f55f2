"""One fake process: its kernel side (life, signals, pipes) and its implementation of `ports.Process`.

Runs in: the test process. The code that it runs is `fake_job.FakeJob`.
"""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from support.fake_job import FakeJob
from support.fake_pipes import FakePipes
from support.fake_process_checks import check_kill, note_notifications, note_term
from support.fake_world import SIGKILL, SIGTERM, Life, Truth, World

from killable.supervisor.linux.tree_usage import PROCESSES_MAX
from killable.supervisor.models import Verdict
from killable.supervisor.ports import FenceError, Gone, ProcessListener, ProcessorUse, Sample
from killable.workers.protocol.frames import Decoder
from killable.workers.protocol.messages import Broken, Expire, Kind, Ready, Run, Stop
from killable.workers.protocol.zygote_messages import ProcessEnding

if TYPE_CHECKING:
    from support.fake_spawner import FakeSpawner

Status = tuple[int | None, int | None]
ALONE = 1
"""The newest number of a job that has started nobody."""
"""(exit code, signal)"""


def ending_of(status: Status, reaped_at: float) -> ProcessEnding:
    exit_code, signal = status
    return ProcessEnding(exit_code, signal, signal == 11, 1 << 20, 0.25, 0.125, reaped_at)


class FakeProcess:
    """Implements `ports.Process`."""

    def __init__(self, world: World, spawner: FakeSpawner, worker_id: str, listener: ProcessListener) -> None:
        self.world, self.spawner, self.worker_id, self.listener = world, spawner, worker_id, listener
        self.pid: int | None = None
        """None until the zygote has told."""
        self.proof = spawner.proof
        self.life = Life.FORKING
        self.stuck = False
        """SIGKILL is pending on a process that the kernel does not let go."""
        self.stack_text = ""
        self._job = FakeJob(self)
        self._held: int | None = None
        self._truth: Truth | None = None
        """Of its latest attempt."""
        self._signalled = False
        self._dismissed = False
        self._kill_wanted = False
        self._exit_reported = False
        self._outside = ""
        self._status: Status = (None, None)
        self._reaped_at: float | None = None
        self._report: tuple[ProcessEnding, int] | None = None
        """The zygote's, on its way."""
        self._orders = Decoder()
        self._orders_open = True
        self._passed = 0
        """Descriptors that have come since the last order to run."""
        self.pipes = FakePipes(world, listener, self._on_notifications)
        self.killed_for: Verdict | None = None
        self.base: Sample | None = None

    def __repr__(self) -> str:
        return f"<{self.worker_id} {self.life.value} job={self._truth.number if self._truth else None}>"

    @property
    def takes_room(self) -> bool:
        """Whether it counts in its pool; one that was told to end makes room for the next."""
        return self.life in (Life.FORKING, Life.RUNNING) and not self._dismissed

    @property
    def runs(self) -> bool:
        """Whether code of its own still runs."""
        return self.life is Life.RUNNING and not self.stuck

    @property
    def _is_closed(self) -> bool:
        """Whether nothing is reported of it any more."""
        return self.pipes.is_closed

    @property
    def is_leaving(self) -> bool:
        """Whether its orders have come to their end."""
        return not self._orders_open

    @property
    def was_signalled(self) -> bool:
        return self._signalled

    # ── the port: what the supervisor calls ──

    def hold(self, fence: int | None) -> None:
        self._held = fence

    def note_before(self) -> None: ...

    def note_base(self, *, cpu: bool = True) -> None:
        sample = self.sample(cpu=cpu, at_most=1)
        self.base = sample and sample._replace(newest_pid=ALONE)

    def shares_cgroup(self) -> bool:
        return False

    def release(self) -> bool:
        if self.killed_for is not None:
            return False
        self._held = None
        return True

    def kill_now(self, fence: int, verdict: Verdict) -> bool:
        if self._held != fence or self._is_closed or self.pid is None:
            return False
        self.killed_for = self.killed_for or verdict
        self.kill()
        return True

    def send(self, order: bytes, passed: Sequence[int] = ()) -> None:
        self.world.check(self._orders_open, f"{self.worker_id}: an order after its orders were closed")
        self._passed += len(passed)
        for frame in self._orders.feed(order):
            truth = self._truth
            if frame.kind == Kind.STOP and truth is not None and frame.fence == truth.fence:
                truth.grace_s, truth.stop_ordered = Stop.decode(frame.payload).grace_s, True
            elif frame.kind == Kind.EXPIRE and truth is not None and frame.fence == truth.fence:
                self.world.check(not truth.stop_ordered, f"{self.worker_id}: an operation's end after a stop")
                truth.expire_ordered = Expire.decode(frame.payload).number
            elif frame.kind == Kind.RUN:
                self.world.check(self._held == frame.fence, f"{self.worker_id}: an attempt that it does not hold")
                self.world.check(not self._signalled, f"{self.worker_id} was signalled and is given an attempt")
                run = Run.decode(frame.payload)
                self.world.check(
                    run.sealed + run.shared + run.result_buffer == self._passed,
                    f"{self.worker_id}: a descriptor too many or too few",
                )
                self._passed = 0
                self._run(run, frame.fence)

    def terminate(self, fence: int) -> None:
        truth = self._check_fence(fence)
        self.world.note(self.worker_id, "SIGTERM")
        self.world.check(self.pid is not None, f"{self.worker_id}: a signal without a pidfd")
        self._signalled = True
        if truth is not None:
            truth.tree_empty = self.life is Life.REAPED
            note_term(self.world, truth)
        self.world.soon(self._on_term)

    def rouse(self, fence: int) -> None:
        self._check_fence(fence)

    def dump(self, fence: int) -> None:
        truth = self._check_fence(fence)
        self.world.note(self.worker_id, "dump")
        if truth is not None:
            self.world.check(truth.acknowledged_at is None, f"{self.worker_id}: a dump although it had acknowledged")
            truth.dump_at, self.stack_text = self.world.now(), ""
            self.world.later(truth.script.dump_s, lambda: self._write_stack(truth))

    def _write_stack(self, truth: Truth) -> None:
        if self.runs:
            truth.dumped_at = self.world.now()
            self.stack_text = 'File "job.py", line 1 in native'

    def has_whole_stack(self) -> bool:
        return bool(self.stack_text) and not self._is_closed

    def kill(self) -> None:
        self.world.note(self.worker_id, "SIGKILL")
        self._signalled = self._dismissed = True
        truth = self._truth if self._held is not None else None
        if truth is not None and truth.kill_at is None:
            truth.kill_at = self.world.now()
            truth.tree_empty = self.life is Life.REAPED
            check_kill(self.world, truth, self._job.processor_use(), self._job.held_bytes(), self._job.processes())
        if self.pid is None:
            self._kill_wanted = True
        elif not self._is_closed:
            self._mark_lost()

    def retire(self) -> None:
        self._orders_open = False
        self._dismissed = True
        self._job.retire()

    def read_output(self) -> None:
        self.pipes.read_output()

    def read_frames(self) -> None:
        self.pipes.read_frames()

    def read_ready(self, bytes_max: int = 1 << 20) -> None:
        self.pipes.read_notifications(bytes_max)
        self.pipes.read_output(bytes_max)
        self.pipes.read_frames()

    @property
    def _is_there(self) -> bool:
        """Whether it can be measured: a zombie can, what was not told of, is reaped or was abandoned cannot."""
        return self.pid is not None and self.life is not Life.REAPED and not self._is_closed

    def look_for_exit(self) -> bool:
        has_ended = self.pid is not None and self.life in (Life.ZOMBIE, Life.REAPED)
        if has_ended:
            self._report_exit()
        return has_ended

    def processor_use(self) -> ProcessorUse | None:
        return self._job.processor_use() if self._is_there else None

    def bound(self, memory_bytes: int | None, tasks_max: int | None) -> None:
        pass

    def sample(self, *, cpu: bool, at_most: int) -> Sample | None:
        return self._job.sample(cpu=cpu, at_most=at_most) if self._is_there else None

    def has_started_none_since(self, sample: Sample) -> bool:
        return self._job.sample().newest_pid == sample.newest_pid

    def use(self) -> Sample | None:
        return self.sample(cpu=True, at_most=PROCESSES_MAX)

    def prove(self, sample: Sample, told: Callable[[Sample], None]) -> None:
        def tell() -> None:
            if self._is_there:
                told(exact)

        exact = self._job.exactly(sample)
        self.world.soon(tell, 0.01)

    def keep_file(self, number: int, kept: str) -> int:
        raise OSError("it has no files")

    def kept_sizes(self, folder: str, names: Iterable[str]) -> dict[str, int]:
        return {}

    def measure_tmp(self, kept: str, at_most: int, told: Callable[[int, float], None]) -> bool:
        return False  # it has no files

    def stack(self) -> str | None:
        return None if self._is_closed else self.stack_text or None

    async def measured(self, *, alone: bool) -> Sample | None:
        await asyncio.sleep(self.world.random.uniform(0.0001, 0.002))  # in a thread of its own
        if not self._is_there:
            return None
        sample = self._job.sample(cpu=True)
        return (
            sample._replace(alone_bytes=sample.own_bytes + self._job.exactly(sample).others_bytes) if alone else sample
        )

    def without_cgroup(self) -> None:
        self.proof = "descendants"

    def abandon(self) -> None:
        self.pipes.is_closed = True
        self._orders_open = False
        self._job.retire()

    def _run(self, run: Run, fence: int) -> None:
        number = json.loads(run.input)["n"]
        truth = Truth(number, fence, self.world.scripts[number], run.limits_in_force())
        self.world.begin(truth)
        self._truth = truth
        self.world.note(self.worker_id, "RUN", number)
        if self.life is Life.RUNNING:
            self._job.begin(truth)
        else:  # it died before the order reached it
            truth.outside, truth.tree_empty = self._outside, self.life is Life.REAPED
            truth.exited_at, truth.reaped_at = self.world.now(), self._reaped_at

    def _check_fence(self, fence: int) -> Truth | None:
        """Return the attempt that is meant, if its order has come."""
        if self._held != fence:
            raise FenceError(f"{self.worker_id} holds {self._held}, not {fence}")
        meant = self._truth is not None and self._truth.fence == fence
        self.world.check(meant, f"{self.worker_id}: a signal for an attempt that it never had")
        return self._truth if meant else None

    def _on_notifications(self, notifications: bytes) -> None:
        if self._truth is not None:
            note_notifications(self.world, self._truth, notifications, self._job.processor_use())

    # ── its life ──

    def fork(self) -> None:
        """The zygote forks it, or cannot."""
        if self.life is not Life.FORKING or self.spawner.zygote is None or self._is_closed:
            return
        if self.world.happens(self.world.faults.fork_fails):
            self.world.note(self.worker_id, "fork failed")
            self.life, self.pipes.is_closed = Life.REAPED, True
            del self.spawner.processes[self.worker_id]
            self.listener.on_fork_failed(errno.EAGAIN, "no process")
            return
        # What the zygote says of it and what it says itself come by two ways, in any order.
        self.life = Life.RUNNING
        self.world.soon(self._report_forked, self.world.faults.fork_report_s)
        self.world.soon(self._get_ready, 0.003)

    def _report_forked(self) -> None:
        if self.pid is not None or self._is_closed:
            return
        self.pid = self.world.next_pid()
        if self._kill_wanted:
            self.kill()
        self.listener.on_forked(self.pid)
        if self.life is not Life.RUNNING:
            self.world.soon(self._report_exit)

    def _get_ready(self) -> None:
        if not self.runs:
            return
        if self.world.happens(self.world.faults.dies_at_start):
            self.die(exit_code=self.world.random.choice((70, 71, 74, 1)))
        elif self.world.happens(self.world.faults.broken_at_start):
            self.pipes.write(Kind.BROKEN, 0, 0, Broken("Traceback: no model").encode())
            self.die(exit_code=78)
        else:
            refused = errno.EBUSY if self.world.happens(self.world.faults.no_cgroup) else 0
            self.pipes.write(Kind.READY, 0, 0, Ready(refused).encode())

    def _on_term(self) -> None:
        """SIGTERM is delivered."""
        if self.runs:
            if self._truth is None or self._truth.script.delivery_shows:
                self.pipes.notify(SIGTERM)
            self._job.on_term()

    def _mark_lost(self) -> None:
        """SIGKILL is pending."""
        if self.life is not Life.RUNNING or self.stuck:
            return
        dies_s = self._truth.script.dies_s if self._truth is not None else 0.0005
        self.stuck = dies_s > 1
        self.world.later(dies_s, lambda: self.die(signal=SIGKILL))

    def die(self, exit_code: int | None = None, signal: int | None = None) -> None:
        """It is a zombie; its tree is swept, then it is reaped and reported."""
        if self.life is not Life.RUNNING:
            return
        self.world.note(self.worker_id, "exits", f"code {exit_code}" if signal is None else f"signal {signal}")
        self._job.end()
        self.life, self.stuck = Life.ZOMBIE, False
        self._status = (exit_code, signal)
        if self._truth is not None and self._held is not None:
            self._truth.exited_at = self.world.now()
        self.world.soon(self._report_exit)
        if self.spawner.zygote is None:
            self.spawner.look()
        else:
            self.world.soon(self._reap, max(0.0001, self._truth.script.sweep_s if self._truth else 0.0))

    def _report_exit(self) -> None:
        if not self._exit_reported and not self._is_closed and self.pid is not None:
            self._exit_reported = True
            self.pipes.read_notifications()
            self.listener.on_exited()

    def _reap(self) -> None:
        if self.life is Life.ZOMBIE and self.spawner.zygote is not None:
            self._report = (self._reaped(), self._truth.script.children if self._truth else 0)
            self.world.soon(self._settle)

    def _reaped(self) -> ProcessEnding:
        now = self.world.now()
        self.life, self._reaped_at = Life.REAPED, now
        if self._truth is not None and self._held is not None:
            self._truth.reaped_at, self._truth.tree_empty = now, True
        return ending_of(self._status, now)

    def _settle(self, zygote_lost: bool = False) -> None:
        """The report of the reap has come."""
        if self._is_closed:
            return
        ending, swept = self._report or (None, 0)
        if self._report is not None and not zygote_lost:
            self._report_forked()
        self._report_exit()
        self.read_ready()
        self.pipes.is_closed = True
        self.spawner.processes.pop(self.worker_id, None)
        self.world.note(self.worker_id, "gone")
        self.listener.on_gone(Gone(ending, swept, self.proof, zygote_lost, self.pipes.torn_bytes))

    def lose_zygote(self) -> None:
        """PDEATHSIG."""
        if self.life is Life.RUNNING:
            self._blame("zygote")
            self._mark_lost()

    def drop_descendants_proof(self) -> None:
        """Its guard is gone."""
        self.proof = "cgroup" if self.proof.startswith("cgroup") else ""

    def settle_without_zygote(self) -> None:
        """The guard has swept it; what the zygote had still said is read first."""
        lost = self._report is None
        if self.life is Life.ZOMBIE:
            self._blame("zygote")
            ending = self._reaped()
            unknown = self.spawner.guard_is_lost or self.world.happens(self.world.faults.status_unknown)
            self._report = None if unknown else (ending, 0)
        self._settle(zygote_lost=lost)

    def kill_from_outside(self) -> None:
        """SIGKILL from outside."""
        if self.life is Life.RUNNING and not self.stuck:
            self._blame("stranger")
            self.die(signal=SIGKILL)

    def _blame(self, outside: str) -> None:
        self._outside = outside
        if self._truth is not None:
            self._truth.outside = outside
