"""Groups of the cgroup v1 controllers, into which a test moves processes of a pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest
from support.waiting import Pending, until


@contextmanager
def group(controller: str, **bounds: object) -> Iterator[Path]:
    """Make a group with these bounds, in this order: `group("pids", max=3)` writes its `pids.max`.

    At the end those that are still in it are moved out and it is removed. Skip where none can be made.
    """
    try:
        path = _root(controller) / f"killable-test-{uuid4().hex[:8]}"
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no group of the {controller} controller can be made on cgroup v1 here: {error}")
    try:
        for name, value in bounds.items():
            (path / f"{controller}.{name}").write_text(f"{value}")
        yield path
    finally:
        until(lambda: _removed(path), "the group is removed")


def move(path: Path, *pids: int) -> None:
    for pid in pids:
        (path / "cgroup.procs").write_text(f"{pid}")


def _root(controller: str) -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind == "cgroup" and controller in options.split()[-1].split(","):
            return Path(fields.split()[4])
    raise FileNotFoundError("it is not mounted")


def _removed(path: Path) -> bool | Pending:
    left = (path / "cgroup.procs").read_text().split()
    for pid in left:
        with suppress(ProcessLookupError):
            move(path.parent, int(pid))
    try:
        path.rmdir()
    except OSError as error:
        return Pending((error, left))
    return True
