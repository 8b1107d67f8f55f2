"""A tree that does nothing is not measured again, and one that has done something is: a shell and what it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Collection
from typing import Any

import psutil
import pytest
from support.waiting import Pending, until

from killable.supervisor import clock
from killable.supervisor.linux import procfs, tree_usage
from killable.supervisor.linux.cgroup import Cgroup
from killable.supervisor.linux.tree_usage import LastLook
from killable.supervisor.ports import Sample

FORKS = "read line; sleep 100 & sleep 100 & read line; kill $!; wait $!; read line"
AT_MOST = 20


class Looks:
    """The looks at a process, and how many of them measured."""

    def __init__(self, pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pid = pid
        self._look = LastLook()
        self.measured = self.walked = 0
        real: Callable[..., Sample | None] = tree_usage.measure

        def measure(pid: int, cgroup: Cgroup | None, *, known: Collection[int] = (), **asked: Any) -> Sample | None:
            self.measured += 1
            self.walked += not known
            return real(pid, cgroup, known=known, **asked)

        monkeypatch.setattr(tree_usage, "measure", measure)

    def look(self, at_most: int = AT_MOST) -> Sample:
        sample = self._look.measure(self._pid, None, cpu=False, at_most=at_most)
        assert sample is not None
        return sample

    def until_quiet(self, processes: int) -> None:
        """Return when there are so many processes, and a look needs no measurement."""

        def is_quiet() -> bool | Pending:
            before = self.measured
            sample = self.look()
            return (sample.processes == processes and self.measured == before) or Pending(sample)

        until(is_quiet, "nothing of it runs")


@pytest.mark.row("D19")
def test_who_has_not_run_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = subprocess.Popen(["/bin/sh", "-c", FORKS], stdin=subprocess.PIPE)
    assert shell.stdin is not None
    try:
        looks = Looks(shell.pid, monkeypatch)
        looks.until_quiet(1)
        before = looks.measured
        assert [looks.look() for _ in range(5)] == 5 * [looks.look()] and looks.measured == before
        assert looks.look(at_most=AT_MOST + 1).processes == 1 and looks.measured == before + 1, "asked for more"
        for processes in (3, 2):  # it forks, it ends one
            shell.stdin.write(b"\n")
            shell.stdin.flush()
            looks.until_quiet(processes)
        (left,) = psutil.Process(shell.pid).children()
        os.kill(left.pid, signal.SIGKILL)
        looks.until_quiet(1)
    finally:
        shell.kill()
        shell.communicate()


@pytest.mark.row("D19")
def test_nobody_is_looked_for_as_long_as_the_machine_starts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    computes = "read line; (while :; do :; done) & while read line; do (while :; do :; done) & done; wait"
    shell = subprocess.Popen(["/bin/sh", "-c", computes], stdin=subprocess.PIPE, process_group=0)
    assert shell.stdin is not None
    try:
        looks = Looks(shell.pid, monkeypatch)
        for processes in (2, 3, 4):

            def are_known(processes: int = processes) -> bool | Pending:
                measured, walked = looks.measured, looks.walked
                sample = looks.look()
                is_so = looks.measured > measured and looks.walked == walked
                return (sample.processes == processes and is_so and sample.newest_pid > 0) or Pending(sample)

            shell.stdin.write(b"\n")
            shell.stdin.flush()
            until(are_known, "all are counted, and then known")
        monkeypatch.setattr(tree_usage, "UNCOUNTED_S_MAX", 0.0)
        measured, walked = looks.measured, looks.walked
        until(lambda: looks.look() and looks.measured > measured + 5, "they have run")
        assert looks.walked - walked == looks.measured - measured, "it is time"
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()


@pytest.mark.row("D19")
@pytest.mark.parametrize("start", ["process", "thread"])
def test_whether_one_was_started_since_a_sample_is_known(start: str) -> None:
    def has_none_come() -> bool | Pending:
        """Another test may start a process at any time."""
        sample = Sample(0, newest_pid=procfs.newest_pid())
        return tree_usage.has_started_none_since(sample) or Pending(sample)

    until(has_none_come, "the machine starts none for a moment")
    sample = Sample(0, newest_pid=procfs.newest_pid())
    if start == "thread":
        threading.Thread(target=int).start()
    else:
        subprocess.run(["/bin/true"])
    assert not tree_usage.has_started_none_since(sample)
    assert not tree_usage.has_started_none_since(sample._replace(newest_pid=0))


@pytest.mark.parametrize("loadavg", [b"", b"0.00 0.00 0.00 0/0 0\n"], ids=["no descriptor is left", "gVisor"])
def test_a_kernel_that_does_not_say_so_is_asked_nothing(loadavg: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "read", lambda path: loadavg)
    assert procfs.newest_pid() == 0


def test_who_has_no_clock_that_can_be_read_is_measured_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(os.getpid(), monkeypatch)
    monkeypatch.setattr(clock, "process_cpu_s", lambda pid: None)
    for number in range(1, 5):
        looks.look()
        assert looks.measured == number
