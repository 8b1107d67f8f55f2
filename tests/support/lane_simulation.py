"""An Executor's queue, its lanes and its workers as one state machine: the real ones, with real tasks and futures, over
simulated sockets and processes, in one thread, with every step chosen at random.

Runs in: the test process. The supervisor's thread is an inbox of which one act at a time is done. An attempt and a pool
are simulated: they end with the frames and exits that their worker reports.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FrameType, SimpleNamespace
from typing import Any

from killable.supervisor.executor import futures, pending_tasks, task
from killable.supervisor.executor.executor import _default_limits
from killable.supervisor.executor.futures import JobFuture
from killable.supervisor.executor.pending_tasks import PendingTasks
from killable.supervisor.executor.task_input import DefinedCall, TaskInput
from killable.supervisor.models import Outcome, Verdict
from killable.supervisor.pools import lane
from killable.supervisor.pools.worker import Worker, WorkerStage
from killable.supervisor.ports import Gone
from killable.supervisor.settings import PoolSpec, Settings
from killable.workers.authoring.limits_and_caps import NO_CAPS
from killable.workers.protocol import pickling
from killable.workers.protocol.call_message import CallMessage, decode_call
from killable.workers.protocol.frames import Frame
from killable.workers.protocol.messages import IDLE_FREE, Kind

ROOM = 5
"""The most messages that a simulated socket takes."""
DEFINITIONS = (None, object(), object())
"""What stands for what a call brings of the program's `__main__`."""
INTERRUPTED = {each.__file__ for each in (futures, lane, pending_tasks, task)}
"""Files of the product in which a Ctrl-C may come."""
POINTS_MAX = 120
"""At one of the first so many points, where chance chooses: a short cancel has fewer."""
PLAIN: dict[str, Any] = {}
WATCHED: dict[str, Any] = {"run_s": 60.0}
KINDS = (*("plain",) * 8, "prints", "prints", *("speaks",) * 4, "fails", "dies", "stuck")


class SimulatedLine:
    """Implements `ports.Line`. An interrupt may come right before or right after a message is sent."""

    def __init__(self, simulation: LaneSimulation, work: Callable[[], object]) -> None:
        """`work` has the worker do one thing."""
        self._simulation = simulation
        self._work = work
        self.messages: deque[bytes] = deque()
        self._taken: list[bytes] = []

    def send(self, message: bytes, passed: Sequence[int], sent: list[int]) -> None:
        self._simulation.interrupt()
        if len(self.messages) >= ROOM:
            raise BlockingIOError
        self.messages.append(message)
        if self._simulation.fault == "an interrupt divides a send":
            self._simulation.interrupt()
        sent.append(len(message))
        self._simulation.interrupt()

    def unreceived_bytes(self) -> int:
        return sum(map(len, self.messages))

    def take_back(self) -> list[bytes]:
        if self._simulation.fault == "what was taken back is delivered":
            return list(self.messages)
        if self._simulation.fault == "an interrupt loses what was taken back":
            self._taken = []
        self._simulation.interrupt()
        while self.messages:
            self._taken.append(self.messages.popleft())
            for _ in range(self._simulation.random.choice((0, 0, 1, 4))):
                self._work()  # meanwhile: it may receive a message between two that are taken back
        self._simulation.interrupt()
        return list(self._taken)

    def forget_taken(self) -> None:
        self._simulation.interrupt()
        self._taken = []
        self._simulation.interrupt()


