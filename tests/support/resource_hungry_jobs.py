"""Job types that take too much memory, processor time, processes or open files.

Runs in: worker. Each names its processes after its job id, as in `hostile_jobs`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import resource
import signal
import threading
import time

from support.hostile_jobs import ITERATIONS_FOR_EVER
from support.job_helpers import announce_entry, libc, name_process

from killable import Context, job

MIB = 1 << 20


def _fill(mib: int) -> bytearray:
    return bytearray(b"\1") * (mib * MIB)


def _for_ever() -> None:
    while True:
        libc().pause()


@job
def grows(ctx: Context, mib: int = 1, every_s: float = 0.0, stubborn: bool = False) -> None:
    """Allocate and write so much, again and again, also when there is no more; a stubborn one does not hear SIGTERM."""
    name_process(ctx)
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    chunks = []
    try:
        announce_entry(ctx)
        while True:
            with contextlib.suppress(MemoryError):
                chunks.append(_fill(mib))
            time.sleep(every_s)
    finally:
        ctx.emit("finally")


@job
def fills_tmp(ctx: Context, stubborn: bool = False) -> None:
    """Write 100 KiB to the temporary directory again and again, up to 200 MiB; a stubborn one does not hear SIGTERM."""
    name_process(ctx)
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    below = ctx.tmp / "below"
    below.mkdir()
    try:
        announce_entry(ctx)
        for number in range(2000):
            (below / str(number)).write_bytes(bytes(100 << 10))
            time.sleep(0.001)
        _for_ever()
    finally:
        ctx.emit("finally")


@job
def grows_in_children(ctx: Context, children: int, mib: int, ceiling_mib: int) -> None:
    """Let forked children allocate, up to a ceiling each, and wait: none of them alone comes near the limit."""
    announce_entry(ctx)
    for _ in range(children):
        if os.fork() == 0:
            chunks = []
            for _ in range(ceiling_mib // mib):
                chunks.append(_fill(mib))
            _for_ever()
    _for_ever()


@job
def shares_with_children(ctx: Context, children: int = 8, mib: int = 100) -> int:
    """Write memory once, fork children that only have it too, and wait until every one has said so."""
    announce_entry(ctx)
    chunk = _fill(mib)
    reads, writes = os.pipe()
    pids = []
    for _ in range(children):
        pid = os.fork()
        if pid == 0:
            os.write(writes, b"1")
            _for_ever()
        pids.append(pid)
    ready = 0
    while ready < children:
        ready += len(os.read(reads, children))
    end = time.monotonic() + 0.5  # long enough for every look, and for the proof that one asks for
    while time.monotonic() < end:
        time.sleep(0.01)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(chunk)


@job
def allocates_at_one_stroke(ctx: Context, mib: int) -> int:
    """Ask for more than there may be, in one call."""
    announce_entry(ctx)
    return len(bytearray(mib * MIB))


@job
def sits_on(ctx: Context, mib: int) -> None:
    """Allocate so much, say so, and wait."""
    name_process(ctx)
    chunk = _fill(mib)
    ctx.emit("in")
    _for_ever()
    del chunk


@job
def burns(ctx: Context, how: str) -> None:
    """Compute for ever: in C, in threads of C, in a child, in children that end and are waited for."""
    import hashlib

    announce_entry(ctx)
    match how:
        case "native":
            _hash_for_ever()
        case "threads":
            for _ in range(2):
                threading.Thread(target=_hash_for_ever, daemon=True).start()
            _for_ever()
        case "child":
            if os.fork() == 0:
                _hash_for_ever()
            _for_ever()
        case "children":
            while True:
                pid = os.fork()
                if pid == 0:
                    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 30_000)
                    os._exit(0)
                os.waitpid(pid, 0)


def _hash_for_ever() -> None:
    import hashlib

    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", ITERATIONS_FOR_EVER)


@job
def uses_cpu(ctx: Context, seconds: float) -> float:
    """Compute for so much processor time; return what the process has used in its life."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return time.process_time()


@job
def bombs(ctx: Context, sessions: bool = False, ceiling: int = 1 << 20) -> None:
    """Fork without end, children too, each in a session of its own if asked for; wait where no more can be forked.

    `ceiling` is what keeps the machine alive should nothing else: in shared memory, so that all count together.
    """
    name_process(ctx)
    count = mmap.mmap(-1, 8)
    number = ctypes.c_long.from_buffer(count)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    ctx.emit("in")
    while number.value < ceiling:
        number.value += 1
        try:
            if os.fork() == 0 and sessions:
                os.setsid()
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
    _for_ever()


