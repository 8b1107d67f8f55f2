"""Looks at what a busy worker takes, at the moments that `watch` says, and stops its attempt at a limit.

Runs in: supervisor. An idle worker is never looked at: the timer is the attempt's.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from killable.supervisor import watch
from killable.supervisor.clock import Clock
from killable.supervisor.job import Limits, Verdict
from killable.supervisor.seam import Process, Sample
from killable.supervisor.watch import Look, Watch
from killable.workers.limits import backstop_bytes


class Stop(Protocol):
    """Ends the attempt; called again while it ends, and then shortens its grace if one is given."""

    def __call__(self, verdict: Verdict, grace_s: float | None = None) -> None: ...


class Watching:
    """From the order to run until its process has exited. In the grace it goes on: a job that takes more has none."""

    def __init__(self, process: Process, limits: Limits, clock: Clock, cores: int, stop: Stop) -> None:
        self._process = process
        self._limits = limits
        self._clock = clock
        self._cores = cores
        self._stop = stop
        self._cpu = limits.cpu_s is not None
        self._timer: asyncio.TimerHandle | None = None
        self._proving = False
        self._told = False
        self._closed = False

    def begin(self) -> None:
        """Call it right behind the order: what the worker holds now is its own, and the job's start need not wait."""
        process, limits = self._process, self._limits
        memory = limits.memory_bytes
        process.bound(None if memory is None else backstop_bytes(memory), limits.processes_max)
        base = process.sample(cpu=self._cpu, at_most=1) if watch.is_wanted(limits) else None
        if base is not None:
            self._watch = Watch(limits, base, self._cores)
            self._arm(self._watch.look(base, self._clock.now()))

    def close(self) -> None:
        """Look no more; may be called twice."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        began = self._clock.now()
        sample = self._process.sample(cpu=self._cpu, at_most=self._watch.at_most)
        if sample is None:
            return
        now = self._clock.now()
        look = self._watch.look(sample, now, now - began)
        if look.prove and not self._proving:
            self._proving = True
            self._process.prove(sample, lambda exact: self._on_proof(exact, now))
        self._act(look)
        self._arm(look)

    def _on_proof(self, sample: Sample, began: float) -> None:
        self._proving = False
        now = self._clock.now()
        self._watch = self._watch.proven(sample, now, now - began)
        if not self._closed:
            self._act(self._watch.look(sample, now))

    def _act(self, look: Look) -> None:
        if look.verdict is None:
            return
        # Its first sign is the verdict, and SIGTERM: whoever stops growing at that has the grace.
        self._stop(look.verdict, 0.0 if look.beyond and self._told else None)
        self._told = True

    def _arm(self, look: Look) -> None:
        if not self._closed:
            self._timer = self._clock.call_at(look.next_at, self._look)