class SimulatedProcess:
    """Implements what lanes and workers use of `ports.Process`, and runs the calls."""

    def __init__(self, simulation: LaneSimulation, pid: int) -> None:
        self._simulation = simulation
        self.pid = pid
        self.proof = "descendants"
        self.killed_for: Verdict | None = None
        self.line = SimulatedLine(simulation, self.step)
        self.frames: list[Frame] = []
        self.in_hand = 0
        """How many reads of frames are not done yet."""
        self.output = b""
        self.worker: Worker
        self.is_dead = self._is_reported = False
        self._unseen = 0
        """So many looks do not see that it is dead: after SIGKILL the kernel takes its time."""
        self._last = self._defined = 0
        self._held: int | None = None
        self._call: Iterator[None] | None = None
        self.running = ""
        """The id of the call that runs."""

    # ── the process ──

    def step(self) -> bool:
        """Do one thing; return whether there was one to do."""
        if self.is_dead:
            return False
        if self._call is not None:
            if next(self._call, self) is self:
                self._call, self.running = None, ""
            return True
        if not self.line.messages:
            return False
        call = decode_call(self.line.messages.popleft())
        ignored = self._simulation.fault == "a call is not passed over" and call.after > 0
        if call.after == self._last or ignored:
            self._last = call.fence
            self._define(call)
            self.running = call.job_id
            self._call = self._run(call.job_id, call.fence)
        return True

    def _define(self, call: CallMessage) -> None:
        wanted = self._simulation.definitions.get(call.job_id, 0)
        if int.from_bytes(call.input[:4], "little"):
            self._defined = call.input[-1]
        assert wanted in (0, self._defined), f"{call.job_id} has come without what it needs"

    def _run(self, job_id: str, fence: int) -> Iterator[None]:
        self._simulation.runs[job_id] += 1
        self._simulation.begun.append(int(job_id.rpartition("-")[2]))
        kind, sequence = self._simulation.kinds[job_id], 0
        yield
        if kind == "prints":
            self.output += b"<%s>" % job_id.encode()
            yield
        elif kind == "speaks":
            self.frames.append(Frame(Kind.TOKEN, fence, 0, job_id.encode()))
            sequence = 1
            yield
        elif kind == "dies":
            self.is_dead = True
            return
        while kind == "stuck":
            yield
        value = pickling.in_band(job_id)
        if sequence or self.output or kind == "fails":
            closing = Kind.RAISED if kind == "fails" else Kind.RESULT
            self.frames.append(Frame(closing, fence, sequence, value))
            yield
            self._last = -fence
            self.frames.append(Frame(Kind.IDLE, fence, sequence + 1, IDLE_FREE))
        else:
            self.frames.append(Frame(Kind.RAN, fence, 0, bytes(4) + value))

    # ── the port ──

    def hold(self, fence: int | None) -> None:
        self._held = fence
        self._simulation.look_at(self)  # other threads of the program may ask at any moment

    def note_before(self) -> None: ...
    def note_base(self, *, cpu: bool = True) -> None: ...
    def retire(self) -> None: ...

    def shares_cgroup(self) -> bool:
        return False

    def release(self) -> bool:
        self._held = None
        return self.killed_for is None

    def kill(self) -> None:
        self.is_dead = True
        self._unseen = self._simulation.random.choice((0, 0, 1, 3))

    def kill_now(self, fence: int, verdict: Verdict) -> bool:
        assert self._held == fence
        self.killed_for = self.killed_for or verdict
        if self.running:
            self._simulation.killed.append((self.running, verdict.reason))
        self.kill()
        return True

    def look_for_exit(self) -> bool:
        if self.is_dead and self._unseen:
            self._unseen -= 1
            return False
        if self.is_dead and not self._is_reported:
            self._is_reported = True
            self.worker.on_exited()
        return self.is_dead

    def read_frames(self) -> None:
        frames, self.frames = self.frames, []
        if frames:
            self.in_hand += 1
            self._simulation.meanwhile(self)
            self.worker.on_frames(frames)
            self.in_hand -= 1

    def read_output(self) -> None:
        unasked = self._simulation.fault == "output is read unasked"
        with nullcontext() if unasked else self.worker.reading_output:
            output, self.output = self.output, b""
            if output:
                self.worker.on_output(output)

    def is_gone(self) -> bool:
        """Report the end, if it has ended: its pipes are read to the end first."""
        if not self._is_reported:
            return False
        self.read_output()
        self.read_frames()
        self.worker.on_gone(Gone(None, 0, "descendants"))
        return True


