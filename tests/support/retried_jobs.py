"""Job types that end in every way in their first attempt, with and without the word of their author, and return in the
second.

Runs in: worker.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from support.simple_jobs import wait_for

from killable import Context, Retry, Stopping, job
from killable.workers.authoring.retry_on import NEVER_AGAIN
from killable.workers.error_codes import CODES

EVERY_CODE = tuple(code for code, row in CODES.items() if row.state is not None and code not in NEVER_AGAIN)


class Busy(ConnectionError):
    """Of a class that `retry_on` names."""


def end_by(how: str, ctx: Context) -> Any:
    """End the attempt as `how` says."""
    match how:
        case "exception":
            raise Busy("try again")
        case "other exception":
            raise LookupError("not there")
        case "exit":
            os._exit(3)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "killed_externally":
            os.kill(os.getpid(), signal.SIGKILL)
        case "limit.cpu":
            while True:
                pass
        case "limit.memory":
            held = bytearray(1 << 30)
            time.sleep(60)
            return len(held)
        case "limit.tmp":
            (ctx.tmp / "large").write_bytes(b"x" * (1 << 20))
            time.sleep(60)
        case "limit.processes":
            for _ in range(8):
                if os.fork() == 0:
                    time.sleep(60)
            time.sleep(60)
        case "limit.threads":
            for _ in range(20):
                threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            time.sleep(60)
        case "limit.files":
            opened = [socket.socket() for _ in range(1000)]
            return len(opened)
        case "protocol":
            ctx._channel.send(99, b"no such kind")
            time.sleep(60)
        case "result.unserializable":
            return object()
        case "timeout.operation":
            with ctx.operation("slow", 0.2):
                time.sleep(60)
        case _:  # a timeout
            time.sleep(60)
    return None


@job(retry_on=(ConnectionError, *EVERY_CODE), attempts_max=2, backoff_s=0)
def asks(how: str, ctx: Context) -> Any:
    """End as `how` says in the first attempt; the author wants another one for all but a LookupError."""
    return end_by(how, ctx) if ctx.attempt == 1 else ["done", ctx.attempt]


@job(attempts_max=2, backoff_s=0)
def is_silent(how: str, ctx: Context) -> Any:
    """The same, and its author has said nothing."""
    return end_by(how, ctx) if ctx.attempt == 1 else ["done", ctx.attempt]


@job(retry_on=(ConnectionError, "killed_externally"), attempts_max=3, backoff_s=0)
def streams(how: str, ctx: Context, times: int = 1, gate: str = "") -> Iterator[str]:
    """Stream two words, and end as `how` says in the first `times` attempts."""
    yield f"{ctx.attempt}a "
    yield f"{ctx.attempt}b "
    if ctx.attempt <= times:
        end_by(how, ctx)
    if gate:
        wait_for(gate)
    return ctx.attempt


@job(attempts_max=2, backoff_s=0)
def streams_silently(how: str, ctx: Context) -> Iterator[str]:
    """The same, and its author has said nothing."""
    yield f"{ctx.attempt}a "
    if ctx.attempt == 1:
        end_by(how, ctx)


@job(attempts_max=5, backoff_s=0)
def raises_retry(after_s: float | None, times: int, ctx: Context) -> list[Any]:
    """Ask for another attempt so many times."""
    if ctx.attempt <= times:
        try:
            raise OSError("the other side is busy")
        except OSError as error:
            raise Retry("not yet", after_s=after_s) from error
    return [ctx.attempt, time.time()]


@job(attempts_max=5, backoff_s=0)
def resumes(values: list[Any], ctx: Context) -> list[Any]:
    """Lay down one value in each attempt and ask for the next one; return what each found."""
    before = ctx.previous_checkpoint
    if ctx.attempt <= len(values):
        ctx.checkpoint(values[ctx.attempt - 1])
        raise Retry()
    return [None if isinstance(before, bytes) else before, type(before).__name__, ctx.attempt]


@job(attempts_max=2, backoff_s=0)
def resumes_large(size: int, ctx: Context, text: str = "") -> list[Any]:
    """Lay down so many bytes in the first attempt; return what came to the second one, with how much input."""
    if ctx.attempt == 1:
        ctx.checkpoint(os.urandom(1) * size)
        raise Retry()
    before = ctx.previous_checkpoint
    return [type(before).__name__, len(before), len(set(before)), len(text)]


@job(on_loss="rerun", attempts_max=9, backoff_s=0)
def goes_on(gate: str, ctx: Context) -> Iterator[Any]:
    """Tell what the attempts before have laid down, lay down more, and wait for the gate."""
    before = ctx.previous_checkpoint or []
    ctx.checkpoint([*before, ctx.attempt])
    yield [*before, ctx.attempt]
    wait_for(gate)
    return before


@job(attempts_max=9, backoff_s=0)
def waits_long(ctx: Context) -> Any:
    """Lay something down and ask for another attempt in an hour; tell then what is there."""
    if ctx.attempt == 1:
        ctx.checkpoint({"done": 1})
        raise Retry("later", after_s=3600)
    return [ctx.attempt, ctx.previous_checkpoint]


@job(retry_on=Exception, grace_s=30, run_s=0.5, backoff_s=0)
def raises_in_its_grace(how: str, ctx: Context) -> Iterator[str]:
    """Answer a stop with another exception than the stop."""
    yield "in"
    try:
        ctypes.CDLL(None).pause() if how == "native" else time.sleep(60)
    except Stopping:
        raise ConnectionError("while it was cleaned up") from None


@job(retry_on=EVERY_CODE, attempts_max=2, backoff_s=0)
def holds(ctx: Context) -> int:
    """Begin, and wait in the first attempt for an end from outside."""
    ctx.progress(ctx.attempt, 2)
    if ctx.attempt == 1:
        time.sleep(600)
    return ctx.attempt


@job(retry_on="timeout.idle", attempts_max=2, backoff_s=0)
def goes_quiet(ctx: Context) -> Iterator[str]:
    """Say a word, and in the first attempt nothing more."""
    yield "word "
    if ctx.attempt == 1:
        time.sleep(600)


@job(retry_on="timeout.start", backoff_s=0)
def begins(ctx: Context) -> int:
    return ctx.attempt
