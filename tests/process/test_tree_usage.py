"""What a tree of processes uses is counted whole, whoever is in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.processes import is_in_state
from support.waiting import until, until_empty

from killable.supervisor.linux import cgroup, tmp_size, tree_usage

MIB = 1 << 20
PR_SET_DUMPABLE = 4
"""prctl(2)."""
MANY = 900
"""The kernel gives a page at a time of a list: 819 pids of four digits."""
FORKS = f"""
import os
forked = [pid for pid in range({MANY}) if os.fork() or os._exit(len(os.read(0, 1)))]
print(flush=True)
os.read(0, 1)
"""


@contextmanager
def tree(program: str, *, packages: bool = False, procs: int | None = None) -> Iterator[tuple[int, str]]:
    """Run a Python program, in a group, until the end of its stdin. Yield its pid, and the line that it has written."""
    join = "" if procs is None else f"import os; os.write({procs}, b'0')\n"
    process = subprocess.Popen(
        [sys.executable, "-I" if packages else "-IS", "-c", join + program], pass_fds=() if procs is None else (procs,),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.pid, process.stdout.readline()
    finally:
        process.communicate()


def test_more_processes_than_the_kernel_lists_at_once_are_counted_but_no_more_than_asked() -> None:
    """In the lists of children, and in that of a group, where one can be made."""
    root = cgroup.find_root("tests")
    group = None if root is None else root.create("w-1")
    procs = None if group is None else group.open_procs()
    try:
        with tree(FORKS, procs=procs) as (pid, _):
            for at_most, counted in ((2 * MANY, MANY + 1), (MANY // 2, MANY // 2)):
                sample = tree_usage.measure(pid, None, cpu=False, at_most=at_most)
                assert sample is not None and sample.processes == counted
            if group is not None:
                assert len(group.processes(2 * MANY)) == MANY + 1 and len(group.processes(1)) < MANY
    finally:
        if root is not None and group is not None and procs is not None:
            os.close(procs)
            # A process closes its streams before it leaves its group.
            until_empty(lambda: group.processes(MANY), "the group is empty")
            group.remove()
            root.remove()


HEADLESS = f"""
import ctypes, os, threading
if os.fork() == 0:
    def hold():
        mine = bytearray(os.urandom({MIB})) * 48
        print(os.getpid(), flush=True)
        os.read(0, 1)
        os._exit(0)
    threading.Thread(target=hold).start()
    ctypes.CDLL(None).pthread_exit(None)
os.wait()
"""


def test_a_process_whose_main_thread_has_ended_counts_with_its_memory_and_threads() -> None:
    """Its main thread is a zombie, which has no memory."""
    with tree(HEADLESS) as (pid, told):
        until(is_in_state(int(told), "Z"), "its main thread has ended")
        sample = tree_usage.measure(pid, None, cpu=False, at_most=9)
        assert sample is not None and sample.processes == 2 and sample.threads >= 3
        assert sample.others_bytes >= 48 * MIB
        assert 48 * MIB <= tree_usage.measure_exactly(pid, None, sample).others_bytes < 64 * MIB


HIDDEN = f"""
import ctypes, os
from killable.supervisor.linux import tree_usage
if os.geteuid() == 0:  # who may look into all
    os.setresuid(65534, 65534, 65534)
told, tells = os.pipe()
if os.fork() == 0:
    os.close(told)
    ctypes.CDLL(None).prctl({PR_SET_DUMPABLE}, 0)
    mine = bytearray(os.urandom({MIB})) * 50  # and what it has by the fork, which is not its own
    os.write(tells, b"1")
    os.read(0, 1)
    os._exit(0)
os.close(tells)
os.read(told, 1)
sample = tree_usage.measure(os.getpid(), None, cpu=False, at_most=9)
print(tree_usage.measure_exactly(os.getpid(), None, sample).others_bytes, flush=True)
"""


def test_a_process_that_nobody_may_look_into_counts_with_what_it_shows() -> None:
    with tree(HIDDEN, packages=True) as (_, told):
        assert int(told) >= 48 * MIB


def test_a_file_with_several_names_takes_its_place_on_disk_once(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    alone, linked = folders[0] / "alone", folders[0] / "linked"
    for file in (alone, linked):
        file.write_bytes(os.urandom(MIB))
    for number in range(20):
        (folders[number % 2] / f"{number}").hardlink_to(linked)
    used, _ = tmp_size.measure([f"{folder}" for folder in folders], 100 * MIB)
    assert 2 * MIB <= used < 3 * MIB
