"""Small, well-behaved job types: each does one thing that a test can observe from outside.

Runs in: worker. A job that waits for its test waits for a file: tests open gates, they never sleep.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, Literal

from killable import Context, Stopping, job


def wait_for(gate: str) -> None:
    while not os.path.exists(gate):
        time.sleep(0.005)


@job
def echo(text: str = "", number: int = 0, mode: Literal["plain", "loud"] = "plain") -> dict[str, Any]:
    """Return the input."""
    return {"text": text, "number": number, "mode": mode}


@job
def killed(times: int, ctx: Context, text: str = "", gate: str = "") -> list[int]:
    """Die as if the machine were out of memory, so many times; then wait for the gate, if there is one, and tell which
    attempt it is, and how much came.
    """
    ctx.progress(ctx.attempt, times)
    if ctx.attempt <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    if gate:
        wait_for(gate)
    return [ctx.attempt, len(text)]


@job(on_loss="rerun")
def repeatable(gate: str, ctx: Context) -> Iterator[int]:
    """Yield which attempt it is, and return it when the gate opens, also when it is asked to end before."""
    try:
        yield ctx.attempt  # whoever has seen it may ask for the end before the next line
        wait_for(gate)
    except Stopping:
        wait_for(gate)
    return ctx.attempt


@job(operations=("infer",))
def count(n: int, prompt: str = "", model: str = "") -> Iterator[str]:
    """Yield n tokens and return their number."""
    for number in range(n):
        yield f" {number}"
    return {"tokens": n}


@job
def say(values: list[str]) -> Iterator[str]:
    """Yield these texts."""
    yield from values


@job
def checkpoints(values: list[Any], ctx: Context) -> str:
    """Lay down each value."""
    for value in values:
        ctx.checkpoint(value)
    return "done"


@job
def gated(gates: list[str]) -> Iterator[str]:
    """Yield a token, then one more as each gate opens."""
    yield "first"
    for gate in gates:
        wait_for(gate)
        yield os.path.basename(gate)


@job
def environment() -> str:
    """Return the correlation id that the job finds in its environment."""
    return os.environ["KILLABLE_CORRELATION_ID"]


@job
def spin() -> None:
    """Compute for ever in Python."""
    while True:
        pass


@job
def sleep_native() -> int:
    """Compute for ever in one C call that holds the GIL."""
    return sum(range(10**18))


@job
def napper(seconds: float, ctx: Context) -> str:
    """Wait without computing."""
    ctx.sleep(seconds)
    return "rested"


@job
def fails(message: str = "no luck") -> None:
    """Raise ValueError."""
    raise ValueError(message)


@job
def leaves(exit_code: int) -> None:
    """End the process."""
    os._exit(exit_code)


@job(grace_s=30)
def slow_clean(gate: str, value_chars: int = 0) -> Iterator[str]:
    """Yield one token, compute until stopped, then clean up until the gate opens; return from the clean-up."""
    try:
        yield "working"
        while True:
            pass
    except Stopping:
        wait_for(gate)
        return "c" * value_chars or "cleaned"


@job
def talks(lines: list[str]) -> Iterator[str]:
    """Print lines to stdout, to file descriptor 1 and to stderr, then yield one token."""
    for line in lines:
        print(line, flush=True)
        os.write(1, f"{line}\n".encode())
        print(line, file=sys.stderr, flush=True)
    yield "said"


@job
def reports(ctx: Context) -> str:
    """Use everything that a job can say beside tokens."""
    ctx.progress(1, 2, "steps")
    ctx.checkpoint({"step": 1})
    ctx.emit({"half": 0.5})
    return "done"


@job
def mixes(ctx: Context) -> None:
    """Emit bytes, a text and other values, one of which only looks like bytes."""
    for value in (b"\x00\xff", "text", {"half": 0.5}, {"base64": "AA=="}, None):
        ctx.emit(value)


@job
def raw(size: int) -> bytes:
    """Return bytes."""
    return bytes(index % 256 for index in range(size))


@job
def big(chars: int) -> str:
    """Return a long text."""
    return "x" * chars


@job
def flood(n: int, chars: int, gate: str = "/") -> Iterator[str]:
    """Yield n tokens of that length, then wait for the gate."""
    text = "y" * chars
    for _ in range(n):
        yield text
    wait_for(gate)


@job(requires={"no_such_package": "pip install no-such-package"})
def unavailable() -> None:
    """Need what is not installed."""


@job
def forges(secret: str, ctx: Context) -> Iterator[str]:
    """Say a text in every way that there is, then fail with it."""
    ctx.progress(1, 2, secret)
    ctx.checkpoint({"said": secret})
    print(secret, flush=True)
    print(secret, file=sys.stderr, flush=True)
    yield secret
    raise RuntimeError(secret)
