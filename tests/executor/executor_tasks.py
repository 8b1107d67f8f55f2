"""Functions that tests submit to an Executor. They are importable, as a user's are.

Runs in: worker.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from support.job_helpers import clone_for_parent, fork_one, libc
from support.waiting import until

from killable import Context, Retry, Stopping

READY: dict[str, int] = {}
"""What was made ready here: "preload" and "initializer", each with the pid in which it ran."""


def make_ready(name: str = "preload") -> None:
    READY[name] = os.getpid()


def tell_ready() -> tuple[dict[str, int], int, int]:
    return READY, os.getpid(), os.getppid()


def raise_value_error(message: str) -> NoReturn:
    raise ValueError(message)


def write_text(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def say(path: str) -> None:
    """Say that one is there, and who."""
    write_text(path + ".new", str(os.getpid()))
    os.rename(path + ".new", path)


def hold_the_lock(path: str) -> int:
    """Compute for ever in one C call that holds the interpreter's lock."""
    say(path)
    return sum(range(10**12))


def die_once(folder: str, text: bytes = b"", then: str = "") -> tuple[int, int]:
    """Be killed as by a stranger when it is called first; then tell how often it was, and how much came."""
    calls = len(os.listdir(folder)) + 1
    write_text(os.path.join(folder, str(calls)), "")
    if calls == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if then:
        loop(then)
    return calls, len(text)


def ask_again(times: int, folder: str, ctx: Context) -> tuple[int, object]:
    """Ask for another attempt so many times, and lay down which one it was; return what the last one found."""
    if ctx.attempt <= times:
        ctx.checkpoint({ctx.attempt})
        raise Retry("not yet", after_s=0.01)
    return ctx.attempt, ctx.previous_checkpoint


def yield_and_ask_again(items: int, ctx: Context) -> Iterator[int]:
    """Yield so many, and ask for another attempt if it is the first one."""
    yield from range(items)
    if ctx.attempt == 1:
        raise Retry("not yet")
    yield ctx.attempt


def loop(path: str) -> None:
    say(path)
    while True:
        pass


