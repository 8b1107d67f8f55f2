"""Memory that no other process of the machine shares: a /dev/shm and an IPC namespace of a worker's own.

Runs in: worker, before it gives up root's rights. The supervisor asks whether it is possible. The kernel removes both,
with all that is in them, when the last process in them is gone (namespaces(7)).
"""

from __future__ import annotations

import ctypes
import os

_CLONE_NEWNS, _CLONE_NEWIPC = 0x00020000, 0x08000000
_MS_REC, _MS_SLAVE = 0x4000, 0x80000
FOLDER = "/dev/shm"
_CAP_SYS_ADMIN = 21


def why_not() -> str:
    """Return why a worker cannot have memory of its own here; empty: it can."""
    with open("/proc/self/status", "rb") as file:
        effective = int(file.read().partition(b"CapEff:")[2].split()[0], 16)
    if not effective >> _CAP_SYS_ADMIN & 1:
        return "the server lacks CAP_SYS_ADMIN: it is not root, or a container took that"
    return "" if os.path.exists("/proc/self/ns/ipc") else "the kernel has no IPC namespaces"


def enter() -> None:
    """Give this process memory of its own, 0.4 ms. Raise OSError."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments) != 0:
            errno = ctypes.get_errno()
            raise OSError(errno, f"{name} for shared memory of its own: {os.strerror(errno)}")

    call("unshare", _CLONE_NEWIPC | _CLONE_NEWNS)
    # Mounts of the machine still arrive, and the one below does not leave.
    call("mount", b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None)
    call("mount", b"tmpfs", FOLDER.encode(), b"tmpfs", ctypes.c_ulong(0), b"mode=1777")
