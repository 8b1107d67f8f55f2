"""The program that an Executor lives in is left as it was; and what becomes of the Executor when that ends or forks."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Literal

import executor_tasks
import pytest
from support import processes
from support.job_helpers import libc
from support.waiting import Pending, until

from killable import Executor, JobTimedOut, OutOfMemory, WorkerCrashed
from killable.supervisor import event_loops

SOON_S = 0.2
"""How long a thread stays that may have more to do, instead of some seconds."""


def surroundings() -> dict[str, Any]:
    """Return what a library has no business to change in a program."""
    subreaper = ctypes.c_int()
    libc().prctl(37, ctypes.byref(subreaper), 0, 0, 0)  # PR_GET_CHILD_SUBREAPER
    umask = os.umask(0)
    os.umask(umask)
    return {
        "handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "wakeup": signal.set_wakeup_fd(-1),
        "subreaper": subreaper.value,
        "cwd": os.getcwd(),
        "umask": umask,
        "environment": dict(os.environ),
        "path": list(sys.path),
        "limits": [resource.getrlimit(number) for number in range(resource.RLIMIT_NOFILE + 1)],
        "nice": os.nice(0),
        "group": os.getpgrp(),
        "excepthook": sys.excepthook,
        "threading": threading.excepthook,
        "start method": multiprocessing.get_start_method(allow_none=True),
    }


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_the_program_is_left_alone(tmp_path: Path, start_method: Literal["fork", "spawn"]) -> None:
    before = surroundings()
    with Executor(max_workers=2, grace_s=0, start_method=start_method, preload=["colorsys"]) as executor:
        assert surroundings() == before
        future = executor.submit(executor_tasks.loop, str(tmp_path / "in"))
        until((tmp_path / "in").exists, "it runs")
        assert surroundings() == before
        future.cancel()
        assert executor.submit(executor_tasks.square, 3).result() == 9
        assert surroundings() == before
        with pytest.raises(WorkerCrashed):
            executor.submit(executor_tasks.end_badly, "segfault").result()
        with pytest.raises(JobTimedOut):
            executor.with_limits(run_s=0.1).submit(executor_tasks.loop, str(tmp_path / "in")).result()
        for item in executor.stream(executor_tasks.square_all, range(3)):
            assert item in (0, 1, 4) and surroundings() == before
        assert surroundings() == before
        # One child, the guard; it waits for none of the program's own, and takes no status away.
        own = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
        assert own.wait() == 3
        assert subprocess.run(["sh", "-c", "exit 7"], check=False).returncode == 7
    assert surroundings() == before


def test_one_thread_and_no_more(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with Executor(max_workers=2) as executor:
        executor.submit(executor_tasks.square, 3).result()
        executor.submit(executor_tasks.loop, str(tmp_path / "in")).cancel(grace_s=0)
        until(lambda: len(set(threading.enumerate()) - before) == 1, "there is one thread")
    assert set(threading.enumerate()) == before


def test_what_has_to_be_done_aside_leaves_no_thread_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call's own directory is removed, and the memory of its processes measured, in threads that end with that."""
    monkeypatch.setattr(event_loops, "IN_ORDER_IDLE_S", SOON_S)
    before = set(threading.enumerate())
    with Executor(max_workers=1, max_tasks_per_child=1) as executor:
        assert executor.submit(executor_tasks.leaves_files).result() == 3
        exceeding = executor.with_limits(memory_bytes=32 << 20, grace_s=0).submit(executor_tasks.fork_and_fill)
        with pytest.raises(OutOfMemory):
            exceeding.result()
        assert executor.submit(executor_tasks.square, 3).result() == 9
        until(lambda: len(set(threading.enumerate()) - before) == 1, "there is one thread")
    assert set(threading.enumerate()) == before


HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        capture_output=True, text=True, timeout=240, cwd=HERE, env=ENVIRONMENT,
    )  # fmt: skip


