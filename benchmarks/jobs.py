"""The jobs that the benchmarks run, except those with a preload: loops, clean-up, streams, deadlines, memory.

Runs in: worker | a child of `raw_kill` | a child of `cooperative_cancel`. Standard library, and pydantic for an input.

A job that runs until it is ended yields once when it has started: CLOCK_MONOTONIC in seconds, unless stated otherwise.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Any

from pydantic import Field

from killable import Context, OperationTimedOut, Stopping, job
from killable.api.cli.bench.jobs import (  # noqa: F401 - job types of this file, too
    first_line,
    ignores_sigterm,
    native_loop,
    python_loop,
    spin,
    sum_in_c,
    wait_for_signal,
    yield_times,
    yield_tokens,
)

HELPER_THREADS = 2
LONG_S = 60.0
"""Longer than any deadline that is measured."""
_PBKDF2_ROUNDS = (1 << 31) - 1
_PTHREAD_MUTEX_BYTES = 64
"""sizeof(pthread_mutex_t) is 40 on x86-64 and 48 on arm64; all zeros is PTHREAD_MUTEX_INITIALIZER."""
_SUMMED = 300_000
"""About 5 ms in C. At a twentieth of a processor, shared by 16 jobs, more than a second until a handler runs."""
_ORDINARY_MODULES = ("colorsys", "textwrap", "shlex", "fractions", "statistics", "csv", "calendar", "difflib")
_MIB = 1 << 20


# ── loops, to be killed ──


@job
def helper_threads() -> Iterator[float]:
    """Compute in native threads while the main thread waits in C, where no Python handler can run.

    As numerical libraries do. The main thread locks a mutex twice: unlike a semaphore or a read, that wait continues
    after a signal (signal(7)).
    """
    for _ in range(HELPER_THREADS):
        threading.Thread(
            target=hashlib.pbkdf2_hmac, args=("sha256", b"password", b"salt", _PBKDF2_ROUNDS), daemon=True
        ).start()
    libc = ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(_PTHREAD_MUTEX_BYTES)
    libc.pthread_mutex_lock(mutex)
    yield time.monotonic()
    libc.pthread_mutex_lock(mutex)


# ── clean-up: one token at the start, a second one from `finally` ──


@job
def cleans_up(ctx: Context) -> None:
    """Compute in Python whose C calls take a few milliseconds each, as most Python does, and clean up."""
    try:
        ctx.emit("started")
        while True:
            sum(range(_SUMMED))
    finally:
        ctx.emit("cleaned up")


@job
def ordinary_json(ctx: Context) -> None:
    """Encode and decode JSON, and clean up."""
    record = {f"key {number}": [number, number / 7, str(number) * 9, None, {"deep": [True]}] for number in range(300)}
    try:
        ctx.emit("started")
        while True:
            record = json.loads(json.dumps(record, indent=1))
    finally:
        ctx.emit("cleaned up")


@job
def ordinary_sorting(ctx: Context) -> None:
    """Sort by keys that Python computes, and clean up."""
    values = [random.random() for _ in range(2000)]
    try:
        ctx.emit("started")
        while True:
            random.shuffle(values)
            values = sorted(values, key=lambda value: (str(value)[-3:], -value))
    finally:
        ctx.emit("cleaned up")


@job
def ordinary_imports(ctx: Context) -> None:
    """Import modules of the standard library again and again, and clean up."""
    try:
        ctx.emit("started")
        while True:
            for name in _ORDINARY_MODULES:
                sys.modules.pop(name, None)
                importlib.import_module(name)
    finally:
        ctx.emit("cleaned up")


ORDINARY = (ordinary_json.__name__, ordinary_sorting.__name__, ordinary_imports.__name__)


# ── starts and streams ──


@job
def one_token() -> Iterator[str]:
    """Yield one token and end: the smallest job that streams."""
    yield "first"


@job
def takes_members(data: dict[str, Any]) -> int:
    """Return the number of members: an input that a client may make as large as it likes."""
    return len(data)


@job
def takes_address(address: Annotated[str, Field(pattern=r"^([a-zA-Z0-9]+\.?)+@x$")]) -> str:
    """Take a text with a pattern that backtracks for hours in Python's `re`."""
    return address


