"""Measure a busy worker when `resource_limits` requires it, and stop its attempt at a limit.

Runs in: supervisor. An idle worker is never measured: the timer belongs to the attempt.
"""

from __future__ import annotations

from typing import Protocol

from killable.supervisor.attempts import measuring_pace
from killable.supervisor.attempts.resource_limits import Finding, ResourceWatch
from killable.supervisor.clock import Clock, Timer
from killable.supervisor.jobs.effective_limits import needs_samples
from killable.supervisor.models import Verdict
from killable.supervisor.ports import MeasuredProcess, Sample
from killable.workers.authoring.limits_and_caps import Limits
from killable.workers.headroom_over_limits import hard_limit_bytes, hard_limit_of_tasks

RETRY_S = 0.05
"""Time to the next measurement if one failed: no descriptor is left, or the process is gone, which is reported next."""


class StopCallback(Protocol):
    """Ends the attempt. If it is ending already, shortens its grace to `grace_s`, if given."""

    def __call__(self, verdict: Verdict, grace_s: float | None = None) -> None: ...


def not_any_more(verdict: Verdict, grace_s: float | None = None) -> None:
    """Be the `StopCallback` of what is closed: the attempt, which has it, is not kept alive by it."""


class ResourceMonitor:
    """Measures from the order until the process has exited, the grace included: a job that takes more loses it."""

    def __init__(self, process: MeasuredProcess, limits: Limits, clock: Clock, cores: int, stop: StopCallback) -> None:
        self._process = process
        self._limits = limits
        self._clock = clock
        self._cores = cores
        self._stop = stop
        self._cpu = limits["cpu_s"] is not None
        self._watch: ResourceWatch | None = None
        self._last: Sample | None = None
        self._alone_at = 0.0
        """When to measure again if no process and no thread is started until then."""
        self._counts_s = 0.0
        """How soon so many can be started that a limit is reached."""
        self._seen: Sample | None = None
        """The sample of the last look, if the limits hold for as long as the same is found."""
        self._step_s = 0.0
        """How far apart looks may be that find it."""
        self._at_most = 1
        """Processes that have to be counted."""
        self._timer: Timer | None = None
        self._proving = False
        self._stop_requested = False
        self._closed = False

    def prepare(self, *, has_order: bool) -> None:
        """Record the base, unless the thread that sent the order has done so, and set the kernel's limits."""
        if needs_samples(self._limits) and not has_order:
            self._process.note_base(cpu=self._cpu)
        memory = self._limits["memory_bytes"]
        tasks_max = hard_limit_of_tasks(self._limits["processes_max"], self._limits["threads_max"])
        self._process.bound(None if memory is None else hard_limit_bytes(memory), tasks_max)

    def begin(self, ordered: float) -> None:
        """Start measuring. The order was sent before, at `ordered`: the job need not wait, and may be over by now."""
        if not needs_samples(self._limits):
            return
        base = self._process.base
        if base is None:
            self._look_at(ordered + RETRY_S)
        else:
            self._count_from(base, ordered)

    def _count_from(self, base: Sample, now: float) -> None:
        self._watch = ResourceWatch(self._limits, base, self._cores)
        self._at_most = self._watch.at_most
        self._wait(base, self._watch.look(base, now), now)

    def close(self) -> None:
        """Stop measuring; may be called twice."""
        self._closed = True
        self._stop = not_any_more
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = self._clock.now()
        if self._last is not None and now < self._alone_at and self._process.has_started_none_since(self._last):
            self._look_at(min(now + self._counts_s, self._alone_at))
            return
        sample = self._process.sample(cpu=self._cpu, at_most=self._at_most)
        if sample is not None and sample is self._seen and self._step_s:
            self._timer = self._clock.call_at_beats(self._step_s, self._stands_still)
        else:
            self._decide(sample)

    def _stands_still(self) -> bool:
        """Look again; return whether nothing has run since the last look."""
        if self._closed:
            return False
        sample = self._process.sample(cpu=self._cpu, at_most=self._at_most)
        if sample is self._seen:
            return True
        self._decide(sample)
        return False

    def _decide(self, sample: Sample | None) -> None:
        now = self._clock.now()
        if sample is None:
            self._look_at(now + RETRY_S)
            return
        if self._watch is None:
            self._count_from(sample, now)
            return
        look = self._watch.look(sample, now)
        self._seen = None if look.holds_s is None else sample
        self._step_s = measuring_pace.step_s(look.holds_s or 0.0, sample.cost_s)
        if look.prove and not self._proving:
            self._proving = True
            self._process.prove(sample, self._on_proof)
        self._act(look)
        self._wait(sample, look, now)

    def _wait(self, sample: Sample, look: Finding, now: float) -> None:
        self._last, self._alone_at, self._counts_s = sample, look.alone_at, look.next_at - now
        self._look_at(look.next_at)

    def _on_proof(self, sample: Sample) -> None:
        self._proving = False
        now = self._clock.now()
        assert self._watch is not None
        self._watch = self._watch.proven(sample, now)
        if not self._closed:
            self._act(self._watch.look(sample, now))

    def _act(self, look: Finding) -> None:
        if look.verdict is None:
            return
        # The first finding sends SIGTERM: a job that then stops growing keeps its grace.
        self._stop(look.verdict, 0.0 if look.beyond and self._stop_requested else None)
        self._stop_requested = True

    def _look_at(self, moment: float) -> None:
        if not self._closed:
            self._timer = self._clock.call_at(moment, self._look)
