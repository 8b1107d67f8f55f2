"""The operating system's side of the seam, on virtual time: guard, zygote and workers that do what a script says.

Runs in: the test process. Implements `seam.Spawner` and `seam.Process`; everything above them is the real supervisor.
Frames, orders and bells go through the real codec, cut and delayed as pipes do it. All chance comes from one seeded
generator, so a seed is one history. What the supervisor must never do to a process is checked here, where it happens.
"""

from __future__ import annotations

import asyncio
import errno
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from killable.supervisor.escalation import DUMP_S, RING_AGAIN_S
from killable.supervisor.seam import FenceError, Gone, ProcessListener, SpawnerListener, Usage, ZygoteLost
from killable.supervisor.settings import PoolSpec
from killable.workers.control import Ending
from killable.workers.frames import Decoder, FrameError, encode
from killable.workers.messages import BELL_ACKNOWLEDGED, BELL_SWALLOWED, Idle, Kind, Raised, Run, Stop

SIGKILL, SIGTERM = 9, 15
GUARD_EXIT_S = 10.0
NEVER = math.inf
SLACK_S = 1e-6
"""Two sums of the same times may differ in the last digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a job does to its worker; times in seconds."""

    enter_s: float = 0.001
    enters: bool = True
    run_s: float = 0.01
    """From its entry to its end; NEVER: it computes until it is stopped."""
    tokens: int = 0
    lines: int = 0
    end: str = "returns"
    """returns · raises · exits · dies · garbage · gap · torn · enters twice · closes twice · closes and stays"""
    exit_code: int = 0
    signal: int = 11
    rings: bool = True
    """The delivery of SIGTERM shows on the wakeup descriptor."""
    hears_s: float = 0.0003
    """From delivery to acknowledgement; NEVER: native code, or the handler was replaced."""
    swallows: int = 0
    """How often the raised `Stopping` is lost."""
    cleanup_s: float = 0.0
    cleanup_tokens: int = 0
    cleanup_returns: bool = False
    cpu: float = 1.0
    """Processors that it uses."""
    dies_s: float = 0.0005
    """From SIGKILL to its end; NEVER: unkillable."""
    children: int = 0
    sweep_s: float = 0.0003
    lingers_s: float = 0.0
    """From its last frame to its exit."""
    late_frame: bool = False
    """A frame of an earlier attempt comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Probabilities of what goes wrong around the jobs."""

    fork_fails: float = 0.0
    fork_raises: float = 0.0
    dies_at_start: float = 0.0
    broken_at_start: float = 0.0
    no_cgroup: float = 0.0
    start_raises: float = 0.0
    preload_threads: int = 1
    preload_fails: bool = False
    status_unknown: float = 0.0


class Life(Enum):
    FORKING = "forking"
    RUNNING = "running"
    ZOMBIE = "zombie"
    REAPED = "reaped"


@dataclass(slots=True, eq=False)
class Truth:
    """What really happened to one attempt; its certificate has to say the same."""

    number: int
    fence: int
    script: Script
    limits: dict[str, Any]
    entered: bool = False
    tokens: list[bytes] = field(default_factory=list)
    closing: tuple[Kind, bytes] | None = None
    nonsense: bool = False
    grace_s: float = 0.0
    term_at: float | None = None
    kill_due: float = NEVER
    delivered_at: float | None = None
    """When the supervisor read it, like the next two."""
    cpu_at_delivery: float = 0.0
    acknowledged_at: float | None = None
    swallowed_at: float = -NEVER
    dump_at: float | None = None
    kill_at: float | None = None
    exited_at: float | None = None
    reaped_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    outside: str = ""
    """Who else ended the process: `zygote` or `stranger`."""
    tree_empty: bool = False