@job
def emit_tokens(tokens: int, ctx: Context) -> None:
    """Emit tokens as fast as possible, one call of `ctx.emit` per token."""
    emit = ctx.emit
    for _ in range(tokens):
        emit(" token")


@job
def yield_for_ever(chars: int) -> Iterator[str]:
    """Yield texts of so many characters without end."""
    text = "x" * chars
    while True:
        yield text


@job(run_s=None, output_bytes="1GiB")
def yield_words(per_s: int) -> Iterator[str]:
    """Yield so many words a second, twenty on a line, for ever."""
    while True:
        began = time.monotonic()
        for number in range(per_s // 50):
            yield f"word-{number} " if number % 20 else f"word-{number}\n"
        time.sleep(max(0.0, 0.02 - (time.monotonic() - began)))


@job(run_s=None, memory_bytes=None, processes_max=None, threads_max=None, tmp_bytes=None)
def ticks() -> Iterator[str]:
    """Yield a token a second, for ever, and have no limit for which somebody would have to look at what it uses."""
    while True:
        time.sleep(1.0)
        yield "."


# ── deadlines: a checkpoint has the clock at the start of the measured span and when the stop was raised ──


def _sleep(ctx: Context, began: float) -> None:
    try:
        ctx.sleep(LONG_S)
    except (Stopping, OperationTimedOut):
        ctx.checkpoint([began, time.monotonic()])
        raise


@job
def sleep(ctx: Context) -> None:
    """Exceed run_s, first_token_s or total_s."""
    _sleep(ctx, time.monotonic())


@job
def sleep_after_token(ctx: Context) -> Iterator[str]:
    """Exceed idle_s."""
    yield "started"
    _sleep(ctx, time.monotonic())


@job
def sleep_in_operation(ctx: Context, raises: bool = False) -> None:
    """Exceed the time of an operation."""
    with ctx.operation("wait", None, "raise" if raises else "kill"):
        _sleep(ctx, time.monotonic())


@dataclass
class SlowInput:
    """An input that takes long to construct."""

    def __post_init__(self) -> None:
        time.sleep(LONG_S)


@job
def take_slow_input(slow: SlowInput) -> None:
    """Exceed start_s."""


@job
def use_processor(ctx: Context) -> None:
    """Exceed cpu_s. The checkpoint has processor time."""
    began = time.process_time()
    try:
        while True:
            pass
    except Stopping:
        ctx.checkpoint([began, time.process_time()])
        raise


@job
def sleep_until_sigterm() -> Iterator[float]:
    """Sleep until a SIGTERM handler raises, as in `sleep`, without a supervisor (for `raw_kill`)."""

    def stop(_signum: int, _frame: FrameType | None) -> None:
        raise Stopping("timeout.run")

    signal.signal(signal.SIGTERM, stop)
    yield time.monotonic()
    time.sleep(LONG_S)


@job
def hostile_tree(ctx: Context) -> None:
    """Ignore SIGTERM; have a child in its own session and a daemon forked twice, which ignore it too. Emit their pids.

    The session leader and the daemon are out of reach for a signal to the job's process group.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    readable, writable = os.pipe()
    for twice in (False, True):
        if os.fork() == 0:
            os.setsid()
            if twice and os.fork() != 0:
                os._exit(0)
            os.write(writable, b"%d " % os.getpid())
            while True:
                time.sleep(LONG_S)
    pids = b""
    while pids.count(b" ") < 2:
        pids += os.read(readable, 100)
    ctx.emit([int(pid) for pid in pids.split()])
    while True:
        time.sleep(LONG_S)


# ── memory ──


@job
def allocate(mb: int, every_s: float) -> Iterator[float]:
    """Allocate and write `mb` megabytes (10⁶ bytes) per interval, and continue after a MemoryError."""
    yield time.monotonic()
    chunks = []
    while True:
        try:
            chunks.append(bytearray(b"\1") * (mb * 1_000_000))
        except MemoryError:
            pass
        time.sleep(every_s)


@job
def memory_200() -> Iterator[float]:
    """Loop with 200 MiB of private memory. For `raw_kill`, as `executor.tasks.hold_memory`."""
    held = b"x" * (200 * _MIB)
    yield float(len(held))
    spin()


@job
def memory_1000() -> Iterator[float]:
    """Loop with 1000 MiB of private memory."""
    held = b"x" * (1000 * _MIB)
    yield float(len(held))
    spin()
