"""A tree that does nothing is not measured again, and one that has done something is: a shell and what it starts."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

import psutil
import pytest
from support.waiting import Pending, until

from killable.supervisor import clock
from killable.supervisor.linux import tree_usage
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
        self.measured = 0
        real: Callable[..., Sample | None] = tree_usage.measure

        def measure(
            pid: int, cgroup: Cgroup | None, *, cpu: bool, at_most: int, found: dict[int, bool] | None = None
        ) -> Sample | None:
            self.measured += 1
            return real(pid, cgroup, cpu=cpu, at_most=at_most, found=found)

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


def test_who_has_no_clock_that_can_be_read_is_measured_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(os.getpid(), monkeypatch)
    monkeypatch.setattr(clock, "process_cpu_s", lambda pid: None)
    for number in range(1, 5):
        looks.look()
        assert looks.measured == number