def test_multiprocessing_goes_on_working() -> None:
    done = run("""
        import multiprocessing
        import executor_tasks
        from killable import Executor

        with Executor(max_workers=1) as executor:
            executor.submit(executor_tasks.square, 3).result()
            for method in ("fork", "spawn", "forkserver"):
                with multiprocessing.get_context(method).Pool(1) as pool:
                    print(pool.map(executor_tasks.square, [1, 2]))
            print(executor.submit(executor_tasks.square, 4).result())
    """)
    assert (done.stdout, done.stderr) == ("[1, 4]\n" * 3 + "16\n", "")


def test_a_program_that_reaps_every_child_may_have_one() -> None:
    """A SIGCHLD handler of its own takes the guard's status away."""
    done = run("""
        import concurrent.futures
        import os
        import signal
        import executor_tasks
        from killable import Executor

        def reap(*_):
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass

        signal.signal(signal.SIGCHLD, reap)
        with Executor(max_workers=1, grace_s=0) as executor:
            print(executor.submit(executor_tasks.square, 3).result())
            future = executor.submit(sum, iter(int, 1))
            future.cancel()
            concurrent.futures.wait([future])
            print(future.cancelled(), executor.submit(executor_tasks.square, 4).result())
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "9\nTrue 16\n", "")


def test_what_a_manager_of_multiprocessing_shares_can_be_used_in_a_call() -> None:
    done = run("""
        import multiprocessing
        from killable import Executor

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Manager() as manager, Executor(max_workers=1) as executor:
                queue = manager.Queue()
                executor.submit(queue.put, 7).result()
                print(queue.get_nowait())
    """)
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_a_fork_of_the_program_holds_nothing_and_begins_anew() -> None:
    done = run("""
        import os
        import warnings
        from concurrent.futures.process import BrokenProcessPool
        import executor_tasks
        from killable import Executor
        mark = os.environ["TESTS_OF_KILLABLE"]  # its own would be another one than what is looked for at the end
        from support import processes
        os.environ[processes.MARK] = mark

        def pipes():
            held = {to for number, to in processes.open_descriptors().items() if number > 2}
            return {each for each in held if not each.startswith("/")}

        # From 3.12 os.fork says that a program with threads may come to harm.
        warnings.simplefilter("ignore", DeprecationWarning)
        before = pipes()
        executor = Executor(max_workers=1)
        executor.submit(executor_tasks.square, 2).result()
        running = executor.submit(executor_tasks.wait_for, "/nonexistent")
        assert len(pipes() - before) > 5
        pid = os.fork()
        if pid == 0:
            assert pipes() - before == set(), pipes() - before
            try:
                running.result()
            except BrokenProcessPool as error:
                assert error.code == "supervisor_lost"
            assert executor.submit(executor_tasks.square, 5).result() == 25
            executor.shutdown()
            try:
                executor.submit(executor_tasks.square, 5)
            except RuntimeError as error:
                assert "after shutdown" in str(error)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert running.running()
        running.cancel(grace_s=0)
        assert executor.submit(executor_tasks.square, 3).result() == 9
        executor.shutdown()
        print("good")
    """)
    assert (done.stdout, done.stderr) == ("good\n", "")


def test_servers_that_fork_after_their_imports_can_use_an_executor_of_a_module() -> None:
    """As gunicorn does with `preload_app`; each child has workers of its own, and ends as a program does."""
    done = run("""
        import os
        import sys
        import warnings
        import executor_tasks
        from killable import Executor

        warnings.simplefilter("ignore", DeprecationWarning)
        executor = Executor(max_workers=1)
        children = []
        for number in range(2):
            pid = os.fork()
            if pid == 0:
                told = lambda done: os.write(1, b"%d\\n" % done.result())  # in one piece, beside the other's
                executor.submit(executor_tasks.square, number).add_done_callback(told)
                sys.exit(3)
            children.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        print(codes, executor.submit(executor_tasks.square, 3).result())
    """)
    *results, last = done.stdout.splitlines()
    assert (sorted(results), last, done.stderr) == (["0", "1"], "[3, 3] 9", "")


def test_a_program_that_ends_finishes_what_is_pending() -> None:
    done = run("""
        import sys
        import executor_tasks
        from killable import Executor

        executor = Executor(max_workers=1)
        for number in range(3):
            executor.submit(executor_tasks.square, number).add_done_callback(lambda done: print(done.result()))
        print("ends")
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ends\n0\n1\n4\n", "")


@pytest.mark.parametrize("starts_threads", [True, False])
def test_a_program_that_ends_shows_what_pending_calls_print(starts_threads: bool) -> None:
    """More than is kept for its reader, too. Python 3.12.0 starts no thread once the main one has ended."""
    done = run(f"""
        import threading
        from killable import Executor

        def refuse(thread):
            raise RuntimeError("can't create new thread at interpreter shutdown")

        def talk():
            for number in range(3000):
                print(number, "x" * 1000)

        executor = Executor(max_workers=1)
        if not {starts_threads}:
            threading.Thread.start = refuse
        print("ends", flush=True)
        executor.submit(talk)
    """)
    first, *lines = done.stdout.splitlines()
    assert (done.returncode, first, done.stderr) == (0, "ends", "")
    assert [line.partition(" ")[0] for line in lines] == [str(number) for number in range(3000)]


@pytest.mark.parametrize(
    ("pending", "last", "code"),
    [
        ("stream = executor.stream(lambda: iter(range(10**9))); print(next(stream))", "sys.exit(3)", 3),
        ("read(executor.stream(lambda: iter(range(3))))", "sys.exit(3)", 3),
        ("stream = executor.stream(lambda: iter([5, 0, 1])); next(stream); read(stream)", "sys.exit(3)", 3),
        ("read(executor.stream(lambda: iter(range(10**9))), next)", "sys.exit(3)", 3),
        ("results = executor.map(executor_tasks.square, range(100)); print(next(results))", "sys.exit(3)", 3),
        ("executor.submit(executor_tasks.square, 0); print(0)", "raise LookupError", 1),
        ("print(0)", "pass", 0),
        (
            "pool.submit(int).result(); stream = executor.stream(executor_tasks.count, 10**9); print(next(stream))",
            "pass", 0,
        ),
        (
            "other = Executor(1); stream = other.stream(executor_tasks.count, 10**9); next(stream);"
            " call = executor.submit(executor_tasks.wait_until_gone, stream.future.pid);"
            " call.add_done_callback(lambda done: print(done.result()))",
            "pass", 0,
        ),
    ],
    ids=[
        "stream", "read by a thread", "handed over", "not read to its end", "map", "exception", "nothing",
        "beside an idle thread of a pool", "two of them",
    ],
)  # fmt: skip
def test_a_program_ends_with_its_own_exit_code_whatever_is_pending(pending: str, last: str, code: int) -> None:
    done = run(f"""
        import sys
        import threading
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor()  # its threads are told to end after what is registered later
        import executor_tasks
        from killable import Executor

        def read(stream, how=min):
            threading.Thread(target=lambda: print(how(stream))).start()

        executor = Executor(max_workers=1)
        {pending}
        {last}
    """)
    assert (done.returncode, done.stdout) == (code, "0\n")
    assert ("LookupError" in done.stderr) == (last == "raise LookupError"), done.stderr


@pytest.mark.parametrize("earlier", ["", "Executor(max_workers=1).submit(int).result()"], ids=["the first", "another"])
def test_a_thread_that_outlives_the_main_thread_may_make_an_executor(earlier: str) -> None:
    """Nothing waits at the exit for what it leaves open, so it leaves the `with`."""
    done = run(f"""
        import threading
        import executor_tasks
        {"from killable import Executor" if earlier else ""}
        {earlier}

        def late():
            threading.main_thread().join()
            from killable import Executor
            with Executor(max_workers=1) as executor:
                print(executor.submit(executor_tasks.square, 3).result(), sum(executor.stream(executor_tasks.count, 4)))

        threading.Thread(target=late).start()
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "9 6\n", "")


def switches(pids: set[int]) -> dict[str, str]:
    """Return how often each thread of these processes has gone to sleep, or was made to wait."""
    counts = {}
    for pid in pids:
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                lines = status.read_text().splitlines()
                counts[str(status)] = " ".join(line for line in lines if "ctxt_switches" in line)
    return counts


QUIET_S = 6.0


def test_an_idle_executor_wakes_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its thread nor the guard, the zygote or a worker: nothing polls, whatever was done before."""
    monkeypatch.setattr(event_loops, "IN_ORDER_IDLE_S", SOON_S)
    before, threads = {seen.pid for seen in processes.started_by_tests()}, set(os.listdir("/proc/self/task"))
    with Executor(max_workers=2) as executor:
        assert list(executor.map(executor_tasks.square, range(50))) == [number**2 for number in range(50)]
        assert len(executor.submit(bytes, 2 << 20).result()) == 2 << 20
        looping = executor.submit(executor_tasks.loop, str(tmp_path / "in"))
        looping.cancel(grace_s=0)
        concurrent.futures.wait([looping])
        with pytest.raises(WorkerCrashed):
            executor.submit(executor_tasks.end_badly, "segfault").result()
        assert executor.with_limits(memory_bytes="1GiB", run_s=60).submit(executor_tasks.square, 3).result() == 9

        def counted() -> dict[str, str]:
            ours = switches({os.getpid()})
            ours = {name: count for name, count in ours.items() if Path(name).parent.name not in threads}
            return ours | switches({seen.pid for seen in processes.started_by_tests()} - before)

        def only_its_thread() -> bool | Pending:
            left = set(os.listdir("/proc/self/task")) - threads
            return len(left) == 1 or Pending(left)

        def unchanged() -> dict[str, str] | Pending:
            until(only_its_thread, "what had to be done aside is done")
            asleep, over = counted(), time.monotonic() + QUIET_S
            until(lambda: time.monotonic() > over, "some time has passed")
            now = counted()
            awake = [name for name in asleep.keys() | now if asleep.get(name) != now.get(name)]
            return Pending(awake) if awake else asleep

        asleep = until(unchanged, "some seconds have passed in which nobody woke")
        assert len(asleep) >= 1 + 2 + 1, "the thread, guard and zygote, and a spare worker at least"


@pytest.mark.parametrize(
    "lines",
    [
        "with Executor(max_workers=1) as executor: executor.submit(executor_tasks.loop, sys.argv[1]).result()",
        "executor = Executor(max_workers=1); executor.submit(executor_tasks.loop, sys.argv[1]).result()",
    ],
    ids=["with", "without"],
)
def test_one_interrupt_ends_a_program_and_what_it_waits_for(lines: str, tmp_path: Path) -> None:
    """Its workers, in sessions of their own, do not hear the terminal's Ctrl-C: they are stopped."""
    program = f"import sys\nimport executor_tasks\nfrom killable import Executor\n{lines}\n"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "in")], cwd=HERE, env=ENVIRONMENT, stderr=subprocess.PIPE
    ) as running:
        until((tmp_path / "in").exists, "it runs")
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=30)
    assert running.returncode == -signal.SIGINT
    assert told.count(b"Traceback") == 1 and told.endswith(b"KeyboardInterrupt\n")


