"""The cgroup v2 group of this process, and whether a group can be created below it."""

from __future__ import annotations

import functools
import os
from pathlib import Path


@functools.cache
def _mount() -> Path | None:
    """Return where cgroup2 is mounted (proc(5), mountinfo)."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split()[0] == "cgroup2":
            return Path(fields.split()[4])
    return None


def mount_and_group() -> tuple[Path, str]:
    """Return where cgroup2 is mounted and which group this process is in (proc(5)). Raise OSError."""
    own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    if own and (mount := _mount()):
        return mount, own[0]
    raise FileNotFoundError("no cgroup2 hierarchy is mounted")


def own_group() -> Path:
    """Return the directory of the group that this process is in. Raise OSError."""
    mount, own = mount_and_group()
    return mount / own.strip("/")


def can_create() -> bool:
    """Tell whether a group can be made below this process's own: by root, or where it was delegated (cgroups(7))."""
    try:
        (path := own_group() / f"killable-test-{os.urandom(4).hex()}").mkdir()
        path.rmdir()
    except OSError:
        return False
    return True
