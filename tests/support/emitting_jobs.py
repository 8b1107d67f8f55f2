"""Job types that emit from other places than their own loop.

They emit from threads, from callbacks of native libraries, from signal handlers and from finalizers.

Runs in: worker.
"""

from __future__ import annotations

import ctypes
import signal
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

from support.job_helpers import announce_entry, libc, name_process

from killable import Context, Stopping, job


@job
def emits_from_threads(ctx: Context, threads: int, count: int) -> list[str]:
    """Emit from threads, each in its own order, for ever if `count` is 0; return what the threads met."""
    name_process(ctx)
    met: list[str] = []

    def talk(name: int) -> None:
        number = 0
        try:
            while not count or number < count:
                ctx.emit([name, number])
                number += 1
                if count == 0 and ctx.stopping is not None:
                    return
        except BaseException as error:
            met.append(repr(error))

    running = [threading.Thread(target=talk, args=(name,), daemon=True) for name in range(threads)]
    try:
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    except Stopping as stopping:
        met.append(f"main thread: {stopping.cause}")
        for thread in running:
            if thread.ident is not None:
                thread.join()
    return met


@job
def yields_a_lock(ctx: Context) -> Iterator[Any]:
    """Yield what cannot be sent, and clean up without end."""
    name_process(ctx)
    try:
        yield threading.Lock()
    finally:
        ctx.emit("cleaning")
        ctx.sleep(3600)


@job
def yields_a_lock_again(ctx: Context) -> Iterator[Any]:
    """Yield what cannot be sent, and go on when told to end."""
    name_process(ctx)
    for _ in range(2):
        try:
            yield threading.Lock()
        except GeneratorExit:
            ctx.emit("deaf")


@job
def reports_at_length(ctx: Context) -> str:
    """Give all texts where their number was meant."""
    name_process(ctx)
    try:
        ctx.progress(1, ["text"] * 1000)  # type: ignore[arg-type]
    except ValueError as error:
        return str(error)
    return "taken"


@job
def emits_in_a_query(ctx: Context) -> str:
    """Emit from what SQLite calls back in the middle of an endless query, and end that when told to."""
    announce_entry(ctx)
    steps = 0

    def on_progress() -> bool:
        nonlocal steps
        steps += 1
        ctx.emit(steps)
        return ctx.stopping is not None

    database = sqlite3.connect(":memory:")
    database.set_progress_handler(on_progress, 1000)
    try:
        database.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")
    except sqlite3.OperationalError as error:
        return f"{error}: {ctx.stopping.cause if ctx.stopping else None}"
    return "ended"


@job
def emits_in_a_comparison(ctx: Context) -> None:
    """Emit from what the C library's qsort calls back, which swallows exceptions, over and over."""
    compare_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    count = 0

    def compare(left: Any, right: Any) -> int:
        nonlocal count
        count += 1
        ctx.emit(count)
        return int(left[0] - right[0])

    callback = compare_type(compare)
    name_process(ctx)
    try:
        while True:
            numbers = (ctypes.c_int * 50)(*range(50, 0, -1))
            libc().qsort(numbers, len(numbers), ctypes.sizeof(ctypes.c_int), callback)
    finally:
        ctx.emit("finally")


@job
def emits_in_a_handler(ctx: Context, count: int) -> int:
    """Emit from a signal handler and from finalizers in the middle of one's own emitting; return how often."""
    name_process(ctx)
    ticks = 0

    def on_alarm(_signum: int, _frame: object) -> None:
        nonlocal ticks
        ticks += 1  # first: the next alarm may come in the middle of this one
        ctx.emit(["tick", ticks])

    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    for number in range(count):
        ctx.emit(["main", number])
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return ticks


def counts(upto: int) -> Iterator[int]:
    yield from range(upto)
    return "counted"  # type: ignore[return-value]


@job
def hands_over_a_generator(ctx: Context, upto: int) -> Iterator[int]:
    """Return a generator that another function made: it streams as well."""
    name_process(ctx)
    return counts(upto)
