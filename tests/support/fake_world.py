"""The inputs of the simulated side (scripts, faults, seed) and the record of what really happened there.

Runs in: the test process.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from killable.supervisor.attempts.escalation import DUMP_S, DUMP_S_MAX
from killable.supervisor.ports import ProcessorUse
from killable.workers.protocol.messages import Kind

if TYPE_CHECKING:
    from support.fake_process import FakeProcess
    from support.fake_spawner import FakeSpawner

SIGKILL, SIGTERM = 9, 15
NEVER = math.inf
SLACK_S = 1e-6
"""Two sums of the same times may differ in the last digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a job does to its worker; times in seconds."""

    enter_s: float = 0.001
    enters: bool = True
    """If not, its worker gives up before the job function."""
    run_s: float = 0.01
    """From its entry to its end; NEVER: it computes until it is stopped."""
    tokens: int = 0
    lines: int = 0
    end: str = "returns"
    """returns · raises · exits · dies · torn · garbage · gap · enters twice · closes twice · closes and stays"""
    exit_code: int = 0
    signal: int = 11
    delivery_shows: bool = True
    """The delivery of SIGTERM shows on the wakeup descriptor."""
    replaces: bool = False
    """It has a SIGTERM handler of its own, which ends it after `cleanup_s`."""
    acknowledge_s: float = 0.0003
    """From delivery to acknowledgement; NEVER: native code."""
    swallows: int = 0
    """How often the raised `Stopping` is lost."""
    cleanup_s: float = 0.0
    cleanup_tokens: int = 0
    cleanup_returns: bool = False
    cpu: float = 1.0
    """Processors that it uses."""
    main_share: float = 1.0
    """What its main thread has of that, of one processor at most: with 0 others of its threads compute."""
    wakes_per_s: float = 0.0
    """How often its main thread wakes to ask for the interpreter lock."""
    dump_s: float = 0.001
    """From the dump signal to the stack; NEVER: it gets no processor."""
    dies_s: float = 0.0005
    """From SIGKILL to its end; NEVER: unkillable."""
    children: int = 0
    """Processes that it has beside it from its entry on; they are swept behind it."""
    child_bytes: int = 0
    """What each seems to hold, as what forks share counts in each of them."""
    child_own_bytes: int = 0
    """What each holds alone."""
    sweep_s: float = 0.0003
    lingers_s: float = 0.0
    """From its last frame to its exit."""
    operation: str = ""
    """It is in `load/download` from its entry on: "kill" or "raise" is what happens when its time is over."""
    operation_s: float = NEVER
    """Its time, unless the job's limits say otherwise."""
    leaves_s: float = NEVER
    """From its entry to when it leaves it; NEVER: with its end."""
    catches: str = ""
    """What it does about `OperationTimedOut`: nothing, `leaves` and goes on, or `stays`."""
    grows: int = 0
    """Bytes of memory a second."""
    late_frame: bool = False
    """A frame of an earlier attempt comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong around the jobs: probabilities, and a few facts."""

    fork_fails: float = 0.0
    fork_raises: float = 0.0
    dies_at_start: float = 0.0
    broken_at_start: float = 0.0
    no_cgroup: float = 0.0
    start_raises: float = 0.0
    status_unknown: float = 0.0
    preload_threads: int = 1
    preload_fails: bool = False
    declaration: str = ""
    """What is wrong with a job's declaration, if that is why the preload fails."""
    fork_report_s: float = 0.001
    """How late the zygote may tell of a fork."""


class Life(Enum):
    FORKING = "forking"
    RUNNING = "running"
    ZOMBIE = "zombie"
    REAPED = "reaped"


_NOTHING_USED = ProcessorUse(0.0, 0.0, 0)


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
    stop_ordered: bool = False
    expire_ordered: int = 0
    """The operation whose time is said to be over."""
    expired_at: float | None = None
    """When it was rung for that last."""
    term_at: float | None = None
    kill_due: float = NEVER
    delivered_at: float | None = None
    """When the supervisor read it, like the three below."""
    use_at_delivery: ProcessorUse = _NOTHING_USED
    acknowledged_at: float | None = None
    swallowed_at: float = -NEVER
    replaced_at: float | None = None
    dump_at: float | None = None
    dumped_at: float | None = None
    kill_at: float | None = None
    exited_at: float | None = None
    reaped_at: float | None = None
    outside: str = ""
    """Who else ended the process: `zygote` or `stranger`."""
    tree_empty: bool = False

    @property
    def kill_latest(self) -> float:
        """When SIGKILL has to have come: at the end of the grace, or a dump later if none was asked for before that."""
        if self.dump_at is not None and self.dump_at <= self.kill_due:
            return self.kill_due + SLACK_S
        if self.dump_at is None:
            return self.kill_due + DUMP_S_MAX + SLACK_S
        seen_at_once = self.dumped_at is not None and self.dumped_at < self.dump_at + DUMP_S
        return self.dump_at + (DUMP_S if seen_at_once else DUMP_S_MAX) + SLACK_S


