"""Job types with operations, pauses between tokens and critical sections.

Runs in: worker.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any, Literal

from support.job_helpers import HeldBackOutput, name_process, take_three_signals

from killable import Context, OperationTimedOut, Stopping, job

FOREVER_S = 3600.0


@job
def loads(
    ctx: Context,
    inner_s: float | None = None,
    outer_s: float | None = None,
    on_timeout: Literal["kill", "raise"] = "kill",
    work: Literal["sleep", "native", "tokens"] = "sleep",
) -> str:
    """Hang in an operation inside another one. The supervisor hears at once of both and of "in", inside the C call."""
    name_process(ctx)
    with (
        HeldBackOutput(ctx) as held,
        ctx.operation("load", outer_s, on_timeout),
        ctx.operation("download", inner_s, on_timeout),
    ):
        ctx.emit("in")
        sum(chain(held.release(), range(10**11 if work == "native" else 0)))
        while work == "tokens":
            ctx.emit("t")
        ctx.sleep(FOREVER_S)
    return "never"


@job(operation_s={"load": 0.1})
def declared(ctx: Context) -> None:
    """Hang in an operation to whose time the code says nothing."""
    name_process(ctx)
    with ctx.operation("load"):
        ctx.sleep(FOREVER_S)


@job
def tries_again(ctx: Context, stays: bool = False, times: int = 1) -> list[Any]:
    """Catch what an operation raises and go on, after it or inside it."""
    name_process(ctx)
    met = []
    for _ in range(times):
        try:
            with ctx.operation("fetch", 3.0 if stays else 0.05, "raise") as fetch:
                assert fetch.remaining_s is not None and fetch.remaining_s <= 3.0
                try:
                    ctx.sleep(FOREVER_S)
                except OperationTimedOut:
                    if not stays:
                        raise
                    ctx.sleep(FOREVER_S)
        except OperationTimedOut as error:
            ctx.emit(error.path)
            met += [str(error), error.path, error.timeout_s, isinstance(error, TimeoutError)]
    return met


@job
def raises_outer(ctx: Context) -> list[str]:
    """Meet the end of an outer operation inside an inner one, whose own time comes later."""
    name_process(ctx)
    met = []
    try:
        with ctx.operation("outer", 1.5, "raise"):
            try:
                with ctx.operation("inner", 9):
                    ctx.sleep(FOREVER_S)
            finally:
                met.append("inner left")
    except OperationTimedOut as error:
        met.append(error.path)
    ctx.sleep(8)  # the inner one's time, had it not been left
    return met


@job
def hears_the_third_bell(ctx: Context) -> str:
    """Be in native code that lets Python handle only the third SIGTERM for the end of an operation."""
    name_process(ctx)
    try:
        with ctx.operation("fetch", 0.05, "raise"):
            take_three_signals()
            ctx.sleep(FOREVER_S)
    except OperationTimedOut as error:
        return error.path
    return "never"


@job
def counts_in_operations(ctx: Context) -> list[str]:
    """Catch the ends of operations around, and below, loops with a condition in the same function."""
    name_process(ctx)
    met = []

    def fetch() -> None:
        number = 0
        with ctx.operation("fetch", 0.05, "raise"):
            try:
                while number < 10**12:
                    number += 1
            finally:
                met.append("cleaned")

    for _ in range(3):
        try:
            fetch()
        except OperationTimedOut as error:
            met.append(error.path)
    number = 0
    try:
        with ctx.operation("last", 0.05, "raise"):
            while number < 10**12:
                number += 1
    except OperationTimedOut as error:
        met.append(error.path)
    return met


@job
def leaves_in_time(ctx: Context) -> str:
    """Leave operations before their time, and outlive that."""
    name_process(ctx)
    for on_timeout in ("kill", "raise"):
        with ctx.operation("short", 5, on_timeout):
            pass
    ctx.sleep(5.5)
    return "done"


@job
def yields_inside(ctx: Context) -> Iterator[str]:
    """Be between two yields nearly all the time, in an operation, and catch its end."""
    name_process(ctx)
    try:
        with ctx.operation("stream", 0.1, "raise"):
            while True:
                yield "t"
    except OperationTimedOut as error:
        yield error.path


@job
def swallows_it(ctx: Context) -> str:
    """Be in a finalizer nearly all the time when an operation's end is raised: it is swallowed there."""

    class Slow:
        def __del__(self) -> None:
            for _ in range(100):
                pass

    name_process(ctx)
    try:
        with ctx.operation("fetch", 0.05, "raise"):
            while True:
                Slow()
    except OperationTimedOut:
        return "came through"


