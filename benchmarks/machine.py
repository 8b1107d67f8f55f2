"""The machine that the figures come from, and how much of it strangers used meanwhile.

Runs in: the benchmark.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from pathlib import Path
from typing import Any

from killable.supervisor.settings import usable_cores

STRANGERS_SHARE_MAX = 0.05
"""Above this a measurement of milliseconds on two cores is one of the scheduler, too: it is repeated."""
LOOK_S = 1.0
"""A hundred ticks of /proc/stat per processor."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BUSY_COLUMNS = (1, 2, 3, 6, 7, 8)
"""user, nice, system, irq, softirq, steal, in the first line of /proc/stat (proc(5))."""


class Strangers:
    """Counts, from its making on, the processor time that neither idled nor was ours.

    Ours are this process and the children that it has waited for, with theirs: ask when they are.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy_s = _busy_s()
        self._own_s = _own_s()

    def share(self) -> float:
        """Return the share of all processors that others used so far: 0 to 1."""
        others_s = (_busy_s() - self._busy_s) - (_own_s() - self._own_s)
        capacity_s = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, others_s / capacity_s))


class Patience:
    """Seconds that may be spent on other people's work; shared by all that is measured."""

    def __init__(self, seconds: float) -> None:
        self._left_s = seconds

    def __bool__(self) -> bool:
        return self._left_s > 0

    def spend(self, seconds: float) -> None:
        self._left_s -= seconds

    async def wait_for_quiet(self) -> None:
        """Return when strangers have left the processors alone for a moment, or patience is at its end."""
        while self:
            strangers = Strangers()
            await asyncio.sleep(LOOK_S)
            if strangers.share() <= STRANGERS_SHARE_MAX:
                return
            self.spend(LOOK_S)


def describe() -> dict[str, Any]:
    """Return what a reader of the figures has to know, ready for JSON."""
    cpu = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": usable_cores(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nice": os.nice(0),
    }


def _busy_s() -> float:
    columns = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return sum(int(columns[number]) for number in _BUSY_COLUMNS) / _TICKS_PER_S


def _own_s() -> float:
    return sum(os.times()[:4])
