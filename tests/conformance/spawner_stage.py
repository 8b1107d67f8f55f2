"""One interface to both implementations of the ports: a spawner with its zygote, workers, and jobs that both can run.

Runs in: the test process. Calls and callbacks go through `supervisor.ports` only. A stage adds what comes from outside:
the job, and signals from other processes.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from support.fake_world import NEVER, Script
from support.waiting import Pending, until_async

from killable.supervisor.attempts.run_order import limits_as_json
from killable.supervisor.ports import Gone, Process, Spawner
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS
from killable.workers.protocol.frames import Frame, encode
from killable.workers.protocol.messages import Kind, Raised, Run, Stop
from killable.workers.protocol.zygote_messages import ProcessEnding, SourceFile


class ProcessReports:
    """A process's listener that remembers everything in its order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.frames: list[Frame] = []
        self.output = b""
        self.notifications = b""
        self.pid: int | None = None
        self.fork_errno: int | None = None
        self.protocol_error = ""
        self.gone: Gone | None = None
        self.process: Process | None = None
        self.at_fork: Callable[[], None] = lambda: None
        self.at_exit: Callable[[], None] = lambda: None
        self.stack_at_exit: str | None = None
        """Read when the exit is told, as the attempt does: soon after it is gone with the process."""

    def on_forked(self, pid: int) -> None:
        self._note("forked")
        self.pid = pid
        self.at_fork()

    def on_fork_failed(self, errno: int, why: str) -> None:
        self._note("fork failed")
        assert why
        self.fork_errno = errno

    def on_frames(self, frames: list[Frame]) -> None:
        self._note("frames")
        assert frames
        self.frames += frames

    def on_tokens(self, fence: int, sequence: int, tokens: list[bytes]) -> None:
        self.on_frames([Frame(Kind.TOKEN, fence, number, token) for number, token in enumerate(tokens, sequence)])

    reading_output = nullcontext()

    def on_output(self, data: bytes, stream: str = "stdout") -> None:
        self._note("output")
        assert data
        self.output += data

    def on_notifications(self, notifications: bytes) -> None:
        self._note("notifications")
        assert notifications
        self.notifications += notifications

    def on_protocol_error(self, why: str) -> None:
        self._note("protocol error")
        self.protocol_error = why

    def on_exited(self) -> None:
        self._note("exited")
        self.stack_at_exit = None if self.process is None else self.process.stack()
        self.at_exit()

    def on_gone(self, gone: Gone) -> None:
        self._note("gone")
        self.gone = gone

    def _note(self, call: str) -> None:
        assert self.calls[-1:] not in (["gone"], ["fork failed"]), f"{call} after the last call"
        self.calls.append(call)

    def kinds(self, fence: int) -> list[int]:
        """Return the kinds of the frames of one attempt, and check their sequence."""
        frames = [frame for frame in self.frames if frame.fence == fence and frame.kind != Kind.READY]
        assert [frame.sequence for frame in frames] == list(range(len(frames)))
        return [frame.kind for frame in frames]

    def raised(self, fence: int) -> Raised:
        (payload,) = [frame.payload for frame in self.frames if (frame.fence, frame.kind) == (fence, Kind.RAISED)]
        return Raised.decode(payload)

    @property
    def ending(self) -> ProcessEnding:
        assert self.gone is not None and self.gone.ending is not None, self.gone
        return self.gone.ending


class SpawnerReports:
    """A spawner's listener."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.threads = 0
        self.traceback = self.declaration = ""
        self.lost: list[str] = []
        self.workers: list[Worker] = []
        self.gone_at_loss: list[bool] = []
        """Of each worker: was its end told before its zygote's was?"""

    def on_files(self, files: Sequence[SourceFile]) -> None:
        """Of the user's own code: a simulated zygote has none."""

    def on_type(self, reported: dict[str, Any]) -> None:
        self.calls.append("type")
        assert reported["name"]

    def on_preloaded(self, threads: int) -> None:
        self.calls.append("preloaded")
        self.threads = threads

    def on_preload_failed(self, traceback: str, declaration: str) -> None:
        self.calls.append("preload failed")
        self.traceback, self.declaration = traceback, declaration

    def on_zygote_ending(self) -> None:
        assert not self.lost or self.calls[-1] != "lost", "its end was told already"
        self.calls.append("ending")

    def on_zygote_lost(self, how: str = "") -> None:
        self.calls.append("lost")
        self.lost.append(how)
        self.gone_at_loss = [worker.reports.gone is not None for worker in self.workers]


