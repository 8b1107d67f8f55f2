"""What `killable top` takes of a core, over a server with a thousand jobs, of which two run.

Runs in: the benchmark. The terminal is a pseudo terminal of 80 × 24 that is only drained.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import sys
import termios

import psutil
import runner
from measurement import Figure, Samples
from servers import serve_process, used_percent
from trial_plan import Plan

JOBS, WORKERS = 1000, 2
LINES, COLUMNS = 24, 80
DRAWN_S = 5.0
"""Until it has drawn what there is."""
TOP, SERVER, MEMORY, WRITTEN = "top, % of a core", "its server, added %", "top, MiB", "to the terminal, KiB/s"


async def measure(plan: Plan, results: Samples) -> None:
    async with serve_process(workers=WORKERS) as server:
        async with server.connected() as caller:
            for _ in range(JOBS):
                await caller.submit("wait_for_signal")
        without = await server.used_percent(plan.window_s)
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        written = 0

        def drain() -> None:
            nonlocal written
            try:
                written += len(os.read(ours, 1 << 16))
            except OSError:  # nobody has the other side any more
                loop.remove_reader(ours)

        loop = asyncio.get_running_loop()
        loop.add_reader(ours, drain)
        top = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "killable.api.cli", "top", "--url", server.url, stdin=theirs, stdout=theirs,
            stderr=theirs, env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": ""},
        )  # fmt: skip
        os.close(theirs)
        try:
            await asyncio.sleep(DRAWN_S)
            before = written
            used, served = await asyncio.gather(
                used_percent(top.pid, plan.window_s), server.used_percent(plan.window_s)
            )
            results.add(TOP, used)
            results.add(SERVER, served - without)
            results.add(MEMORY, psutil.Process(top.pid).memory_info().rss / (1 << 20))
            results.add(WRITTEN, (written - before) / 1024 / plan.window_s)
            os.write(ours, b"q")
            await top.wait()
        finally:
            if top.returncode is None:
                top.kill()
                await top.wait()
            loop.remove_reader(ours)
            os.close(ours)


def figures(results: Samples) -> list[Figure]:
    return [Figure(f"top over {JOBS:,} jobs", 3.0, results.median(TOP), "% of a core", digits=2)]


def notes(results: Samples) -> list[str]:
    return [f"{name}: {results.median(name):.2f}" for name in (SERVER, MEMORY, WRITTEN) if name in results]


PARTS = {"top": measure}

if __name__ == "__main__":
    runner.run(runner.command("top", PARTS, figures, notes), __doc__ or "")
