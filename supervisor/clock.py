"""The only place that reads a clock: monotonic for durations, wall for display, processor time of a worker.

Runs in: supervisor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from killable.supervisor.ports import ProcessorUse

EXACT_WAIT_S = 0.1
"""A wait of up to this long is exact enough: the kernel may lengthen it by 0.1 ms, or by 0.5 ms above nice level 0."""
OVERRUN_SHARE, OVERRUN_S_MAX = 0.005, 0.1
"""How much epoll_wait(2) may overrun its timeout: by this share of it, and by this many seconds at most. The kernel
adds a thousandth, or five above nice level 0, so that timers of many processes fire together
(`select_estimate_accuracy` in fs/select.c; PR_SET_TIMERSLACK of prctl(2) does not shorten it). A wait of a minute
ended 70 ms late."""
ROUNDING_S = 1e-6
"""By less than this a multiple differs from the time at which its timer calls: it would be awaited again."""
MARGIN_S = 0.002
"""Additional margin: the loop rounds its waits up to milliseconds, and then has to get the processor."""


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Cancel the call. Does nothing if it was made or cancelled before."""
        ...


class TimedLoop(Protocol):
    """An event loop, as far as it keeps time: asyncio's, a virtual one, or that of a single command."""

    def time(self) -> float: ...
    def call_at(self, when: float, callback: Callable[[], None], /) -> Timer: ...


