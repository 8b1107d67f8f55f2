"""The usual way: ask politely. An asyncio task that is cancelled, a thread's future that is cancelled.

Runs in: the benchmark (`time_to_stop`) | one child per trial (`python cooperative.py MECHANISM WORKLOAD`).

A child starts the work, is told to cancel it, and ends when the work has ended. After the bound its work goes on, as
its processor time shows: that is "never".
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, get_args

import encoding
import workloads

from killable.supervisor.clock import processor_use
from killable.workers.runtime import process_setup

Mechanism = Literal["asyncio task", "thread"]
MECHANISMS: tuple[Mechanism, ...] = get_args(Mechanism)
READY_S = 60.0
SETTLE_S = 0.1


@dataclass(frozen=True, slots=True)
class Politeness:
    """What became of one cancel."""

    workload: str
    mechanism: Mechanism
    stopped_ms: float | None
    """From the cancel to the end of the work; None: never, within the bound."""
    cpu_s: float
    """Processor time that the work has used since the cancel."""


def _cpu_s(pid: int) -> float:
    use = processor_use(pid)
    return 0.0 if use is None else use.cpu_s


def time_to_stop(workload: str, mechanism: Mechanism, bound_s: float) -> Politeness:
    """Cancel once and wait at most `bound_s`; then the child is killed. Blocks."""
    child = subprocess.Popen(
        [sys.executable, __file__, mechanism, workload], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert child.stdin is not None and child.stdout is not None
    pidfd = os.pidfd_open(child.pid)
    try:
        if not select.select([child.stdout], [], [], READY_S)[0] or not child.stdout.readline():
            raise RuntimeError(f"cooperative child {mechanism} {workload} did not start")
        time.sleep(SETTLE_S)
        cpu_before_s = _cpu_s(child.pid)
        asked_at = time.monotonic()
        child.stdin.write(b"cancel\n")
        stopped = bool(select.select([pidfd], [], [], bound_s)[0])
        stopped_ms = (time.monotonic() - asked_at) * 1000 if stopped else None
        return Politeness(workload, mechanism, stopped_ms, _cpu_s(child.pid) - cpu_before_s)
    finally:
        os.close(pidfd)
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def _announce() -> None:
    os.write(1, b"in\n")


def _encode() -> None:
    for _ in encoding.encode():
        pass


WORK: dict[str, Callable[[], None]] = {
    "python_loop": workloads.spin,
    "native_loop": workloads.count_in_c,
    "ignores_sigterm": workloads.spin,
    "encode": _encode,
}


async def _deaf() -> None:
    """The coroutine that is to `ignores_sigterm` what CancelledError is to SIGTERM: it catches it and goes on."""
    while True:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            continue


async def _work(workload: str) -> None:
    _announce()
    if workload == "ignores_sigterm":
        await _deaf()
    WORK[workload]()


async def _be_task(workload: str) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(_work(workload))

    def cancel_when_told() -> None:
        os.read(0, 64)
        loop.call_soon_threadsafe(task.cancel)

    threading.Thread(target=cancel_when_told, daemon=True).start()
    await asyncio.wait({task})


def _be_thread(workload: str) -> None:
    def work() -> None:
        _announce()
        WORK[workload]()

    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(work)
        os.read(0, 64)
        future.cancel()  # False: it runs
        executor.shutdown(wait=True, cancel_futures=True)


def main(mechanism: str, workload: str) -> None:
    process_setup.die_with(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if workload == "encode":
        encoding.corpus()
    if mechanism == "asyncio task":
        asyncio.run(_be_task(workload))
    else:
        _be_thread(workload)


if __name__ == "__main__":
    main(*sys.argv[1:])
