"""Programs that have no file descriptor left: every call ends at once, and says how."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import told_by

NO_DESCRIPTOR = """
import os, resource, threading, time
from killable import Executor, JobError
from killable.supervisor.executor import ending_imports, pending_tasks
from killable.workers.protocol import definitions  # a submit imports it, for which a descriptor may or may not be left
def take_all():
    try:
        while True:
            os.dup(0)
    except OSError:
        pass
def leave_none():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
    take_all()
is_taking = True
def go_on_taking():
    while is_taking:
        take_all()
def end_of(submit, *call):
    try:
        return submit(*call).result()
    except JobError as error:
        by = (getattr(error, "certificate", None) or {}).get("by", "")
        assert error.code == "cancelled" or "Too many open files" in error.message, error
        return f"{error.code} {by}".rstrip()
"""
DURING_THE_START = """
executor = Executor(max_workers=1)
time.sleep({seconds})
leave_none()
for _ in range(2):
    print(end_of(executor.submit, int))
"""
BEFORE_ENDINGS_ARE_IMPORTED = """
ending_imports.LOAD_AFTER_S = pending_tasks.REPLACE_AFTER_S = 3600  # the program is faster
os.mkfifo("entered")
entered = os.open("entered", os.O_RDWR)
def stay(path):
    os.write(os.open(path, os.O_WRONLY), b"x")
    time.sleep(3600)
def cancelled():
    future = executor.submit(stay, os.path.abspath("entered"))
    future.add_done_callback(lambda _: os.write(entered, b"x"))  # its end may come before the cancel
    os.read(entered, 1)
    future.cancel(grace_s=0)
    return future
executor = Executor(max_workers=1)
executor.submit(int).result()
leave_none()
taker = threading.Thread(target={taken}, daemon=True)
taker.start()
print(end_of(cancelled))
is_taking = False
taker.join()
"""
ENDINGS = """
import os, resource, signal, time
from concurrent.futures import CancelledError
from killable import Executor
from killable.supervisor.linux import supervisor_resources

supervisor_resources.ANSWER_S = 3600  # a zygote that was stopped is continued sooner
names = "stay", "stop", "leave", "crash", "fail"
def call(name):
    os.write(os.open(f"{name}.entered", os.O_WRONLY), b"%d" % os.getpid())
    if name == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    os.read(os.open(f"{name}.gate", os.O_RDONLY), 1)
    if name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "leave":
        os._exit(3)
    int("no number")
def until_stopped(pid):
    while open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)
def say(future):
    try:
        future.result()
    except (Exception, CancelledError) as error:
        told = future.certificate
        print(getattr(error, "code", type(error).__name__), told.get("by"), "tree_empty" in told)

executor = Executor(max_workers=len(names))
zygote = executor.submit(os.getppid).result()
executor.submit(os._exit, 1).exception()  # what endings need is imported
gates, calls = {}, {}
for name in names:
    os.mkfifo(f"{name}.entered"), os.mkfifo(f"{name}.gate")
    gates[name] = os.open(f"{name}.gate", os.O_RDWR)
    calls[name] = executor.with_limits(grace_s=3600).submit(call, name)
    pid = int(os.read(os.open(f"{name}.entered", os.O_RDWR), 20))
    if name == "stop":
        until_stopped(pid)
os.kill(zygote, signal.SIGSTOP)
until_stopped(zygote)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
calls["stay"].cancel(grace_s=0)
say(calls["stay"])
calls["stop"].cancel()
say(calls["stop"])
for name in ("leave", "crash", "fail"):
    os.write(gates[name], b"x")
    say(calls[name])
print(executor.submit(int).result())
"""
ENDS_EARLY = """
import os
from killable import Executor
from killable.supervisor.executor import supervisor_thread
supervisor_thread.LOAD_ENDINGS_AFTER_S = 3600
before = sorted(os.listdir("/proc/self/fd"))
for _ in range(2):
    with Executor(max_workers=1) as first, Executor(max_workers=1) as second:
        assert first.submit(int).result() == second.submit(int).result() == 0
print(sorted(os.listdir("/proc/self/fd")) == before)
"""
SWEEP = """
import resource
from killable.supervisor import clock
from killable.supervisor.linux import env_marker
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    env_marker.kill_waves("a marker".__eq__, clock.monotonic() + 3600)
except OSError as error:
    print(error.strerror)
"""
MANY_CALLS = """
import os, resource
from concurrent.futures import wait
from killable import Executor
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (240, hard))
def has_room():
    return len(os.listdir("/proc/self/fd")) < 90
def stay(path):
    os.read(os.open(path, os.O_RDONLY), 1)
os.mkfifo("gate")
gate = os.open("gate", os.O_RDWR)
with Executor(max_workers=1) as executor:
    stays = executor.submit(stay, os.path.abspath("gate"))
    sent = [executor.submit(len, bytes(100_000 + number)) for number in range(90)]
    print(has_room())
    os.write(gate, b"x")
    print([each.result() - 100_000 for each in sent] == list(range(90)))
    returned = [executor.submit(bytes, 530_000 + number) for number in range(90)]
    wait(returned)
    print(has_room(), [len(each.result()) - 530_000 for each in returned] == list(range(90)), has_room())
"""


@pytest.mark.parametrize("seconds", [0, 0.01, 0.02, 0.03, 0.05])
def test_no_call_hangs_when_the_last_descriptor_is_taken_during_the_start(seconds: float, tmp_path: Path) -> None:
    """How far the supervisor's thread has come with its start by then is a matter of time."""
    told = told_by(NO_DESCRIPTOR + DURING_THE_START.format(seconds=seconds), tmp_path).splitlines()
    assert len(told) == 2 and set(told) <= {"0", "spawn", "supervisor_lost"}, told


def test_a_call_is_cancelled_though_no_descriptor_is_left_for_an_import(tmp_path: Path) -> None:
    assert told_by(NO_DESCRIPTOR + BEFORE_ENDINGS_ARE_IMPORTED.format(taken=None), tmp_path) == "cancelled user\n"


def test_no_call_hangs_while_a_thread_takes_each_descriptor_that_comes_free(tmp_path: Path) -> None:
    """It may take the one that is kept for the imports, too: then nobody could tell how the call ends."""
    told = told_by(NO_DESCRIPTOR + BEFORE_ENDINGS_ARE_IMPORTED.format(taken="go_on_taking"), tmp_path)
    assert told in ("cancelled user\n", "supervisor_lost\n")


def test_calls_end_as_ever_when_not_one_descriptor_can_be_opened(tmp_path: Path) -> None:
    """A zygote that was stopped and a call that has stopped itself are continued: whether they are, is not readable."""
    assert told_by(ENDINGS, tmp_path).splitlines() == [
        "cancelled user True", "cancelled user True", "exit None True", "crash None True", "ValueError None True", "0",
    ]  # fmt: skip


def test_an_end_does_not_wait_for_a_search_that_sees_nothing(tmp_path: Path) -> None:
    assert told_by(SWEEP, tmp_path) == "Too many open files\n"


def test_of_executors_that_end_before_what_endings_need_is_imported_no_descriptor_is_left(tmp_path: Path) -> None:
    assert told_by(ENDS_EARLY, tmp_path) == "True\n"


def test_waiting_calls_and_unread_results_leave_the_program_most_of_its_descriptors(tmp_path: Path) -> None:
    assert told_by(MANY_CALLS, tmp_path) == "True\nTrue\nTrue True True\n"