@dataclass(eq=False)
class SimulatedAttempt:
    """An attempt, and the job that it is of."""

    simulation: LaneSimulation
    listener: Any
    id: str
    worker: Worker
    pid: int | None
    expected: int = 0
    """The number of its next frame."""
    output: bytes = b""
    tokens: list[bytes] = field(default_factory=list)
    outcome: Outcome | None = None
    verdict: Verdict | None = None
    closing: tuple[int, bytes] | None = None
    log: Any = None
    certificate: Any = field(default_factory=dict)
    exception: bytes = b""
    partial: Any = None
    result: bytes | None = None
    shared_result: Any = None
    progress: Any = None
    attempts: int = 1
    public_state: str = "running"

    @property
    def job(self) -> Any:
        return self

    @property
    def attempt(self) -> Any:
        return None if self.is_over else self

    @property
    def is_over(self) -> bool:
        return self.outcome is not None

    def kill_now(self, verdict: Verdict) -> None:
        process: Any = self.worker.process
        if not self.is_over and not process.is_dead:
            process.killed_for = process.killed_for or verdict
            process.kill()

    def stop(self, verdict: Verdict, grace_s: float | None = None) -> None:
        if self.closing is None and self.verdict is None:
            self.verdict = verdict
            self.worker.signalled = True
            self.worker.process.kill()

    def on_frames(self, frames: Sequence[Frame]) -> None:
        for kind, fence, sequence, payload in frames:
            assert sequence == self.expected, f"frame {sequence} was received, {self.expected} was expected"
            self.expected += 1
            if kind == Kind.TOKEN:
                self.tokens.append(payload)
            elif kind == Kind.IDLE:
                self.worker.process.read_output()
                self.worker.last = -fence
                self._free()
            elif kind == Kind.RAN:
                self.closing = Kind.RESULT, payload[4:]
                self.worker.last = fence
                self._free()
            else:
                self.closing = kind, payload

    def _free(self) -> None:
        if not self.worker.signalled and self.worker.process.release():
            self._finish()
            self.worker.release()
        else:
            self.worker.process.kill()

    def on_output(self, data: bytes, stream: str = "stdout") -> None:
        self.output += data

    def on_notifications(self, notifications: bytes) -> None: ...
    def on_protocol_error(self, why: str) -> None:
        raise AssertionError(why)

    def on_exited(self) -> None: ...

    def on_gone(self, gone: Gone) -> None:
        self._finish()

    def _finish(self) -> None:
        if self.closing is not None and self.closing[0] == Kind.RESULT:
            self.result, self.outcome = self.closing[1], Outcome("completed")
        elif self.closing is not None:
            self.outcome = Outcome("failed", "exception", "it raised", {"traceback": ""})
        elif self.verdict is not None:
            self.outcome = Outcome("cancelled", "cancelled", facts={"by": "user", "reason": self.verdict.reason})
        else:
            self.outcome = Outcome("failed", "killed_externally", "it died")
        self.simulation.attempts[self.id] = self
        self.listener.on_changed(self)


class SimulatedThread:
    """The supervisor's thread: what it is asked to do waits in its inbox."""

    has_started, fault, failure = True, "", None

    def __init__(self) -> None:
        self.inbox: deque[Callable[[], None]] = deque()

    def start(self) -> None: ...

    def call(self, act: Callable[[], None]) -> None:
        self.inbox.append(act)

    def call_later(self, delay_s: float, act: Callable[[], None]) -> None:
        self.inbox.append(act)

    def can_wait(self) -> bool:
        return True

    def join(self, at_most_s: float | None = None) -> bool:
        return True

    def leave(self) -> None: ...

    def fail(self, error: BaseException) -> None:
        raise error


class Queue(PendingTasks):
    """The real queue of an Executor, without a thread."""

    definitions = 0
    """Which ones the next call brings."""

    def _packed(self, call: tuple[Any, ...]) -> TaskInput:
        if not self.definitions:
            return super()._packed(call)
        needed: Any = DEFINITIONS[self.definitions]
        return DefinedCall(b"", bytes((self.definitions,)), ()), None, needed

    def _begin(self, early_guard: object = None) -> None:
        super()._begin()
        self.supervisor_thread: Any = SimulatedThread()


