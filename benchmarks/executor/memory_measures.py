"""What memory peers need: of an idle worker, of a pool, and for a large global that many jobs use.

Runs in: a trial.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from executor import tasks
from executor.peers import WORKERS
from executor.watched_pool import IDLE_S, Trial

USS = "private memory (USS) of an idle worker, 200 MB preloaded, MB"
POOL_MEMORY = "memory (PSS) of a program, two idle workers and all processes behind them, MB"


def measure_memory(trial: Trial) -> None:
    with trial.peer_type(1, preload=tasks.preload) as peer:
        pid = peer.submit(tasks.occupy, 0).result()
        time.sleep(IDLE_S)
        trial.add(USS, psutil.Process(pid).memory_full_info().uss / 1e6)


def measure_pool_memory(trial: Trial) -> None:
    """Include this program, which is the same for every peer but for what its library imports."""
    with trial.warm_pool():
        time.sleep(IDLE_S)
        trial.add(POOL_MEMORY, _memory_bytes("Pss:") / 1e6)


GLOBALS = "60 jobs that use a script's global of 40 MB, after the first, ms"
GLOBALS_MEMORY = "memory of the machine for 60 jobs that use a script's global of 40 MB, MB"
GLOBALS_JOBS = 60
GLOBALS_ROUNDS = 20
_SCRIPT = """
import time
import numpy

TABLE = numpy.ones(5_000_000)

def look_up(number, pause_s=0):
    if pause_s:
        time.sleep(pause_s)
    return TABLE[number::1000].sum()
"""


def measure_globals(trial: Trial) -> None:
    """Run jobs of `__main__`, which a peer sends with their globals or has forked with them.

    The first job of each worker is not measured: there it imports numpy, or loads the global. Both workers run one at
    the same time, so that neither has its first among the measured ones.
    """
    script = vars(sys.modules["__main__"])
    exec(_SCRIPT, script)
    look_up, expected = script["look_up"], float(script["TABLE"][::1000].sum())
    peer_type = trial.peer_type.for_scripts()
    with peer_type() as peer:
        for _ in range(2):
            assert [each.result() for each in [peer.submit(look_up, 0, 0.2) for _ in range(WORKERS)]] == 2 * [expected]
        for _ in trial.repeat(GLOBALS_ROUNDS):
            began = time.monotonic()
            futures = [peer.submit(look_up, number) for number in range(GLOBALS_JOBS)]
            results = [future.result() for future in futures]
            trial.add(GLOBALS, (time.monotonic() - began) * 1000)
            assert results == GLOBALS_JOBS * [expected]
    script["TABLE"] = script["TABLE"].copy()
    with peer_type() as peer:
        for _ in range(2 * WORKERS):  # each has imported numpy
            peer.submit(abs, script["TABLE"][0]).result()
        before = _machine_bytes()
        futures = [peer.submit(look_up, number) for number in range(GLOBALS_JOBS)]
        used = [_machine_bytes() - before]
        assert [future.result() for future in futures] == results
        used.append(_machine_bytes() - before)
        trial.add(GLOBALS_MEMORY, max(used) / 1e6)


def _machine_bytes() -> int:
    """Return what this program and its descendants have of their own, and all shared memory of the machine."""
    shared = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("Shmem:"))
    return (int(shared.split()[1]) << 10) + _memory_bytes("Pss_Anon:")


def _memory_bytes(kind: str) -> int:
    """Add up one line of smaps_rollup (proc(5)) of this program and its descendants."""
    total_kb = 0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        with suppress(OSError):
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            total_kb += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(kind))
    return total_kb << 10