@dataclass(frozen=True, slots=True)
class Worker:
    process: Process
    reports: ProcessReports


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that a job does: as a job type of the tests, and as a script of the fake."""

    type: str
    input: dict[str, Any]
    script: Script


ACTS = {
    "returns": Act("echoes", {}, Script(tokens=0)),
    "says much and exits": Act(
        "says_and_exits", {"tokens": 200, "code": 3}, Script(tokens=200, lines=3, end="exits", exit_code=3)
    ),
    "loops": Act("loop_python", {}, Script(run_s=NEVER, tokens=1)),
    "is stuck": Act("hold_gil", {}, Script(run_s=NEVER, tokens=1, acknowledge_s=NEVER)),
    "stops itself": Act("stops_itself", {}, Script(run_s=NEVER, tokens=1, cpu=0.0)),
    "replaces the handler": Act("replaces_handler", {}, Script(run_s=NEVER, tokens=1, replaces=True)),
    "crashes": Act("segfaults", {}, Script(end="dies", signal=11)),
    "leaves half a frame": Act("dies_in_a_frame", {"code": 0}, Script(end="torn")),
    "talks nonsense": Act("writes_garbage", {"then": "loop"}, Script(tokens=1, end="garbage")),
    "computes in helpers": Act("burns", {"how": "threads"}, Script(run_s=NEVER, tokens=1, cpu=2.0, main_share=0.0)),
    "waits for its interpreter": Act(
        "hold_gil", {"in_thread": True},
        Script(run_s=NEVER, tokens=1, acknowledge_s=NEVER, main_share=0.0, wakes_per_s=200.0),
    ),
    "grows": Act("grows", {"mib": 1, "every_s": 0.001}, Script(run_s=NEVER, tokens=1, grows=1 << 28)),
    "has a family": Act(
        "keeps_family", {"kind": "setsid"},
        Script(run_s=NEVER, tokens=1, cpu=0.0, children=2, child_bytes=1 << 22, child_own_bytes=1 << 16),
    ),
    "is swept late": Act("loop_python", {}, Script(run_s=NEVER, tokens=1, sweep_s=1.0)),
    "leaves a family": Act("crashes_with_family", {}, Script(end="dies", signal=11, children=2)),
}  # fmt: skip


def cpu_s(worker: Worker) -> float:
    use = worker.process.processor_use()
    return 0.0 if use is None else use.cpu_s


class Stage(ABC):
    """One spawner whose zygote has preloaded."""

    proof: str

    def __init__(self, spawner: Spawner, zygote: SpawnerReports) -> None:
        self.spawner = spawner
        self.zygote = zygote
        self._numbers = 0

    def fork(self) -> Worker:
        self._numbers += 1
        reports = ProcessReports()
        worker = Worker(self.spawner.fork(f"w-{self._numbers}", reports), reports)
        reports.process = worker.process
        self.zygote.workers.append(worker)
        return worker

    async def worker(self) -> Worker:
        """Return a worker that is ready."""
        worker = self.fork()
        await self.until(lambda: {"forked", "frames"} <= set(worker.reports.calls), worker, "is ready")
        return worker

    async def until(self, met: Any, worker: Worker, what: str) -> None:
        await until_async(lambda: met() or Pending(worker.reports.calls[-5:]), f"the worker {what}")

    async def wait_until_gone(self, *workers: Worker) -> None:
        for worker in workers:
            await self.until(lambda worker=worker: worker.reports.gone is not None, worker, "is gone")

    async def start_inside(self, worker: Worker, act: str, fence: int) -> None:
        """Give a worker an order and wait until its job has said that it is there."""
        self.order(worker, act, fence)
        await self.wait_for_frame(worker, Kind.TOKEN, fence)

    async def wait_until_stopped(self, worker: Worker) -> None:
        """Wait until it has stopped itself, of which it cannot tell."""
        await self.until(lambda: worker.process.pid, worker, "has a process")

    async def wait_until_computing(self, worker: Worker) -> None:
        """Wait until it has computed for a while: it is where it will stay."""
        before = cpu_s(worker)
        await self.until(lambda: cpu_s(worker) > before + 0.03, worker, "computes")

    async def wait_for_frame(self, worker: Worker, kind: Kind, fence: int) -> None:
        await self.until(lambda: kind in worker.reports.kinds(fence), worker, f"has said {kind.name}")

    def order(self, worker: Worker, act: str, fence: int, *, padding: int = 0) -> None:
        worker.process.send(self.run_order(worker, act, fence, padding=padding))

    def run_order(
        self, worker: Worker, act: str, fence: int, *, padding: int = 0, result_buffer: bool = False
    ) -> bytes:
        """Hold a worker for an attempt; return the order that begins it, which is longer by `padding`."""
        type, input = self.job(act)
        content = json.dumps(input).encode() + b" " * padding
        run = Run(f"job-{fence}", type, 1, content, limits=limits_as_json(DEFAULT_LIMITS), result_buffer=result_buffer)
        worker.process.hold(fence)
        return encode(Kind.RUN, fence, 0, run.encode())

    def stop(self, worker: Worker, fence: int, *, named: int | None = None) -> None:
        """Order the end of an attempt (`named`: of another one) and ring."""
        stop = Stop("cancelled", "user", 5.0)
        worker.process.send(encode(Kind.STOP, fence if named is None else named, 0, stop.encode()))
        worker.process.terminate(fence)

    @abstractmethod
    def job(self, act: str) -> tuple[str, dict[str, Any]]:
        """Return type and input of a job that does this."""

    @abstractmethod
    def kill_zygote(self) -> None: ...

    @abstractmethod
    def kill_guard(self) -> None: ...

    @abstractmethod
    def reaping_nothing(self) -> AbstractContextManager[None]:
        """The zygote of one that "is swept late" does nothing meanwhile."""

    @abstractmethod
    def lacking_descriptors(self) -> AbstractContextManager[None]: ...

    @abstractmethod
    def await_exit(self, worker: Worker) -> None:
        """Of one that exits by itself; where time is real its pipes are full then, and nothing was read of them."""

    @abstractmethod
    def lives(self, worker: Worker) -> bool: ...

    @abstractmethod
    def kill_from_outside(self, worker: Worker) -> None: ...

    async def clear(self) -> None:
        """End what a scenario has left, for the next one."""
        left: Sequence[Worker] = [each for each in self.zygote.workers if each.reports.calls[-1:] != ["fork failed"]]
        for worker in left:
            worker.process.kill()
        await self.wait_until_gone(*left)
        self.zygote.workers.clear()