def test_an_error_in_a_with_waits_for_the_calls(tmp_path: Path) -> None:
    """As in the library: only what ends a program or a task stops them."""
    with pytest.raises(KeyError), Executor(max_workers=1) as executor:
        future = executor.submit(executor_tasks.wait_for, str(tmp_path / "gate"))
        threading.Timer(0.1, executor_tasks.say, [str(tmp_path / "gate")]).start()
        raise KeyError
    assert future.result() and not future.cancelled()


def test_a_program_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    program = """
        import sys
        import executor_tasks
        from killable import Executor

        executor = Executor(max_workers=2)
        futures = [executor.submit(executor_tasks.fork_and_loop, path) for path in sys.argv[1:]]
        futures[0].result()
    """
    paths = [tmp_path / "one", tmp_path / "two"]
    before = {seen.pid for seen in processes.started_by_tests()}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, paths)], cwd=HERE, env=ENVIRONMENT
    ) as running:
        until(lambda: all(path.exists() for path in paths), "both run")
        assert len({seen.pid for seen in processes.started_by_tests()} - before) >= 9
        running.kill()
    until(lambda: {seen.pid for seen in processes.started_by_tests()} <= before, "all have gone")


def test_what_cannot_start_fails_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with Executor(max_workers=1) as executor:
        future = executor.submit(executor_tasks.square, 1)
        with pytest.raises(BrokenProcessPool, match="nonexistent"):
            future.result()