def ignore_sigterm(path: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    loop(path)


def clean_up(path: str, cleaned: str) -> None:
    """Say that one cleaned up."""
    try:
        loop(path)
    finally:
        say(cleaned)


def pass_through(gate: str) -> None:
    """Return when nobody has locked the file."""
    with open(gate) as file:
        fcntl.flock(file, fcntl.LOCK_SH)


def wait_for(path: str) -> str:
    """Not for ever: when the test has failed that was to make it, its executor waits for this."""
    until(lambda: os.path.exists(path), path, timeout_s=300)
    with open(path) as file:
        return file.read()


def end_when(path: str) -> NoReturn:
    wait_for(path)
    os._exit(3)


def fail_if_there(path: str) -> None:
    if os.path.exists(path):
        raise RuntimeError("it is there")


def write_down(path: str, number: int) -> None:
    with open(path, "a") as file:
        print(number, file=file)


def checkpoint_and_loop(ctx: Context, path: str) -> None:
    print("on my way")
    ctx.checkpoint({"reached": {1, 2}})
    loop(path)


def catch_stopping(path: str, value: Any = None) -> Any:
    """Return a value in the grace; who asked for the stop, and why, where none is given."""
    try:
        loop(path)
    except Stopping as stopping:
        return value or f"{stopping.cause} by {stopping.by}: {stopping.reason}"
    return "never"


def clean_up_for_ever(path: str, cleaning: str) -> None:
    """Be asked to stop, say so, and go on."""
    try:
        loop(path)
    finally:
        loop(cleaning)


def fork_and_loop(path: str) -> None:
    """Leave a child, and a grandchild in a session of its own, both deaf to SIGTERM."""
    fork_one(new_session=False)
    fork_one(new_session=True, twice=True)
    loop(path)


def leave_family(tag: str, path: str, then: str) -> Any:
    """Under this name, have a child and two grandchildren in sessions of their own; go on, return, or crash."""
    write_text("/proc/self/comm", tag)
    fork_one(new_session=False)
    fork_one(new_session=True)
    fork_one(new_session=True, twice=True)
    say(path)
    while then == "go on":
        pass
    return end_badly(then)


def count_to(number: int) -> int:
    """Take some time of the processor, as much as one asks for."""
    counted = 0
    for _ in range(number):
        counted += 1
    return counted


def end_badly(how: str) -> Any:
    match how:
        case "segfault":
            ctypes.string_at(0)
        case "segfault behind a child's":
            if (pid := os.fork()) == 0:
                ctypes.string_at(0)
            os.waitpid(pid, 0)
            os.kill(os.getpid(), signal.SIGSEGV)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit 3":
            os._exit(3)
        case "exit 0":
            os._exit(0)
        case "sys.exit":
            sys.exit(3)
        case "memory":
            return bytearray(1 << 60)
        case "files":
            files = []
            while True:
                files.append(os.open(os.devnull, os.O_RDONLY))
    return "alive"


faults: list[int] = []


def handle_faults() -> None:
    signal.signal(signal.SIGSEGV, lambda number, _frame: faults.append(number))


def fault_and_go_on() -> list[int]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return faults


def write_to_frames(data: bytes) -> None:
    from support.output_jobs import frame_descriptors

    for descriptor in frame_descriptors():
        os.write(descriptor, data)


def fault_in_child_and_go_on() -> int:
    """Return the exit code of a child that goes on after a fault as this process would."""
    handle_faults()
    if (pid := os.fork()) == 0:
        os._exit(0 if fault_and_go_on() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def crash_in_grace(path: str) -> None:
    try:
        loop(path)
    finally:
        ctypes.string_at(0)


def start_a_thread() -> None:
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def leaves_files(ctx: Context) -> int:
    """Leave files in the directory of the attempt; return how many."""
    for name in "abc":
        (ctx.tmp / name).write_text(name)
    return len(list(ctx.tmp.iterdir()))


def fork_and_fill() -> None:
    """Take memory in a child: more than 32 MiB, and less than what the kernel bounds then."""
    if os.fork() == 0:
        held = bytearray(48 << 20)
        time.sleep(3600)
        del held
    os.wait()


MANY: list[list[int]] = []


def make_many() -> None:
    MANY.extend([number] for number in range(300_000))


def collect_and_measure() -> int:
    """Return the bytes that are this process's alone when the collector has gone through everything."""
    gc.collect()
    with open("/proc/self/smaps_rollup") as file:
        lines = file.read().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_Dirty"))


def add_and_crash_at_seven(total: int, number: int) -> int:
    if number == 7:
        end_badly("segfault")
    return total + number


class Guarded:
    """An object that no pickle takes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def run(self) -> None:
        """Do nothing."""


def leave_child_of_parent() -> tuple[int, int]:
    return os.getpid(), clone_for_parent()


def leave_something(what: str) -> int:
    match what:
        case "thread":
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        case "child":
            fork_one(new_session=False)
        case "handler":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case "mask":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        case "timer":
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            signal.setitimer(signal.ITIMER_REAL, 3600)
        case "cwd":
            os.chdir("/")
        case "umask":
            os.umask(0o077)
        case "wakeup":  # a descriptor that Python does not take any more
            descriptor = os.pipe()[1]
            os.set_blocking(descriptor, False)
            signal.set_wakeup_fd(descriptor)
            os.set_blocking(descriptor, True)
    return os.getpid()


class Unpicklable(Exception):
    """Raised there, and never to be unpickled here."""

    def __reduce__(self) -> tuple[Any, ...]:
        return raise_value_error, ("not here",)


def raise_unpicklable() -> NoReturn:
    raise Unpicklable("lost")


class NotHere:
    def __reduce__(self) -> tuple[Any, ...]:
        return raise_value_error, ("not here",)


def checkpoint_what_is_not_here(ctx: Context) -> str:
    ctx.checkpoint(NotHere())
    return "returned"


def yields_what_is_not_here() -> Iterator[Any]:
    yield 1
    yield NotHere()
    while True:
        yield 2


class NotHeld:
    """Something that a weak reference can watch."""

    def __init__(self, number: int) -> None:
        self.number = number


def return_what_cannot_be_unpickled() -> NotHere:
    return NotHere()


def return_a_lock() -> Any:
    return threading.Lock()


def count(upto: int) -> Iterator[int]:
    yield from range(upto)


def count_for_ever(path: str) -> Iterator[int]:
    say(path)
    number = 0
    while True:
        yield number
        number += 1


def yield_and_wait(path: str, ended: str = "", size: int = 0, lines: int = 1) -> Iterator[str]:
    """Yield some lines and nothing more; say when that is over."""
    say(path)
    try:
        for _ in range(lines):
            yield "a line" + " " * size + "\n"
        while True:
            time.sleep(1000)
    finally:
        if ended:
            say(ended)


def yield_for_ever(path: str, ended: str) -> Iterator[str]:
    """Yield lines without a pause; say when that is over."""
    say(path)
    try:
        while True:
            yield "a line\n"
    finally:
        say(ended)


def say_and_wait(path: str) -> Iterator[str]:
    """Yield nothing."""
    say(path)
    while True:
        time.sleep(1000)
    yield ""


def yield_when(gate: str) -> Iterator[str]:
    yield "begun"
    wait_for(gate)
    yield "gate"


def count_and_raise(upto: int) -> Iterator[int]:
    yield from range(upto)
    raise ValueError("no more")


def as_list(upto: int) -> list[int]:
    return list(range(upto))


def wait_natively(path: str) -> None:
    """Wait in one C call that no signal interrupts."""
    say(path)
    mutex = ctypes.create_string_buffer(64)
    libc().pthread_mutex_lock(mutex)
    libc().pthread_mutex_lock(mutex)


async def asynchronous() -> None:
    """Be a function that is not called like others."""


def notes(path: str) -> None:
    """Write a line, and stay."""
    with open(path, "a") as file:
        file.write("once\n")
    time.sleep(3600)


def square(number: int) -> int:
    return number * number


def square_all(numbers: Iterable[int]) -> Iterator[int]:
    yield from map(square, numbers)


def add(one: int, two: int) -> int:
    return one + two


def sleep_at(number: int, path: str) -> int:
    """Wait for ever at 3, without processor time."""
    if number == 3:
        say(path)
        time.sleep(3600)
    return number


def alone_in(slots: list[str], value: int) -> int:
    """Hold one of the slots for a moment; raise when all are taken: more run than may."""
    for slot in slots:
        with open(slot) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            sum(range(2000))
            return value
    raise RuntimeError("more calls run than there are workers")


def grow() -> None:
    """Take more than 64 MiB, and less than what the kernel bounds then: the watch is first."""
    held = bytearray(80 << 20)
    time.sleep(3600)
    del held


def take(what: str, path: str) -> None:
    """Take more than 64 MiB of memory, or 0.2 s of processor time, at once; say so, and take no more."""
    held = bytearray(80 << 20) if what == "memory" else b""
    while what == "processor time" and time.process_time() < 0.5:
        pass
    write_text(path, "")
    time.sleep(3600)
    del held


def end_helpers() -> None:
    """Start processes by a fork, and end them at once, as a preload may."""
    import multiprocessing

    for _ in range(20):
        helper = multiprocessing.get_context("fork").Process(target=signal.pause)
        helper.start()
        helper.terminate()
        helper.join()


def wait_until_gone(pid: int) -> int:
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.01)
    return 0


rang = False


def ring_once() -> str:
    global rang
    if not rang:
        rang = True
        signal.raise_signal(signal.SIGALRM)
    return "rung"


class Rings:
    """Unpickled for the first time in a program whose alarm goes off."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ring_once, ()


def rings(ctx: Context) -> Rings:
    ctx.checkpoint(Rings())
    return Rings()


def yields_what_rings() -> Iterator[Any]:
    yield Rings()
    yield 2


interrupted = False


class Large:
    """Lies in memory of its own; the first time that it is unpickled in a program that is interrupted."""

    def __init__(self) -> None:
        self.content = bytearray(4 << 20)

    def __setstate__(self, state: dict[str, bytearray]) -> None:
        global interrupted
        if not interrupted:
            interrupted = True
            signal.raise_signal(signal.SIGINT)
        self.__dict__.update(state)


def large_and_slow() -> Large:
    return Large()


def fail_at(number: int, failing: dict[int, str]) -> int:
    """Return the square of a number, or fail in the way that belongs to it."""
    match failing.get(number):
        case "raise":
            raise ValueError(f"not {number}")
        case "time out":
            raise TimeoutError(f"{number} took too long")
        case "unpicklable":
            raise_unpicklable()
        case "crash":
            end_badly("kill")
        case "exit":
            end_badly("sys.exit")
        case "loop":
            while True:
                pass
    return number * number
