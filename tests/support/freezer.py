"""Processes that SIGKILL does not end: in a frozen group of the cgroup v1 freezer they act on no signal."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.waiting import Pending, until

FREEZER = Path("/sys/fs/cgroup/freezer")


class Frozen:
    """A group whose processes are held until `thaw`."""

    def __init__(self, group: Path) -> None:
        self._group = group

    def hold(self, *pids: int) -> None:
        for pid in pids:
            (self._group / "cgroup.procs").write_text(str(pid))
        (self._group / "freezer.state").write_text("FROZEN")
        until(lambda: (state := self._state()) == "FROZEN" or Pending(state), "the group is frozen")

    def thaw(self) -> None:
        (self._group / "freezer.state").write_text("THAWED")

    def _state(self) -> str:
        return (self._group / "freezer.state").read_text().strip()


@contextmanager
def freezer() -> Iterator[Frozen]:
    """Make a group; at the end it is thawed, emptied and removed. Skip where that is not allowed."""
    group = FREEZER / f"killable-test-{uuid.uuid4().hex[:8]}"
    if not os.access(FREEZER / "cgroup.procs", os.W_OK):
        pytest.skip("needs a writable cgroup v1 freezer: nothing else here holds a process against SIGKILL")
    group.mkdir()
    frozen = Frozen(group)
    try:
        yield frozen
    finally:
        frozen.thaw()
        for pid in (group / "cgroup.procs").read_text().split():
            (FREEZER / "cgroup.procs").write_text(pid)  # some live on
        until(lambda: _removed(group), "the group is removed")


def _removed(group: Path) -> bool | Pending:
    try:
        group.rmdir()
    except OSError as error:
        return Pending((error, (group / "cgroup.procs").read_text()))
    return True