@job
def waits_in_asyncio(ctx: Context) -> str:
    """Be inside `asyncio.run`, in an operation."""
    import asyncio

    name_process(ctx)

    async def main() -> None:
        while True:
            await asyncio.sleep(0.001)

    try:
        with ctx.operation("fetch", 0.05, "raise"):
            asyncio.run(main())
    except OperationTimedOut as error:
        return error.path
    return "never"


@job
def is_busy_in_asyncio(ctx: Context, times: int) -> list[str]:
    """Be in asyncio's own code nearly all the time, with tasks whose steps it has just taken from its queue."""
    import asyncio

    name_process(ctx)
    met = []

    async def step() -> None:
        while True:
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(step() for _ in range(20)))

    for _ in range(times):
        try:
            with ctx.operation("fetch", 0.02, "raise"):
                asyncio.run(main())
        except OperationTimedOut as error:
            met.append(error.path)
    return met


@job
def is_in_two_threads(ctx: Context) -> None:
    """Be in an operation of one path in two threads; leave it in the first, hang in the second."""
    name_process(ctx)
    inside = threading.Event()

    def hang() -> None:
        with ctx.operation("fetch"), ctx.operation("body", 0.2):
            inside.set()
            ctx.sleep(FOREVER_S)

    with ctx.operation("fetch"):
        threading.Thread(target=hang, daemon=True).start()
        inside.wait()
    ctx.sleep(FOREVER_S)


@job
def misuses(ctx: Context, how: str) -> None:
    """Ask for an operation that there cannot be."""
    name_process(ctx)
    match how:
        case "name":
            ctx.operation("a/b")
        case "time":
            ctx.operation("a", 0)
        case "many":
            with contextlib.ExitStack() as stack:
                for _ in range(101):
                    stack.enter_context(ctx.operation("a"))
        case "by itself":
            raise OperationTimedOut("mine", 3.0)


@job
def pauses(ctx: Context, first_s: float = 0.0, between_s: float = 0.0, tokens: int = 1) -> Iterator[str]:
    """Wait before the first token, and between the others."""
    name_process(ctx)
    ctx.sleep(first_s)
    for number in range(tokens):
        yield str(number)
        ctx.sleep(between_s)


# ── critical sections ──


@job
def shields(ctx: Context, section_s: float = 0.1, nested: bool = False) -> None:
    """Be told to end in a critical section."""
    name_process(ctx)
    try:
        with ctx.shield():
            with ctx.shield() if nested else contextlib.nullcontext():
                ctx.emit("in")
                while ctx.stopping is None:
                    pass
                ctx.emit(f"told: {ctx.stopping.cause}")
                end = time.monotonic() + section_s
                while time.monotonic() < end:
                    time.sleep(0.005)
                ctx.emit("section done")
            ctx.emit("left")
        ctx.emit("not reached")
    except Stopping:
        ctx.emit("raised")
        raise


@job
def shields_two_operations(ctx: Context) -> list[str]:
    """Have the ends of two operations deferred, one inside the other: the outer one's is what is raised."""
    name_process(ctx)
    met = []
    try:
        with ctx.operation("outer", 0.5, "raise"):
            try:
                with ctx.operation("inner", 0.5, "raise"), ctx.shield():
                    ctx.sleep(6)
            except OperationTimedOut as error:
                met.append(f"inside: {error.path}")
                raise
    except OperationTimedOut as error:
        met.append(error.path)
    return met


@job
def shields_an_operation(ctx: Context) -> list[str]:
    """Have an operation's end deferred: raised behind the section, and not at all when it was left inside."""
    name_process(ctx)
    told = []
    try:
        with ctx.operation("fetch", 0.5, "raise"):
            with ctx.shield():
                ctx.sleep(6)
                told.append("section done")
            told.append("not reached")
    except OperationTimedOut:
        told.append("raised")
    with ctx.shield(), ctx.operation("fetch", 0.05, "raise"):
        ctx.sleep(0.2)
    told.append("left inside")
    return told