@job
def forks(ctx: Context, children: int, zombies: bool = False) -> str:
    """Fork so many that wait, or that end and are not waited for."""
    announce_entry(ctx)
    for _ in range(children):
        if os.fork() == 0:
            if zombies:
                os._exit(0)
            _for_ever()
    ctx.emit("forked")
    _for_ever()
    return "never"


@job
def threads(ctx: Context, number: int, children: int = 0, then: str = "wait") -> None:
    """Start so many threads with small stacks, here or in each of the children, and wait, or end them."""
    name_process(ctx)
    threading.stack_size(64 << 10)
    is_over = threading.Event()
    try:
        announce_entry(ctx)
        for _ in range(children):
            if os.fork() == 0:
                _start_threads(number, is_over)
                _for_ever()
        started = _start_threads(0 if children else number, is_over)
        if then == "wait":
            _for_ever()
    finally:
        is_over.set()
        ctx.emit("finally")
    for thread in started:
        thread.join()


def _start_threads(number: int, is_over: threading.Event) -> list[threading.Thread]:
    started = [threading.Thread(target=is_over.wait, daemon=True) for _ in range(number)]
    for thread in started:
        thread.start()
    return started


@job
def hoards_zombies(ctx: Context, children: int) -> str:
    """Fork so many, one after the other, that end and are not waited for; then compute for a while."""
    announce_entry(ctx)
    for _ in range(children):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    return "done"


@job
def shares(ctx: Context, how: str, children: int = 0) -> str:
    """Write shared memory, a MiB at a time, which children have mapped too, and go on until it is stopped."""
    announce_entry(ctx)
    descriptor = -1
    if how == "posix":
        path = f"/dev/shm/test-{os.getpid()}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.unlink(path)
        os.ftruncate(descriptor, 1 << 30)
    with mmap.mmap(descriptor, 1 << 30) as shared:
        for _ in range(children):
            if os.fork() == 0:
                _for_ever()
        try:
            for at in range(0, 1 << 30, MIB):
                shared[at : at + MIB] = b"\1" * MIB
        finally:
            ctx.emit("finally")
    return "never"


@job
def shares_little(ctx: Context, mib: int, children: int) -> str:
    """Write shared memory once, in pieces, let children read all of it, and compute for a while."""
    announce_entry(ctx)
    reads, writes = os.pipe()
    with mmap.mmap(-1, mib * MIB) as shared:
        for at in range(0, len(shared), MIB):
            shared[at : at + MIB] = b"\1" * MIB
        for _ in range(children):
            if os.fork() == 0:
                sum(shared[at] for at in range(0, len(shared), mmap.PAGESIZE))
                os.write(writes, b"1")
                _for_ever()
        for _ in range(children):
            os.read(reads, 1)
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass
    return "done"


@job
def opens(ctx: Context, files: int) -> int:
    """Open so many and keep them; return how many there were, ours too."""
    kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(files)]
    return len(kept)


@job
def tells_itself(ctx: Context) -> dict[str, object]:
    """Return who this process is, and what bounds it."""
    from pathlib import Path

    signal_at_parents_death, dumpable = ctypes.c_int(), libc().prctl(3, 0, 0, 0, 0)
    libc().prctl(2, ctypes.byref(signal_at_parents_death), 0, 0, 0)
    closed, autogroup = ctx.tmp / "closed", Path("/proc/self/autogroup")
    (closed / "below").mkdir(parents=True)
    (closed / "below" / "file").write_text("x")
    closed.chmod(0o500)
    made = (closed / "below" / "file").stat()
    with open("/dev/stdout", "w") as again:
        again.write("printed through /dev/stdout\n")
    return {
        "uids": os.getresuid(),
        "gids": os.getresgid(),
        "groups": os.getgroups(),
        "home": os.environ.get("HOME"),
        "processors": sorted(os.sched_getaffinity(0)),
        "death_signal": signal_at_parents_death.value,
        "dumpable": dumpable,
        "tmp": str(ctx.tmp),
        "tmp_owner": ctx.tmp.stat().st_uid,
        "file_owner": (made.st_uid, made.st_gid),
        "nice": os.nice(0),
        "sessions_nice": autogroup.read_text().split()[-1] if autogroup.exists() else "",
        "open_files": len(os.listdir("/proc/self/fd")) - 1,
        "rlimits": {
            name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0]
            for name in ("DATA", "CPU", "NOFILE", "NPROC")
        },
    }
