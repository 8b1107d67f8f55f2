"""Facts about the machine that explain its figures, and how much other programs disturb them.

Runs in: a benchmark (any machine).
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from killable.api.cli.bench.percentiles import percentile
from killable.supervisor.settings import usable_cores

NOISE_S = 0.4
SPIN_ROUNDS = 20_000
"""Some half a millisecond: shorter than what a scheduler takes away at once."""
UNDISTURBED_PERCENT = 10
NOISE_MAX = 0.05
"""Share of the time. Above it figures say as much of the machine as of what is measured."""


def describe() -> dict[str, Any]:
    """Return the facts, ready for JSON."""
    return {
        "cpu": _processor(),
        "cores": usable_cores(),
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "root": sys.platform != "win32" and os.geteuid() == 0,
        "cgroup": _cgroup(),
        "memory_bytes": psutil.virtual_memory().total,
        "load": list(psutil.getloadavg()),
    }


def words(facts: Mapping[str, Any]) -> str:
    """Return what `describe` has in one line."""
    cores = f"{facts['cores']} {'core' if facts['cores'] == 1 else 'cores'} of {facts['cpu']}"
    return f"{cores}, {facts['system']} {facts['kernel']}, Python {facts['python']}, {facts['cgroup']}"


def noise() -> float:
    """Spin for NOISE_S; return the share of that time that others took, 0 to 1.

    The loop does the same again and again: what its turns take beyond the quickest tenth went to other programs, to
    interrupts, to other guests of a virtual machine (steal), or to a slower clock.
    """
    turns = []
    end = began = time.perf_counter()
    while end - began < NOISE_S:
        started = end
        for _ in range(SPIN_ROUNDS):
            pass
        end = time.perf_counter()
        turns.append(end - started)
    undisturbed = percentile(turns, UNDISTURBED_PERCENT)
    assert undisturbed is not None
    return max(0.0, 1 - undisturbed * len(turns) / sum(turns))


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cgroup() -> str:
    """Return whether killable can have control groups here, in words."""
    if sys.platform != "linux":
        return "no cgroup"
    from killable.supervisor.linux.cgroup import cgroup2_mount, own_directory

    own = own_directory()
    if cgroup2_mount() is None or own is None:
        return "no cgroup v2"
    return "cgroup v2" if os.access(own, os.W_OK) else "cgroup v2, not writable"