class World:
    """Time, chance and the record; one per simulation."""

    def __init__(self, seed: int, faults: Faults | None = None, ack_cpu_s: float = 0.1) -> None:
        self.loop = asyncio.get_running_loop()
        self.random = random.Random(seed)
        self.faults = faults or Faults()
        self.ack_cpu_s = ack_cpu_s
        self.scripts: list[Script] = []
        """By the number of the job."""
        self.truths: dict[int, Truth] = {}
        """Of each job's latest attempt."""
        self.earlier: list[Truth] = []
        """Of attempts before the latest."""
        self.spawners: list[FakeSpawner] = []
        self.trace: list[str] = []
        self.violations: list[str] = []
        self.on_begin: Callable[[Truth], None] = lambda truth: None
        """Called when an order has come."""
        self._pids = 100
        self._timers: list[asyncio.TimerHandle] = []

    def now(self) -> float:
        return self.loop.time()

    def later(self, delay: float, act: Callable[[], None]) -> None:
        if delay != NEVER:
            self._timers.append(self.loop.call_later(delay, act))

    def soon(self, act: Callable[[], None], longest_s: float = 0.001) -> None:
        """Do it after the latency of the kernel and of the processes between: never at once."""
        if longest_s != NEVER:
            self.later(self.random.uniform(longest_s / 50, longest_s), act)

    def happens(self, probability: float) -> bool:
        return probability > 0 and self.random.random() < probability

    def note(self, *words: object) -> None:
        self.trace.append(f"{self.now():.6f} {' '.join(map(str, words))}")

    def check(self, holds: bool, what: str | Callable[[], str]) -> None:
        """`what` is what does not hold then; where it is long, a function that says it."""
        if not holds:
            said = what if isinstance(what, str) else what()
            self.note("VIOLATION", said)
            self.violations.append(f"at {self.now():.6f}: {said}")

    def next_pid(self) -> int:
        self._pids += 1
        return self._pids

    def processes(self) -> list[FakeProcess]:
        return [process for spawner in self.spawners for process in spawner.processes.values()]

    def alive(self) -> list[FakeProcess]:
        return [process for process in self.processes() if process.life in (Life.RUNNING, Life.ZOMBIE)]

    def begin(self, truth: Truth) -> None:
        """An attempt begins: the one before, if there was one, left nothing behind, and had said nothing."""
        before = self.truths.get(truth.number)
        if before is not None:
            self.earlier.append(before)
            self.check(before.tree_empty, f"job {truth.number} is run again before its tree was empty")
            returned = before.closing is not None and before.closing[0] is Kind.RESULT
            self.check(not (before.tokens or returned), f"job {truth.number} is run again, and had said something")
        self.truths[truth.number] = truth
        self.on_begin(truth)

    def attempts(self, number: int) -> list[Truth]:
        """Return what happened to each attempt of a job, in order."""
        latest = self.truths.get(number)
        return [each for each in self.earlier if each.number == number] + ([] if latest is None else [latest])

    def shortened(self, number: int, kill_due: float) -> None:
        """The test asked for less grace."""
        truth = self.truths.get(number)
        if truth is not None:
            truth.kill_due = min(truth.kill_due, kill_due)

    def check_deadlines(self) -> None:
        """Every SIGTERM is followed by an exit or by SIGKILL within its deadline."""
        for truth in self.truths.values():
            if truth.term_at is not None and truth.kill_at is None and truth.exited_at is None:
                self.check(self.now() <= truth.kill_latest, f"job {truth.number}: SIGKILL is overdue")

    def stop(self) -> None:
        """End the world: what it had still scheduled does not happen."""
        for timer in self._timers:
            timer.cancel()
