"""The guard that an Executor starts before its supervisor: it is the pool's first, and never left behind."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import cgroup_v2

from killable import Executor
from killable.supervisor.linux.early_guard import FIRST_WORKER, EarlyGuard
from killable.supervisor.linux.zygote_orders import NewWorker
from killable.supervisor.settings import PoolSpec
from killable.workers.protocol import fd_passing, zygote_messages
from killable.workers.runtime.executor_setup import IMPORTED_AHEAD, POOL_MODULE, ExecutorSetup

FORKED = """
import os, sys
from killable.supervisor.linux.early_guard import EarlyGuard

guard = EarlyGuard("calls", sys.path, ["killable.workers.runtime.executor_jobs"])
started, = guard._started
pid = os.fork()
if pid == 0:
    sockets = (started.guard_socket, started.zygote_socket)
    os._exit(0 if guard.take() is None and all(each.fileno() < 0 for each in sockets) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "its descriptors are left in a fork"
guard.close()
assert started.process.returncode == 0, started.process.returncode
"""
FORKED_WITH_WORKER = """
import os, sys
from killable.supervisor.linux.early_guard import EarlyGuard
from killable.supervisor.settings import PoolSpec
from killable.workers.runtime.executor_setup import IMPORTED_AHEAD, POOL_MODULE, ExecutorSetup

guard = EarlyGuard("calls", sys.path, IMPORTED_AHEAD)
before = set(os.listdir("/proc/self/fd"))
guard.begin_pool(PoolSpec("calls", (POOL_MODULE,), codec="pickle", setup=ExecutorSetup().encode(sys.path)))
pid = os.fork()
if pid == 0:
    os._exit(0 if set(os.listdir("/proc/self/fd")) <= before else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "its descriptors are left in a fork"
guard.close()
"""


def test_a_pool_takes_over_the_guard_that_was_started_before_its_supervisor() -> None:
    with Executor(max_workers=1, spares=0) as executor:
        marker = executor.submit(os.getenv, "KILLABLE_INSTANCE").result()
    assert marker is not None and marker.endswith("/calls/0")


def test_arguments_that_are_found_invalid_late_leave_no_process() -> None:
    """`conftest` looks for what is left."""
    with pytest.raises(TypeError, match="no argument or limit 'run_ms'"):
        Executor(max_workers=1, run_ms=5)
    with pytest.raises(TypeError, match="pickle"):
        Executor(max_workers=1, initializer=print, initargs=(sys._getframe(),))


def test_a_guard_that_nobody_takes_over_ends_itself_and_its_zygote() -> None:
    guard = EarlyGuard("calls", ["x" * 200_000], ["no_such_module"])  # a path that is too long for one message
    (started,) = guard._started
    guard.close()
    assert started.process.returncode == 0
    assert guard.take() is None
    guard.close()


@pytest.mark.parametrize("program", [FORKED, FORKED_WITH_WORKER])
def test_a_fork_of_the_program_keeps_nothing_of_it(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_first_worker_becomes_ready_without_a_supervisor_and_is_not_left_behind() -> None:
    """`conftest` looks for processes, cgroups and folders that are left."""
    guard = EarlyGuard("calls", sys.path, IMPORTED_AHEAD)
    try:
        setup = ExecutorSetup().encode(sys.path)
        guard.begin_pool(PoolSpec("calls", (POOL_MODULE,), codec="pickle", jobs_per_worker_max=0, setup=setup))
        (started,) = guard._started
        assert started.pool is not None and started.pool.worker is not None
        frames = started.pool.worker.pipes.ours[1]
        assert select.select([frames], [], [], 60)[0]
        assert b"cgroup_errno" in os.read(frames, 1024), "the first frame is READY"
    finally:
        guard.close()
    assert not os.path.exists(started.pool.tmp)


def hasten(guard: EarlyGuard, at_most_s: float) -> tuple[int, int]:
    """Have a guard hasten a move; return the pipe into which it writes its own moves, and the file of events."""
    moves, own_procs = os.pipe()
    events = os.memfd_create("cgroup.events")
    os.write(events, b"populated 0\n")
    order = zygote_messages.to_wire(zygote_messages.HastenMove(at_most_s))
    fd_passing.send(guard._started[0].guard_socket, order, [own_procs, events])
    os.close(own_procs)
    return moves, events


@pytest.mark.parametrize("ends", ["joined", "asked", "late"])
def test_a_guard_hastens_the_move_of_a_first_worker_and_keeps_no_descriptor(ends: str) -> None:
    """Both ends of the pipe are closed then: what follows the last move is end-of-file."""
    guard = EarlyGuard("calls", sys.path, IMPORTED_AHEAD)
    moves, events = hasten(guard, 0.01 if ends == "late" else 3600)
    try:
        assert ends == "late" or os.read(moves, 1) == b"0"
        if ends == "joined":
            os.pwrite(events, b"populated 1\n", 0)
        elif ends == "asked":
            ask = zygote_messages.to_wire(zygote_messages.UseFolder(""))
            fd_passing.send(guard._started[0].guard_socket, ask)
        while told := os.read(moves, 4096):
            assert told == b"0" * len(told)
    finally:
        os.close(moves)
        os.close(events)
        guard.close()


def test_the_guard_hastens_the_move_of_an_executors_first_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    if not cgroup_v2.can_create():
        pytest.skip("no cgroup can be made here")
    sent: list[tuple[str, list[str]]] = []
    send = fd_passing.send

    def send_and_tell(sock: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        sent.append((message["op"], [os.readlink(f"/proc/self/fd/{each}") for each in descriptors]))
        send(sock, message, descriptors)

    monkeypatch.setattr(fd_passing, "send", send_and_tell)
    with Executor(max_workers=1, spares=0) as executor:
        cgroup = executor.submit(cgroup_v2.own_group).result()
    own = str(cgroup_v2.own_group() / "cgroup.procs")
    assert ("HastenMove", [own, str(cgroup / "cgroup.events")]) in sent


def test_what_later_workers_share_is_imported_while_nobody_waits_for_it(tmp_path: Path) -> None:
    """Without a spare the second fork replaces a killed worker, and its call would wait for these imports, too."""
    path = str(tmp_path / "imports")
    os.mkfifo(path)

    def note_imports() -> None:
        class Noting:
            def find_spec(self, name: str, *_: object) -> None:
                if name == "multiprocessing":
                    with open(path, "w") as file:
                        file.write(f"{os.getpid()} ")

        assert "multiprocessing" not in sys.modules
        sys.meta_path.insert(0, Noting())  # type: ignore[arg-type]

    notes = os.open(path, os.O_RDWR)
    try:
        with Executor(max_workers=1, spares=0, preload=note_imports) as executor:
            zygote = executor.submit(os.getppid).result()
            assert select.select([notes], [], [], 60)[0], "nothing is imported before the second fork"
            assert int(os.read(notes, 100).split()[0]) == zygote
    finally:
        os.close(notes)


def test_an_executor_has_the_worker_that_was_ordered_before_its_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pool makes none with the same number."""
    made: list[tuple[str, bool]] = []
    make = NewWorker.make

    def make_and_tell(worker_id: str, *arguments: Any) -> NewWorker:
        made.append((worker_id, threading.current_thread() is threading.main_thread()))
        return make(worker_id, *arguments)

    monkeypatch.setattr(NewWorker, "make", make_and_tell)
    with Executor(max_workers=1, spares=0) as executor:
        pid = executor.submit(os.getpid).result()
        assert executor.submit(os.getpid).result() == pid
    assert made == [(FIRST_WORKER, True)]


def test_the_classes_of_crashes_can_be_imported_when_the_program_exits() -> None:
    """Where the module of BrokenProcessPool cannot register its callback any more."""
    program = """
import threading

def late():
    from concurrent.futures.process import BrokenProcessPool
    from killable import WorkerCrashed
    print(issubclass(WorkerCrashed, BrokenProcessPool))

def first():
    import killable.workers.error_classes
    late()

threading._register_atexit(first)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True\n", "")
