"""Processes that SIGKILL does not end.

A process in a frozen group of the cgroup v1 freezer acts on no signal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import cgroup_v1
from support.waiting import Pending, until


class Frozen:
    """A group whose processes are held until `thaw`."""

    def __init__(self, group: Path) -> None:
        self._group = group

    def hold(self, *pids: int) -> None:
        cgroup_v1.move(self._group, *pids)
        (self._group / "freezer.state").write_text("FROZEN")
        until(lambda: (state := self._state()) == "FROZEN" or Pending(state), "the group is frozen")

    def thaw(self) -> None:
        (self._group / "freezer.state").write_text("THAWED")

    def _state(self) -> str:
        return (self._group / "freezer.state").read_text().strip()


@contextmanager
def freezer() -> Iterator[Frozen]:
    """Make a group; at the end it is thawed. Skip where none can be made: nothing else holds against SIGKILL."""
    with cgroup_v1.group("freezer") as group:
        frozen = Frozen(group)
        try:
            yield frozen
        finally:
            frozen.thaw()