class Clock:
    """The time of the event loop; virtual on a virtual loop."""

    def __init__(self, loop: TimedLoop) -> None:
        self._loop = loop
        self._rows: dict[float, _Row] = {}
        """By the seconds between two beats."""

    def now(self) -> float:
        """Return CLOCK_MONOTONIC seconds; the worker processes share this clock."""
        return self._loop.time()

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Schedule a call that is on time however far away `when` is."""
        if when - self._loop.time() <= EXACT_WAIT_S:
            return self._loop.call_at(when, callback)
        return _LongWait(self._loop, when, callback)

    def call_at_beats(self, step_s: float, goes_on: Callable[[], bool]) -> Timer:
        """Make a call at each multiple of `step_s`, until it returns False. All with the same step share a timer."""
        row = self._rows.get(step_s)
        if row is None:
            row = self._rows[step_s] = _Row(self, step_s)
            row.arm()
        beat = _Beat(row, goes_on)
        row.calls[beat] = None
        return beat

    def forget(self, row: _Row) -> None:
        """Take note that nobody is called in this row any more."""
        del self._rows[row.step_s]

    @staticmethod
    def age_s(at: str) -> float:
        """Return how many seconds ago `at` was, a time of day from `wall`; 0 if it is in the future."""
        return max(0.0, time.time() - _seconds(at))

    @staticmethod
    def left_s(at: str) -> float:
        """Return in how many seconds `at` will be, a time of day from `wall`; 0 if it is in the past."""
        return max(0.0, _seconds(at) - time.time())

    def since_1970(self, moment: float) -> float:
        """Return the seconds from 1970 to a recent moment of this clock, exactly: `wall` has milliseconds."""
        return time.time() - self.now() + moment

    @staticmethod
    def wall() -> str:
        """Return the time of day: RFC 3339 in UTC with milliseconds."""
        return rfc_3339(time.time())

    @staticmethod
    def wall_after(at: str, elapsed_s: float) -> str:
        """Return the time of day so many seconds after `at`, as if nobody had set the clock meanwhile."""
        return rfc_3339(_seconds(at) + elapsed_s) if at else ""


class _Row:
    """Calls at the same beats, by one timer, which is there as long as one of them is."""

    def __init__(self, clock: Clock, step_s: float) -> None:
        self.step_s = step_s
        self.calls: dict[_Beat, None] = {}
        """To be made at the next beat."""
        self._due: dict[_Beat, None] = {}
        """Still to be made at this beat: the call before them has failed."""
        self._clock = clock
        self._timer: Timer | None = None
        """None while calls are made."""

    def arm(self) -> None:
        beats = (self._clock.now() + ROUNDING_S) // self.step_s  # until now
        self._timer = self._clock.call_at((beats + 1) * self.step_s, self._make)

    def drop(self, beat: _Beat) -> None:
        self.calls.pop(beat, None)
        self._due.pop(beat, None)
        if not self.calls and not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._clock.forget(self)

    def _make(self) -> None:
        self._timer = None
        if not self._due:
            self._due, self.calls = self.calls, {}
        try:
            while self._due:
                beat, _ = self._due.popitem()
                if beat.goes_on() and not beat.is_over:
                    self.calls[beat] = None
                else:
                    beat.is_over = True
        finally:
            if self._due:  # one has failed, which the loop tells
                self._timer = self._clock.call_at(self._clock.now(), self._make)
            elif self.calls:
                self.arm()
            else:
                self._clock.forget(self)


class _Beat:
    """A call in a row."""

    def __init__(self, row: _Row, goes_on: Callable[[], bool]) -> None:
        self.goes_on = goes_on
        self.is_over = False
        self._row = row

    def cancel(self) -> None:
        if not self.is_over:
            self.is_over = True
            self._row.drop(self)


class _LongWait:
    """Waits until shortly before its time, repeatedly, until the rest is short enough to be exact."""

    def __init__(self, loop: TimedLoop, when: float, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._when = when
        self._callback = callback
        self._wait()

    def _wait(self) -> None:
        left = self._when - self._loop.time()
        if left <= EXACT_WAIT_S:
            self._handle = self._loop.call_at(self._when, self._callback)
        else:
            early_s = MARGIN_S + min(left * OVERRUN_SHARE, OVERRUN_S_MAX)
            self._handle = self._loop.call_at(self._when - early_s, self._wait)

    def cancel(self) -> None:
        self._handle.cancel()


def realtime() -> float:
    """Return CLOCK_REALTIME seconds, by which the kernel dates what outlives a process."""
    return time.time()


monotonic = time.monotonic
"""Returns CLOCK_MONOTONIC seconds, the time of the event loop, in any thread."""


def boottime() -> float:
    """Return CLOCK_BOOTTIME seconds, which go on while the machine is suspended, in any thread."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def asleep_s() -> float:
    """Return the seconds that the machine has been suspended since its boot: CLOCK_MONOTONIC leaves them out."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


def thread_cpu_s() -> float:
    """Return the processor seconds of this thread, without the time in which it waited for a processor."""
    return time.thread_time()


def rfc_3339(seconds: float) -> str:
    """Format seconds since 1970 as RFC 3339 in UTC with milliseconds."""
    whole = int(seconds // 1)
    return f"{_to_the_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(maxsize=4)
def _to_the_second(seconds: int) -> str:
    """Cached: a busy server formats the same second again and again, 10 µs each."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@lru_cache(maxsize=256)
def _seconds(at: str) -> float:
    """Cached: each job has its time of creation read at its start and at its end, 4 µs each."""
    from datetime import datetime  # here: 1.5 ms of an Executor's start, which has no use for it

    return datetime.fromisoformat(at).timestamp()


def process_cpu_s(pid: int) -> float | None:
    """Return the processor seconds of a whole process from its CPU clock; None when it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return None


def processor_use(pid: int) -> ProcessorUse | None:
    """Return the processor time that a process has used; None when it is gone.

    The whole process is read from its clock (clock_getcpuclockid(3), 1 µs), the main thread alone from
    /proc/PID/schedstat (8 µs). The caller checks its pidfd afterwards: the pid may have been reused.
    """
    cpu_s = process_cpu_s(pid)
    if cpu_s is None:
        return None
    try:
        with open(f"/proc/{pid}/schedstat", "rb", buffering=0) as file:
            ran_ns, _waited_ns, runs = file.read(64).split()
    except (OSError, ValueError):  # a kernel without CONFIG_SCHED_INFO, or no descriptor is left
        return ProcessorUse(cpu_s)
    return ProcessorUse(cpu_s, int(ran_ns) / 1e9, int(runs))