class LaneSimulation:
    """Two workers, calls of every kind, cancels, deaths and interrupts. Also the supervisor and the pool."""

    def __init__(self, seed: int, workers: int = 2, *, fault: str = "") -> None:
        """`fault` is what the simulated side does wrong."""
        self.fault = fault
        self.random = random.Random(seed)
        self.kinds: dict[str, str] = {}
        self.definitions: dict[str, int] = {}
        self.runs: Counter[str] = Counter()
        self.begun: list[int] = []
        """The numbers of the calls, as they began."""
        self.killed: list[tuple[str, str]] = []
        """Which call ran when SIGKILL was sent from a caller's thread, and which it was meant for."""
        self.attempts: dict[str, SimulatedAttempt] = {}
        self.futures: list[JobFuture[Any]] = []
        self.cancelled: set[str] = set()
        self.unbegun: set[str] = set()
        """Calls that were cancelled before they began, as their futures said at once."""
        self.interrupted: set[str] = set()
        self._interrupts = 0
        self._taken: Worker | None = None
        self._numbers = itertools.count(1)
        self._pids = itertools.count(1)
        self._fences = itertools.count(1)
        self.spec = PoolSpec(name="calls", modules=(), workers=workers, codec="pickle", jobs_per_worker_max=0)
        settings = Settings(pools=(self.spec,), limits=_default_limits(), caps=NO_CAPS, keep_jobs=0, sweep=False)
        self.queue = Queue(settings, "simulated")
        self.queue.supervisor = self  # type: ignore[assignment]
        self.jobs = self
        self.workers: list[Worker] = []
        for _ in range(workers):
            self._fork()

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt, if one is due now."""
        if self._interrupts:
            self._interrupts -= 1
            if not self._interrupts:
                raise KeyboardInterrupt

    @contextmanager
    def _interrupt_at(self, point: int) -> Iterator[None]:
        """Let Ctrl-C come at one of the points at which CPython takes it: where a function begins, and where a call
        into C has returned.
        """
        left = point

        def note(frame: FrameType, event: str, arg: object) -> None:
            nonlocal left
            if event in ("call", "c_return") and frame.f_code.co_filename in INTERRUPTED:
                left -= 1
                if not left:
                    raise KeyboardInterrupt

        if point:
            sys.setprofile(note)
        try:
            yield
        finally:
            sys.setprofile(None)

    # ── supervisor and pool ──

    def _fork(self) -> None:
        process = SimulatedProcess(self, next(self._pids))
        worker = Worker(f"w-{process.pid}", self, self.spec, start_method="fork", born=0.0)  # type: ignore[arg-type]
        worker.process, process.worker = process, worker  # type: ignore[assignment]
        worker._stage = WorkerStage.IDLE
        self.workers.append(worker)
        self._open_lane(worker)

    def _open_lane(self, worker: Worker) -> None:
        lane = worker.open_lane(self.queue, self._fences, quiet=True)
        lane._seconds = self.random.choice((0.0, 0.0, lane._seconds))  # else a line is short until a call has run
        self.queue.on_lane(lane)

    def open_lanes(self) -> None: ...

    def type(self, name: str) -> Any:
        return SimpleNamespace(name=name, limits=_default_limits(), caps={})

    def why_broken(self) -> str:
        return ""

    def call(
        self, job_id: str, job_type: Any, submission: Any, in_force: Any, listener: Any, given: Any, *, since: float
    ) -> Any:
        assert given is not None, f"{job_id} could not be lined up"
        workers = [each for each in self.workers if each.id == given.worker_id]
        assert len(workers) == 1, f"{job_id} is said to be with {given.worker_id}, which is gone"
        (worker,) = workers
        attempt = SimulatedAttempt(self, listener, job_id, worker, worker.process.pid)
        worker.take(attempt)
        return attempt

    def stop(self, job: SimulatedAttempt, verdict: Verdict, grace_s: float | None) -> None:
        if not job.is_over:
            job.stop(verdict, grace_s)

    def on_stage(self, was: WorkerStage, stage: WorkerStage) -> None: ...
    def on_worker_idle(self, worker: Worker) -> None: ...
    def on_worker_ending(self) -> None: ...
    def on_worker_failed(self, worker: Worker, why: str, errno: int | None) -> None: ...

    def on_worker_free(self, worker: Worker) -> None:
        if worker is not self._taken:  # else it is free for the job
            self._open_lane(worker)

    def on_worker_gone(self, worker: Worker, why: str) -> None:
        self.workers.remove(worker)
        worker.close_result_buffer()
        self._fork()

    # ── what may happen next ──

    def meanwhile(self, process: SimulatedProcess) -> None:
        """Do what may happen while the supervisor's thread has frames of this process in hand."""
        for _ in range(self.random.choice((0, 0, 1, 4))):
            process.step()
        if self.random.random() < 0.5:
            for future in self.futures:
                if future.job_id == process.running:
                    self.cancel_call(future, self.random.choice((0, None)))

    def submit(self) -> None:
        last = self.queue.definitions
        self.submit_call(
            self.random.choice(KINDS),
            self.random.choice((0, 1, 2, last, last, last)),
            self.random.choice((*(PLAIN,) * 4, WATCHED)),
            interrupts=self.random.choice((0, 0, 0, 0, 1, 2)),
            point=self._point(),
        )

    def _point(self) -> int:
        return self.random.choice((0, 0, 0, self.random.randrange(POINTS_MAX)))

    def submit_call(
        self, kind: str, definitions: int = 0, limits: dict[str, Any] = PLAIN, *, interrupts: int = 0, point: int = 0
    ) -> None:
        """The caller is interrupted at this point, or where the simulated socket is used for the so many'th time."""
        future: JobFuture[Any] = JobFuture(self.queue)
        number = next(self._numbers)
        self.queue._numbers = itertools.count(number)
        job_id = f"{self.queue._prefix}-{number}"
        self.kinds[job_id] = kind
        self.queue.definitions = self.definitions[job_id] = definitions
        self._interrupts = interrupts
        try:
            with self._interrupt_at(point):
                self.queue.submit("call", (abs, (number,), {}), limits, future)
        except KeyboardInterrupt:
            self.interrupted.add(job_id)
        self._interrupts = 0
        if future in self.queue._under_way or future.done():
            self.futures.append(future)
        else:
            assert job_id in self.interrupted
            self.unbegun.add(job_id)

    def cancel(self) -> None:
        if self.futures:
            self.cancel_call(
                self.random.choice(self.futures),
                self.random.choice((0, None)),
                interrupts=self.random.choice((0, 0, 0, 0, 1, 2, 3, 4)),
                point=self._point(),
            )

    def cancel_call(
        self, future: JobFuture[Any], grace_s: float | None, *, interrupts: int = 0, point: int = 0
    ) -> None:
        self._interrupts = interrupts
        is_accepted = False
        try:
            with self._interrupt_at(point):
                is_accepted = future.cancel(grace_s=grace_s, reason=future.job_id)
        except KeyboardInterrupt:
            self.interrupted.add(future.job_id)
        self._interrupts = 0
        if is_accepted:
            self.cancelled.add(future.job_id)
            if future.cancelled() and not future.running() and future.job_id not in self.attempts:
                self.unbegun.add(future.job_id)

    def act(self) -> bool:
        inbox = self.queue.supervisor_thread.inbox
        if inbox:
            inbox.popleft()()
        return bool(inbox)

    def work(self) -> bool:
        return self.random.choice(self.workers).process.step()  # type: ignore[attr-defined, no-any-return]

    def read_frames(self) -> None:
        self.random.choice(self.workers).process.read_frames()

    def read_output(self) -> None:
        process: Any = self.random.choice(self.workers).process
        if process.output:
            process.read_output()

    def hear_of_exits(self) -> None:
        process: Any = self.random.choice(self.workers).process
        process.look_for_exit()
        if self.random.random() < 0.5:
            process.is_gone()

    def give_to_a_job(self) -> None:
        """Take a worker for a job, as the pool does; the job is over at once."""
        self._taken = worker = self.random.choice(self.workers)
        if worker.stage is WorkerStage.IDLE:
            worker.revoke_lane()
            if worker.stage is WorkerStage.IDLE and not worker.process.look_for_exit():
                assert worker.process.killed_for is None, "a job is given to a worker that was killed for a call"
                self._open_lane(worker)
        self._taken = None

    def look_at(self, process: SimulatedProcess) -> None:
        """A call that runs is said to, once the end of the one before it is read."""
        for future in self.futures:
            if future.job_id == process.running and not (process.is_dead or process.frames or process.in_hand):
                assert future.running() or future.done(), f"{future.job_id} runs"

    def look(self) -> None:
        """What `running` says is true: a call that runs is not taken back."""
        for worker in self.workers:
            self.look_at(worker.process)  # type: ignore[arg-type]
        if self.futures:
            future = self.random.choice(self.futures)
            if future.running() and future._state == "PENDING":  # else it is an attempt
                assert self.runs[future.job_id] or future.job_id in {
                    each.process.running
                    for each in self.workers  # type: ignore[attr-defined]
                }

    def step(self) -> None:
        choices: list[Callable[[], object]] = [
            *(self.submit, self.submit, self.submit, self.cancel, self.act, self.act, self.work, self.work, self.work),
            *(self.read_frames, self.read_output, self.hear_of_exits, self.look, self.give_to_a_job),
        ]
        self.random.choice(choices)()

    def close(self) -> None:
        for worker in self.workers:
            worker.close_result_buffer()

    def settle(self) -> None:
        """Let everything go on until nothing happens any more; what is stuck is cancelled."""
        for _ in range(200):
            for _ in range(40):
                for part in (self.act, self.work, self.read_output, self.read_frames, self.hear_of_exits):
                    part()
            pending = [future for future in self.futures if not future.done()]
            if not pending and not self.queue.supervisor_thread.inbox:
                return
            for future in pending:
                if self.kinds[future.job_id] == "stuck" and self.runs[future.job_id]:
                    future.cancel(grace_s=0, reason=future.job_id)
                    self.cancelled.add(future.job_id)
        raise AssertionError(f"nothing ends: {[(each, self.kinds[each.job_id]) for each in pending]}")

    def check(self) -> None:
        """A call runs once or not at all, and one worker begins them in order; a cancel ends its call and no other;
        output is its call's.
        """
        assert not (ran := self.unbegun & self.runs.keys()), f"{ran} ran, and were cancelled before they began"
        for future in self.futures:
            job_id, kind = future.job_id, self.kinds[future.job_id]
            runs, attempt = self.runs[job_id], self.attempts.get(job_id)
            assert runs <= 1, f"{job_id} ran {runs} times"
            if future.cancelled():
                assert job_id in self.cancelled | self.interrupted, f"{job_id} was cancelled by nobody"
                continue
            error = future.exception()
            if error is None:
                assert (runs, future.result()) == (1, job_id)
            else:
                assert kind in ("fails", "dies") and runs == 1, f"{job_id} ({kind}) ended {error!r}"
            printed = attempt.output if attempt is not None else b""
            assert printed == (b"<%s>" % job_id.encode() if kind == "prints" else b""), f"{job_id}: {printed!r}"
            assert attempt is None or attempt.tokens == ([job_id.encode()] if kind == "speaks" else [])
        assert len(self.workers) > 1 or self.begun == sorted(self.begun), f"they began as {self.begun}"
        assert all(ran == meant for ran, meant in self.killed), f"a kill hit another call: {self.killed}"
        assert not self.queue._under_way and not self.queue._waiting and self.queue._doubt is None
        assert all(len(lane) == 0 for lane in self.queue._lanes)