class World:
    """Everything below the seam, and the record of it."""

    def __init__(self, seed: int, faults: Faults | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.random = random.Random(seed)
        self.faults = faults or Faults()
        self.scripts: list[Script] = []
        self.spawners: list[FakeSpawner] = []
        self.truths: dict[int, Truth] = {}
        """By the number of the job."""
        self.trace: list[str] = []
        self.violations: list[str] = []
        self.ack_cpu_s = 0.1
        self._pids = 100
        self._timers: list[asyncio.TimerHandle] = []

    def open_spawner(self, spec: PoolSpec, listener: SpawnerListener) -> FakeSpawner:
        spawner = FakeSpawner(self, spec, listener)
        self.spawners.append(spawner)
        return spawner

    def now(self) -> float:
        return self.loop.time()

    def later(self, delay: float, act: Callable[[], None]) -> None:
        if delay != NEVER:
            self._timers.append(self.loop.call_later(delay, act))

    def soon(self, act: Callable[[], None], longest_s: float = 0.001) -> None:
        """The latency of the kernel and of the processes between: never nothing."""
        self.later(self.random.uniform(longest_s / 50, longest_s), act)

    def happens(self, probability: float) -> bool:
        return probability > 0 and self.random.random() < probability

    def note(self, *words: object) -> None:
        self.trace.append(f"{self.now():.6f} {' '.join(map(str, words))}")

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            self.note("VIOLATION", what)
            self.violations.append(f"at {self.now():.6f}: {what}")

    def next_pid(self) -> int:
        self._pids += 1
        return self._pids

    def processes(self) -> list[FakeProcess]:
        return [process for spawner in self.spawners for process in spawner.processes.values()]

    def alive(self) -> list[FakeProcess]:
        return [process for process in self.processes() if process.life in (Life.RUNNING, Life.ZOMBIE)]

    def shortened(self, number: int, kill_due: float) -> None:
        """The test asked for less grace."""
        truth = self.truths.get(number)
        if truth is not None:
            truth.kill_due = min(truth.kill_due, kill_due)

    def check_deadlines(self) -> None:
        """Every SIGTERM is followed by an exit or by SIGKILL within its deadline."""
        for truth in self.truths.values():
            if truth.term_at is not None and truth.kill_at is None and truth.exited_at is None:
                self.check(self.now() <= truth.kill_due + DUMP_S + SLACK_S, f"job {truth.number}: SIGKILL is overdue")

    def stop(self) -> None:
        """End of the world: what it had still scheduled does not happen."""
        for timer in self._timers:
            timer.cancel()


class FakeSpawner:
    """Implements `seam.Spawner`."""

    def __init__(self, world: World, spec: PoolSpec, listener: SpawnerListener) -> None:
        self.world, self.spec, self.listener = world, spec, listener
        self.zygote_pid: int | None = None
        self.proof = "cgroup+descendants"
        self.processes: dict[str, FakeProcess] = {}
        self.preloaded = False
        self._gone = asyncio.Event()
        self._closing = False

    def start(self, start_method: str) -> None:
        self.world.check(self.zygote_pid is None, f"pool {self.spec.name}: a second zygote beside the first")
        self.world.check(not self._closing, f"pool {self.spec.name}: a zygote is started after the close")
        if self.world.happens(self.world.faults.start_raises):
            raise OSError(errno.EAGAIN, "no process for the zygote")
        self._gone.clear()
        self.zygote_pid = pid = self.world.next_pid()
        self.preloaded = False
        self.world.note(self.spec.name, "zygote", pid, start_method)
        self.world.soon(lambda: self._preload(pid, start_method), 0.02)

    def _preload(self, pid: int, start_method: str) -> None:
        if self.zygote_pid != pid or self._closing:
            return
        if self.world.faults.preload_fails:
            self.listener.on_preload_failed("Traceback: no such module", "")
            self.zygote_dies(exit_code=78)
            return
        self.preloaded = True
        self.listener.on_type(_type_report(f"work-{self.spec.name}"))
        self.listener.on_preloaded(self.world.faults.preload_threads if start_method == "fork" else 1)

    def stop_zygote(self) -> None:
        self.zygote_dies(exit_code=0)

    def fork(self, worker_id: str, listener: ProcessListener) -> FakeProcess:
        self.world.check(not self._closing, f"{worker_id} is forked after the close")
        if self.zygote_pid is None:
            raise ZygoteLost
        if self.world.happens(self.world.faults.fork_raises):
            raise OSError(errno.EMFILE, "too many open files")
        process = FakeProcess(self.world, self, worker_id, listener)
        self.processes[worker_id] = process
        living = [each for each in self.processes.values() if each.counts]
        room = self.spec.workers + self.spec.spares
        self.world.check(len(living) <= room, f"{len(living)} workers live where {room} may: {living}")
        self.world.note(worker_id, "fork")
        self.world.soon(process.forked, 0.01)
        return process

    def zygote_dies(self, exit_code: int | None = None, signal: int | None = None) -> None:
        """Its workers follow (PDEATHSIG); the guard sweeps what is left, then tells."""
        if self.zygote_pid is None:
            return
        self.world.note(self.spec.name, "zygote dies", signal or exit_code)
        self.zygote_pid = None
        self._ending = _ending(exit_code, signal, self.world.now())
        for process in self.processes.values():
            process.lose_zygote()
        self.look()

    def look(self) -> None:
        """The guard looks whether the last child of a dead zygote is gone."""
        if self.zygote_pid is None and not any(each.life is Life.RUNNING for each in self.processes.values()):
            self.world.soon(self._tell_gone, 0.002)

    def _tell_gone(self) -> None:
        if self._gone.is_set() or self.zygote_pid is not None:
            return
        self._gone.set()
        for process in list(self.processes.values()):
            process.settle_without_zygote()
        if not self._closing:
            self.listener.on_zygote_lost(self._ending)

    async def close(self) -> None:
        self._closing = True
        if self.zygote_pid is None and not self.processes:
            return
        self.zygote_dies(exit_code=0)
        try:
            async with asyncio.timeout(GUARD_EXIT_S):
                await self._gone.wait()
        except TimeoutError:
            self.world.note(self.spec.name, "guard killed")
            for process in list(self.processes.values()):
                if process.life is Life.ZOMBIE:
                    process.settle_without_zygote()
        for process in self.processes.values():
            process.abandon()


def _type_report(name: str) -> dict[str, Any]:
    return {
        "name": name, "description": "", "input_schema": {}, "limits": {}, "streams": True,
        "available": True, "unavailable_reason": None, "operations": [],
    }  # fmt: skip


def _ending(exit_code: int | None, signal: int | None, reaped_at: float) -> Ending:
    return Ending(exit_code, signal, signal == 11, 1 << 20, 0.25, 0.125, reaped_at)


class FakeProcess:
    """Implements `seam.Process`, and is the process."""

    def __init__(self, world: World, spawner: FakeSpawner, worker_id: str, listener: ProcessListener) -> None:
        self.world, self.spawner, self.worker_id, self.listener = world, spawner, worker_id, listener
        self.pid: int | None = None
        self.proof = spawner.proof
        self.life = Life.FORKING
        self.truth: Truth | None = None
        """The attempt on its stack."""
        self.signalled = False
        self.dismissed = False
        self.outside = ""
        self._held: int | None = None
        self._latest: Truth | None = None
        self._kill_wanted = False
        self._closed = False
        self._exit_told = False
        self._stuck = False
        self._status: tuple[int | None, int | None] = (None, None)
        self._reaped_at: float | None = None
        self._message: tuple[Ending, int] | None = None
        self._orders = Decoder()
        self._orders_open = True
        self._frames, self._output, self._bells = bytearray(), bytearray(), bytearray()
        self._decoder = Decoder()
        self._broken = False
        self._served = 0
        self._plan = 0
        self._sequence = 0
        self._swallows = 0
        self._heard = False
        self._stack = ""
        self._cpu_s = 0.0
        self._busy_since = 0.0

    def __repr__(self) -> str:
        return f"<{self.worker_id} {self.life.value} job={self.truth.number if self.truth else None}>"

    @property
    def counts(self) -> bool:
        """Whether it takes room in its pool; one that was told to end makes room for the next."""
        return self.life in (Life.FORKING, Life.RUNNING) and not self.dismissed

    @property
    def killable(self) -> bool:
        return not self._stuck

    # ── the seam: what the supervisor asks for ──

    def hold(self, fence: int | None) -> None:
        self._held = fence

    def send(self, order: bytes) -> None:
        self.world.check(self._orders_open, f"{self.worker_id}: an order after its orders were closed")
        for frame in self._orders.feed(order):
            if frame.kind == Kind.STOP and self._latest is not None and frame.fence == self._latest.fence:
                self._latest.grace_s = Stop.decode(frame.payload).grace_s
            elif frame.kind == Kind.RUN:
                self.world.check(self._held == frame.fence, f"{self.worker_id}: an attempt that it does not hold")
                self.world.check(not self.signalled, f"{self.worker_id} was signalled and is given an attempt")
                self._take(Run.decode(frame.payload), frame.fence)

    def terminate(self, fence: int) -> None:
        truth = self._check_fence(fence)
        now = self.world.now()
        self.world.note(self.worker_id, "SIGTERM")
        self.signalled = True
        truth.tree_empty = self.life is Life.REAPED
        if truth.term_at is None:
            truth.term_at = now
            truth.kill_due = min(truth.kill_due, now + truth.grace_s)
        else:
            self.world.check(now >= truth.swallowed_at + RING_AGAIN_S - SLACK_S, "rung again too soon")
        self.world.soon(self._on_term)

    def dump(self, fence: int) -> None:
        truth = self._check_fence(fence)
        self.world.note(self.worker_id, "dump")
        self.world.check(truth.acknowledged_at is None, f"{self.worker_id}: a dump although it had acknowledged")
        truth.dump_at = self.world.now()
        self._stack = 'File "job.py", line 1 in native'

    def kill(self) -> None:
        self.world.note(self.worker_id, "SIGKILL")
        self.signalled = self.dismissed = True
        truth = self._latest if self._held is not None else None
        if truth is not None and truth.kill_at is None:
            truth.kill_at = self.world.now()
            truth.tree_empty = self.life is Life.REAPED
            self._check_kill(truth)
        if self.life is Life.FORKING:
            self._kill_wanted = True
        elif self.life is Life.RUNNING:
            self._doom()

    def retire(self) -> None:
        self._orders_open = False
        self.dismissed = True
        if self.truth is None:
            self.world.soon(lambda: self._leave(0))

    def read_ready(self) -> None:
        self._read_bells()
        self._read_output()
        self._read_frames()

    def cpu_s(self) -> float | None:
        if self.life not in (Life.RUNNING, Life.ZOMBIE):
            return None
        busy = self.world.now() - self._busy_since if self.truth and self.life is Life.RUNNING else 0.0
        return self._cpu_s + busy * (self.truth.script.cpu if self.truth else 0.0)

    def stack(self) -> str | None:
        return self._stack or None

    async def usage(self) -> Usage:
        return Usage(None, None, None)

    def without_cgroup(self) -> None:
        self.proof = "descendants"

    def abandon(self) -> None:
        self._closed = True

    def _check_fence(self, fence: int) -> Truth:
        truth = self._latest
        if self._held != fence or truth is None:
            raise FenceError(f"{self.worker_id} holds {self._held}, not {fence}")
        self.world.check(truth.fence == fence, f"{self.worker_id}: a signal for an attempt that it never had")
        return truth

    def _check_kill(self, truth: Truth) -> None:
        """SIGKILL comes at the end of the grace and not before, except to one that is proven stuck."""
        now = self.world.now()
        if truth.dump_at is not None:
            self.world.check(now <= truth.dump_at + DUMP_S + SLACK_S, f"{self.worker_id}: dumped and left alive")
        if truth.term_at is None or truth.exited_at is not None or truth.nonsense:
            return
        self.world.check(now <= truth.kill_due + DUMP_S + SLACK_S, f"{self.worker_id}: SIGKILL comes too late")
        if now < truth.kill_due - SLACK_S and truth.closing is None:
            ack_s = truth.limits["ack_s"]
            stuck = truth.delivered_at is not None and truth.acknowledged_at is None and ack_s is not None
            waited = stuck and now - truth.delivered_at >= ack_s - SLACK_S  # type: ignore[operator]
            used = (self.cpu_s() or 0.0) - truth.cpu_at_delivery
            self.world.check(
                waited and used >= self.world.ack_cpu_s - SLACK_S, f"{self.worker_id}: killed within its grace"
            )

    # ── the pipes ──

    def _write(self, kind: int, payload: bytes, *, fence: int | None = None, sequence: int | None = None) -> None:
        truth = self.truth
        own = truth.fence if truth is not None else 0
        data = encode(kind, own if fence is None else fence, self._sequence if sequence is None else sequence, payload)
        if fence is None and sequence is None and truth is not None:
            self._sequence += 1
        self._write_bytes(data)

    def _write_bytes(self, data: bytes) -> None:
        self._frames += data
        self.world.soon(self._read_frames)

    def _ring(self, bell: int) -> None:
        self._bells.append(bell)
        self.world.soon(self._read_bells)

    def _read_frames(self) -> None:
        if self._closed or not self._frames or self._broken:
            return
        data, self._frames = bytes(self._frames), bytearray()
        cut = self.world.random.randrange(len(data))
        for piece in (data[:cut], data[cut:]):
            try:
                frames = self._decoder.feed(piece)
            except FrameError as error:
                self._broken = True
                if error.frames:
                    self.listener.on_frames(error.frames)
                self.listener.on_protocol_error(str(error))
                return
            if frames:
                self.listener.on_frames(frames)

    def _read_output(self) -> None:
        if self._output and not self._closed:
            data, self._output = bytes(self._output), bytearray()
            self.listener.on_output(data)

    def _read_bells(self) -> None:
        if not self._bells or self._closed:
            return
        bells, self._bells = bytes(self._bells), bytearray()
        truth = self._latest
        for bell in bells:
            if truth is None or truth.kill_at is not None:
                continue
            if bell in (SIGTERM, BELL_ACKNOWLEDGED) and truth.delivered_at is None:
                truth.delivered_at, truth.cpu_at_delivery = self.world.now(), self.cpu_s() or 0.0
            if bell == BELL_ACKNOWLEDGED and truth.acknowledged_at is None:
                truth.acknowledged_at = self.world.now()
            if bell == BELL_SWALLOWED:
                truth.swallowed_at = self.world.now()
        self.listener.on_bells(bells)

    # ── the process: its life ──

    def forked(self) -> None:
        if self.life is not Life.FORKING or self.spawner.zygote_pid is None or self._closed:
            return
        if self.world.happens(self.world.faults.fork_fails):
            self.world.note(self.worker_id, "fork failed")
            self.life, self._closed = Life.REAPED, True
            del self.spawner.processes[self.worker_id]
            self.listener.on_fork_failed(errno.EAGAIN, "no process")
            return
        self.pid = self.world.next_pid()
        self.life = Life.RUNNING
        if self._kill_wanted:
            self.kill()
        self.listener.on_forked(self.pid)
        self.world.soon(self._get_ready, 0.005)

    def _get_ready(self) -> None:
        if self.life is not Life.RUNNING:
            return
        if self.world.happens(self.world.faults.dies_at_start):
            self.die(exit_code=self.world.random.choice((70, 71, 74, 1)))
        elif self.world.happens(self.world.faults.broken_at_start):
            self._write(Kind.BROKEN, b'{"traceback":"Traceback: no model"}')
            self.die(exit_code=78)
        else:
            refused = errno.EBUSY if self.world.happens(self.world.faults.no_cgroup) else 0
            self._write(Kind.READY, json.dumps({"cgroup_errno": refused}).encode(), fence=0, sequence=0)

    def die(self, exit_code: int | None = None, signal: int | None = None) -> None:
        """The leader is a zombie; its tree is swept, then it is reaped and reported."""
        if self.life is not Life.RUNNING:
            return
        self.world.note(self.worker_id, "exits", f"code {exit_code}" if signal is None else f"signal {signal}")
        self._cpu_s = self.cpu_s() or 0.0
        self.life = Life.ZOMBIE
        self._plan += 1
        truth = self._latest
        if truth is not None and self._held is not None:
            truth.exited_at, truth.exit_code, truth.signal = self.world.now(), exit_code, signal
        self._status = (exit_code, signal)
        self.world.soon(self._tell_exit)
        if self.spawner.zygote_pid is None:
            self.spawner.look()
        else:
            self.world.soon(self._reap, max(0.0001, truth.script.sweep_s if truth else 0.0))

    def _tell_exit(self) -> None:
        if not self._exit_told and not self._closed:
            self._exit_told = True
            self._read_bells()
            self.listener.on_exited()

    def _reap(self) -> None:
        if self.life is not Life.ZOMBIE or self.spawner.zygote_pid is None:
            return
        swept = self._latest.script.children if self._latest is not None else 0
        self._message = (self._reaped(), swept)
        self.world.soon(self._settle)

    def _reaped(self) -> Ending:
        now = self.world.now()
        self.life, self._reaped_at = Life.REAPED, now
        if self._latest is not None and self._held is not None:
            self._latest.reaped_at, self._latest.tree_empty = now, True
        return _ending(*self._status, now)

    def _settle(self, zygote_lost: bool = False) -> None:
        """The report of the reap has come."""
        if self._closed:
            return
        ending, swept = self._message or (None, 0)
        if self.pid is not None:
            self._tell_exit()
        self.read_ready()
        self._closed = True
        self.spawner.processes.pop(self.worker_id, None)
        self.world.note(self.worker_id, "gone")
        self.listener.on_gone(Gone(ending, swept, self.proof, zygote_lost, self._decoder.torn))

    def lose_zygote(self) -> None:
        """PDEATHSIG."""
        if self.life is Life.RUNNING:
            self._blame("zygote")
            self._doom()

    def _doom(self) -> None:
        """SIGKILL is pending."""
        dies_s = self.truth.script.dies_s if self.truth is not None else 0.0005
        if self._stuck:
            return
        self._stuck = dies_s > 1  # in the kernel: nothing of its own runs any more
        self._plan += self._stuck
        self.world.later(dies_s, lambda: self.die(signal=SIGKILL))

    def settle_without_zygote(self) -> None:
        """The guard has swept it; what the zygote had still said is read first."""
        lost = self._message is None
        if self.life is Life.ZOMBIE:
            self._blame("zygote")
            ending = self._reaped()
            self._message = None if self.world.happens(self.world.faults.status_unknown) else (ending, 0)
        self._settle(zygote_lost=lost)

    def killed_by_stranger(self) -> None:
        """SIGKILL from outside."""
        if self.life is Life.RUNNING:
            self._blame("stranger")
            self.die(signal=SIGKILL)

    def _blame(self, outside: str) -> None:
        self.outside = outside
        if self._latest is not None:
            self._latest.outside = outside

    def _leave(self, exit_code: int) -> None:
        if self.truth is None or self.truth.closing is not None:
            self.die(exit_code=exit_code)

    # ── the process: its job ──

    def _take(self, run: Run, fence: int) -> None:
        number = json.loads(run.input)["n"]
        truth = Truth(number, fence, self.world.scripts[number], run.limits)
        self.world.check(number not in self.world.truths, f"job {number} is run twice")
        self.world.truths[number] = self._latest = truth
        self.world.note(self.worker_id, "RUN", number)
        if self.life is not Life.RUNNING:
            # It died before the order reached it.
            truth.outside, truth.tree_empty = self.outside, self.life is Life.REAPED
            truth.exited_at, truth.reaped_at = self.world.now(), self._reaped_at
            truth.exit_code, truth.signal = self._status
            return
        self.truth = truth
        self._served += 1
        self._busy_since = self.world.now()
        self._plan += 1
        self._sequence, self._swallows, self._heard = 0, truth.script.swallows, False
        if truth.script.late_frame:
            self._write(Kind.TOKEN, b'{"text":"late"}', fence=fence - 1, sequence=7)
        self._in(truth.script.enter_s, self._enter)

    def _in(self, delay: float, act: Callable[[], None]) -> None:
        """Do it then, unless the process has ended or its plans have changed."""
        plan = self._plan

        def due() -> None:
            if self.life is Life.RUNNING and self._plan == plan:
                act()

        self.world.later(delay, due)

    def _job(self) -> Truth:
        assert self.truth is not None
        return self.truth

    def _enter(self) -> None:
        truth = self._job()
        script = truth.script
        if script.enters:
            truth.entered = True
            self._write(Kind.ENTERED, b"{}")
            self._plan_output(script)
        self._in(script.run_s, self._end)

    def _plan_output(self, script: Script) -> None:
        pace = (script.run_s if script.run_s != NEVER else 1.0) / (script.tokens + script.lines + 1)
        for step in range(script.tokens):
            self._in(pace * (step + 1), self._emit)
        for step in range(script.lines):
            self._in(pace * (step + 1), self._print)

    def _emit(self) -> None:
        truth = self._job()
        token = b'{"text":"%d"}' % len(truth.tokens)
        truth.tokens.append(token)
        self._write(Kind.TOKEN, token)

    def _print(self) -> None:
        self._output += b"a line\nand a part of "
        self.world.soon(self._read_output)

    def _end(self) -> None:
        script = self._job().script
        match script.end:
            case "returns":
                self._close(Kind.RESULT, b'"value"')
            case "raises":
                self._close(Kind.RAISED, Raised("exception", "ValueError", "no luck").encode())
            case "exits":
                self.die(exit_code=script.exit_code)
            case "dies":
                self.die(signal=script.signal)
            case "torn":
                self._write_bytes(encode(Kind.TOKEN, self._job().fence, self._sequence, b"x" * 99)[:40])
                self.die(exit_code=0)
            case "closes and stays":
                self._job().closing = (Kind.RESULT, b'"value"')
                self._write(Kind.RESULT, b'"value"')
            case _:
                self._talk_nonsense(script.end)

    def _talk_nonsense(self, how: str) -> None:
        """And then compute for ever."""
        self._job().nonsense = True
        self._job().entered |= how == "enters twice"
        match how:
            case "garbage":
                self._write_bytes(b"\xff" * 64)
            case "gap":
                self._write(Kind.TOKEN, b"{}", sequence=self._sequence + 1)
            case "enters twice":
                self._write(Kind.ENTERED, b"{}")
                self._write(Kind.ENTERED, b"{}")
            case "closes twice":
                self._write(Kind.RESULT, b"1")
                self._write(Kind.RESULT, b"2")
            case _:
                raise AssertionError(how)

    def _close(self, kind: Kind, payload: bytes, exit_code: int = 0) -> None:
        truth = self._job()
        truth.closing = (kind, payload)
        self._write(kind, payload)
        jobs_max = self.spawner.spec.jobs_per_worker_max
        stays = (jobs_max == 0 or self._served < jobs_max) and not truth.script.children
        self._write(Kind.IDLE, Idle(stays, "" if stays else "its share of jobs is done").encode())
        if stays:
            truth.tree_empty = not self.signalled
            self._cpu_s = self.cpu_s() or 0.0
            self._plan += 1
            self.truth = None
            if not self._orders_open:
                self.world.soon(lambda: self._leave(0))
        elif truth.script.lingers_s != NEVER:
            self._in(truth.script.lingers_s + 0.0001, lambda: self._leave(exit_code))

    def _on_term(self) -> None:
        """SIGTERM is delivered."""
        if self.life is not Life.RUNNING or self._stuck:
            return
        truth = self.truth
        if truth is None or truth.script.rings:
            self._ring(SIGTERM)
        if truth is None or truth.closing is not None:
            return  # nobody's bell
        if self._heard:
            self._obey()
        else:
            self._in(truth.script.hears_s, self._hear)

    def _hear(self) -> None:
        if not self._heard and self._job().closing is None:
            self._heard = True
            self._stack = 'File "job.py", line 2 in python'
            self._ring(BELL_ACKNOWLEDGED)
            self._obey()

    def _obey(self) -> None:
        truth = self._job()
        if self._swallows > 0:
            self._swallows -= 1
            self._ring(BELL_SWALLOWED)
            return
        script = truth.script
        self._plan += 1
        for step in range(script.cleanup_tokens):
            self._in(script.cleanup_s * (step + 1) / (script.cleanup_tokens + 1), self._emit)
        if script.cleanup_returns:
            self._in(script.cleanup_s, lambda: self._close(Kind.RESULT, b'"cleaned"'))
        else:
            self._in(script.cleanup_s, lambda: self._close(Kind.RAISED, Raised("stopped").encode(), 143))
