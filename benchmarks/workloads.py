"""The jobs that the benchmark ends: each says that it is in (its first token), then does one thing for ever.

Runs in: worker | a child of `raw` | a child of `cooperative`. Standard library only.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import json
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator

from killable import Context, job

IN = "in"
"""The token that says: from here on it computes."""
CLEANED = "cleaned"
"""The token that a clean-up emits."""

HELPER_THREADS = 2
_PBKDF2_ROUNDS = (1 << 31) - 1
_PTHREAD_MUTEX_BYTES = 64
"""sizeof(pthread_mutex_t) is 40 on x86-64 and 48 on arm64; all zeros is PTHREAD_MUTEX_INITIALIZER."""
_STEP = 300_000
"""Some 5 ms: in a twentieth of a processor, shared by 16 jobs, that is more than a second without a handler."""
_ORDINARY_MODULES = ("colorsys", "textwrap", "shlex", "fractions", "statistics", "csv", "calendar", "difflib")


def spin() -> None:
    """Compute for ever in Python."""
    while True:
        pass


def count_in_c() -> None:
    """Compute for ever in one C call that holds the GIL and looks at no signal."""
    sum(range(10**18))


@job
def python_loop() -> Iterator[str]:
    """Loop in Python."""
    yield IN
    spin()


@job
def native_loop() -> Iterator[str]:
    """Loop in one native call that holds the GIL."""
    yield IN
    count_in_c()


@job
def ignores_sigterm() -> Iterator[str]:
    """Ignore SIGTERM and loop."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield IN
    spin()


@job
def helper_threads() -> Iterator[str]:
    """Compute in threads of native code while the main thread waits in C, where no Python handler can run.

    As numerical libraries do it. The main thread locks a mutex twice: unlike a semaphore or a read, that wait goes on
    after a signal (signal(7)).
    """
    for _ in range(HELPER_THREADS):
        threading.Thread(
            target=hashlib.pbkdf2_hmac, args=("sha256", b"password", b"salt", _PBKDF2_ROUNDS), daemon=True
        ).start()
    libc = ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(_PTHREAD_MUTEX_BYTES)
    libc.pthread_mutex_lock(mutex)
    yield IN
    libc.pthread_mutex_lock(mutex)


@job
def cleans_up(ctx: Context) -> None:
    """Compute in Python that is a few milliseconds in C at a time, as most Python is, and clean up."""
    try:
        ctx.emit(IN)
        while True:
            sum(range(_STEP))
    finally:
        ctx.emit(CLEANED)


@job
def ordinary_json(ctx: Context) -> None:
    """Encode and decode JSON, and clean up."""
    record = {f"key {number}": [number, number / 7, str(number) * 9, None, {"deep": [True]}] for number in range(300)}
    try:
        ctx.emit(IN)
        while True:
            record = json.loads(json.dumps(record, indent=1))
    finally:
        ctx.emit(CLEANED)


@job
def ordinary_sorting(ctx: Context) -> None:
    """Sort by keys that Python computes, and clean up."""
    values = [random.random() for _ in range(2000)]
    try:
        ctx.emit(IN)
        while True:
            random.shuffle(values)
            values = sorted(values, key=lambda value: (str(value)[-3:], -value))
    finally:
        ctx.emit(CLEANED)


@job
def ordinary_imports(ctx: Context) -> None:
    """Import modules of the standard library again and again, and clean up."""
    try:
        ctx.emit(IN)
        while True:
            for name in _ORDINARY_MODULES:
                sys.modules.pop(name, None)
                importlib.import_module(name)
    finally:
        ctx.emit(CLEANED)


ORDINARY = (ordinary_json.__name__, ordinary_sorting.__name__, ordinary_imports.__name__)


@job
def first_line() -> int:
    """Return the monotonic time at the job's first line, in nanoseconds."""
    return time.monotonic_ns()


@job
def emits(tokens: int, ctx: Context) -> None:
    """Emit tokens one by one."""
    emit = ctx.emit
    for _ in range(tokens):
        emit(" token")


@job
def floods(chars: int) -> Iterator[str]:
    """Yield texts without end."""
    text = "x" * chars
    while True:
        yield text
