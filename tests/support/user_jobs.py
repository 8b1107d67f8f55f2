"""A user's `my_jobs.py`. It is copied into the folder of each test of the command.

Runs in: worker.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from killable import Context, job


def idle() -> None:
    """Go on for ever, and leave the processors to the commands that a test starts meanwhile."""
    while True:
        time.sleep(0.01)


def wait_for(gate: str) -> None:
    """Block until someone opens the pipe for writing."""
    open(gate, "rb").close()


@job
def greet(name: str, times: int = 1, loud: bool = False) -> Iterator[str]:
    """Greet someone."""
    for _ in range(times):
        yield f"hello {name}{'!' if loud else '.'}\n"
    return {"times": times}


@job
def add(a: int, b: int = 2) -> int:
    return a + b


@job
def raw() -> bytes:
    return bytes(range(256))


@job
def values() -> Iterator[object]:
    print("a word on the side")
    yield {"n": 1}
    yield b"\xff"


@job(grace_s=20)
def tick(gate: str = "") -> Iterator[str]:
    """Tick for ever; clean up when stopped, through the gate."""
    try:
        yield "tick\n"
        idle()
    finally:
        if gate:
            wait_for(gate)
        print("cleaned up")


@job
def compute() -> Iterator[str]:
    """Compute for ever."""
    yield "tick\n"
    while True:
        pass


@job(grace_s=20)
def deaf() -> Iterator[str]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield "tick\n"
    idle()


@job
def fails() -> None:
    raise ValueError("no luck")


@job
def crashes() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@job
def gated(gate: str) -> str:
    wait_for(gate)
    return "through"


@job
def counts(ctx: Context, steps: int = 20) -> Iterator[str]:
    """Report progress, print a line at each step, and stream a token at every tenth."""
    for step in range(steps):
        print(f"step {step + 1}")
        ctx.progress(step + 1, steps, "steps")
        if step % 10 == 9:
            yield f"after {step + 1}\n"


@job(grace_s=20)
def native() -> Iterator[str]:
    """Go into one native call that hears no signal."""
    yield "tick\n"
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2**31 - 1)


@job
def leaves_a_daemon(file: str) -> Iterator[str]:
    """Start a process in a session of its own, and write down its pid."""
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    Path(file).write_text(str(child.pid))
    yield "tick\n"
    idle()


@job(grace_s=20)
def prints(gate: str) -> Iterator[str]:
    """Print a line, wait at the gate, print another one."""
    print("before")
    yield "tick\n"
    wait_for(gate)
    print("after")
    return "done"


@job(grace_s=20)
def chatters() -> Iterator[str]:
    """Say something a hundred times a second."""
    while True:
        yield "and so on\n"
        time.sleep(0.01)


@job
def killed(ctx: Context, times: int = 1) -> int:
    """Be killed as by a stranger in so many attempts."""
    if ctx.attempt <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return ctx.attempt
