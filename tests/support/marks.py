"""How a test finds a job's processes, and what the hostile jobs share.

Runs in: worker | the tests.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

from killable import Context


def tag_of(job_id: str) -> str:
    """Return the name of a job's processes: 15 characters is what the kernel keeps."""
    return "k" + job_id.removeprefix("job-").replace("-", "")[:14]


def mark(ctx: Context) -> None:
    Path("/proc/self/comm").write_text(tag_of(ctx.job_id))


def enter(ctx: Context) -> None:
    mark(ctx)
    ctx.emit("in")


def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def compute(cpu_s: float) -> None:
    end = time.process_time() + cpu_s
    while time.process_time() < end:
        pass
