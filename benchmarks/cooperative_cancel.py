"""The cooperative baseline: cancel an asyncio task, or the future of a thread, and wait for the work to end.

Runs in: the benchmark (`time_to_stop`) | one child per trial (`python cooperative_cancel.py MECHANISM WORKLOAD`).

A child starts the work, cancels it on request, and ends when the work has ended. Where the work continues after the
bound, as its processor time shows, the result is "never".
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

import jobs
import tokenizer_jobs

from killable.supervisor.clock import processor_use
from killable.workers.runtime import process_setup

Mechanism = Literal["asyncio task", "thread"]
MECHANISMS: tuple[Mechanism, ...] = get_args(Mechanism)
READY_S = 60.0
SETTLE_S = 0.1


@dataclass(frozen=True, slots=True)
class CancelOutcome:
    """The result of one cooperative cancel."""

    workload: str
    mechanism: Mechanism
    stopped_ms: float | None
    """From the cancel to the end of the work; None: not within the bound."""
    cpu_s: float
    """Processor time that the work has used since the cancel."""

    def __str__(self) -> str:
        stopped = "never" if self.stopped_ms is None else f"{self.stopped_ms:.1f} ms"
        return f"{self.mechanism}, {self.workload}: cancel → end {stopped}, {self.cpu_s:.1f} s of processor time since"


def time_to_stop(workload: str, mechanism: Mechanism, bound_s: float) -> CancelOutcome:
    """Cancel once and wait at most `bound_s`; then kill the child. Blocks."""
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
        cancelled_at = time.monotonic()
        child.stdin.write(b"cancel\n")
        stopped = bool(select.select([pidfd], [], [], bound_s)[0])
        stopped_ms = (time.monotonic() - cancelled_at) * 1000 if stopped else None
        return CancelOutcome(workload, mechanism, stopped_ms, _cpu_s(child.pid) - cpu_before_s)
    finally:
        os.close(pidfd)
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def _cpu_s(pid: int) -> float:
    use = processor_use(pid)
    return 0.0 if use is None else use.cpu_s


# ── the child ──


def _encode() -> None:
    for _ in tokenizer_jobs.encode():
        pass


WORK: dict[str, Callable[[], None]] = {
    "python_loop": jobs.spin,
    "native_loop": jobs.sum_in_c,
    "ignores_sigterm": jobs.spin,
    "encode": _encode,
}


def _report_start() -> None:
    os.write(1, b"started\n")


async def _ignore_cancellation() -> None:
    """Catch CancelledError and continue: for a coroutine what `ignores_sigterm` is for a process."""
    while True:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            continue


async def _work(workload: str) -> None:
    _report_start()
    if workload == "ignores_sigterm":
        await _ignore_cancellation()
    WORK[workload]()


async def _run_task(workload: str) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(_work(workload))

    def cancel_on_request() -> None:
        os.read(0, 64)
        loop.call_soon_threadsafe(task.cancel)

    threading.Thread(target=cancel_on_request, daemon=True).start()
    await asyncio.wait({task})


def _run_thread(workload: str) -> None:
    def work() -> None:
        _report_start()
        WORK[workload]()

    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(work)
        os.read(0, 64)
        future.cancel()  # returns False: the call is running
        executor.shutdown(wait=True, cancel_futures=True)


def main(mechanism: str, workload: str) -> None:
    process_setup.die_with(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if workload == "encode":
        tokenizer_jobs.corpus()
    if mechanism == "asyncio task":
        asyncio.run(_run_task(workload))
    else:
        _run_thread(workload)


if __name__ == "__main__":
    main(*sys.argv[1:])
