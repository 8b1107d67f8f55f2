"""What other programs use of the processors while a part is measured, and how long a run waits until they are idle.

Runs in: the benchmark.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

OTHER_LOAD_MAX = 0.05
"""Share of the processors. Above it, milliseconds measured on two cores include the scheduler's: repeat the part."""
BUSY = 0.1
"""The same, from which on README says of published figures that other programs used the processors, too."""
LOAD_SAMPLE_S = 1.0
"""A hundred ticks of /proc/stat per processor."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BUSY_COLUMNS = (1, 2, 3, 6, 7, 8)
"""user, nice, system, irq, softirq, steal, in the first line of /proc/stat (proc(5))."""


class OtherLoad:
    """Measures the processor time of other processes since its creation.

    Its own are this process and children that it has waited for: call `share` after they were reaped.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy_s = _busy_s()
        self._own_s = _own_s()

    def share(self) -> float:
        """Return the share of all processors that other processes used so far, 0 to 1."""
        others_s = (_busy_s() - self._busy_s) - (_own_s() - self._own_s)
        capacity_s = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, others_s / capacity_s))


class TimeBudget:
    """Seconds left for waiting and for repeats, shared by all parts. True while some are left."""

    def __init__(self, seconds: float) -> None:
        self._left_s = seconds

    def __bool__(self) -> bool:
        return self._left_s > 0

    def spend(self, seconds: float) -> None:
        self._left_s -= seconds

    async def wait_until_idle(self) -> None:
        """Return when other processes leave the processors idle, or when no time is left."""
        while self:
            load = OtherLoad()
            await asyncio.sleep(LOAD_SAMPLE_S)
            if load.share() <= OTHER_LOAD_MAX:
                return
            self.spend(LOAD_SAMPLE_S)


def _busy_s() -> float:
    columns = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return sum(int(columns[number]) for number in _BUSY_COLUMNS) / _TICKS_PER_S


def _own_s() -> float:
    return sum(os.times()[:4])
