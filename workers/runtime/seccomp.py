"""Forbid system calls to this process and all below it, by a filter of seccomp(2).

Runs in: worker, before any code of a job; doctor and the configuration ask whether it is possible.

A filter cannot be taken back and holds through fork and exec. What it forbids is EPERM, which Python raises as
PermissionError. Calls of another architecture (32-bit programs) are forbidden altogether: their numbers differ.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable, Mapping

from killable.workers.named_tuples import NamedTuple

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_PR_GET_SECCOMP = 21

# linux/bpf_common.h, linux/seccomp.h
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _EPERM = 0x7FFF0000, 0x00050000 | 1
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT, _SECOND_ARGUMENT_AT = 0, 4, 16, 24
"""Places in struct seccomp_data; the lower half of an argument comes first on little-endian machines."""
_X32 = 0x40000000
"""Set in the numbers of the x32 ABI, which x86-64 kernels may have."""

_PRIO_PROCESS, _IOPRIO_WHO_PROCESS = 0, 1

_AF_UNIX, _STREAM, _SEQPACKET, _TYPE_MASK = 1, 1, 5, 0xF


class _Architecture(NamedTuple):
    audit: int
    """AUDIT_ARCH_* in linux/audit.h."""
    socket: int
    socketpair: int
    ptrace: int
    process_vm_readv: int
    process_vm_writev: int
    of_others: tuple[int, ...]
    """Calls that change another process, whose pid is their first argument, and oneself with 0: prlimit64,
    sched_setparam, sched_setscheduler, sched_setattr.
    """
    setpriority: int
    ioprio_set: int


_ARCHITECTURES = {
    "x86_64": _Architecture(0xC000003E, 41, 53, 101, 310, 311, (302, 142, 144, 314), 141, 251),
    "aarch64": _Architecture(0xC00000B7, 198, 199, 117, 270, 271, (261, 118, 119, 274), 140, 30),
}
_IO_URING = (425, 426, 427)
_PIDFD_GETFD = 438
"""These numbers are the same on every architecture."""


def why_not() -> str:
    """Return why no filter can be set here; empty: it can."""
    if os.uname().machine not in _ARCHITECTURES:
        return f"killable has no filter for {os.uname().machine}"
    if ctypes.CDLL(None).prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) < 0:
        return "the kernel has no seccomp"
    return ""


def forbid_network() -> None:
    """Forbid sockets, and what would get one from elsewhere: another process's, or the kernel's own rings.

    A pair of connected Unix sockets remains, as event loops and multiprocessing need one, except of datagrams, which
    could be sent to any Unix socket. Needs PR_SET_NO_NEW_PRIVS, or root. Raise OSError.
    """
    here = _ARCHITECTURES[os.uname().machine]
    elsewhere = (here.ptrace, here.process_vm_readv, here.process_vm_writev, _PIDFD_GETFD)
    install((here.socket, *_IO_URING, *elsewhere), pairs=here.socketpair)


def forbid_limits_of_others() -> None:
    """Forbid to set limits, schedulers and priorities of other processes: with RLIMIT_CPU the kernel would end a server
    of the same user, with RLIMIT_NOFILE it would stand still. Landlock does not concern that. Raise OSError as
    `forbid_network`.

    Processors (sched_setaffinity) may be chosen, as the C library names even its own threads by number there.
    """
    here = _ARCHITECTURES[os.uname().machine]
    priorities = {here.setpriority: _PRIO_PROCESS, here.ioprio_set: _IOPRIO_WHO_PROCESS}
    install((), own_only=here.of_others, priorities=priorities)


def install(
    forbidden: Iterable[int], *, pairs: int | None = None, own_only: Iterable[int] = (),
    priorities: Mapping[int, int] | None = None,
) -> None:  # fmt: skip
    """Set a filter for these system calls, beside those that are set.

    `pairs`: the number of socketpair(2), of which two kinds remain. `own_only`: calls that remain with 0 as their first
    argument. `priorities`: calls that remain with this first argument, and 0 as their second one.
    """
    # Each entry is (code, value, where to go if true, if false), by name; names are resolved below.
    program: list[tuple[int, int, str, str]] = [
        (_LOAD, _ARCHITECTURE_AT, "", ""),
        (_JUMP_EQUAL, _ARCHITECTURES[os.uname().machine].audit, "", "deny"),
        (_LOAD, _NUMBER_AT, "", ""),
        (_JUMP_AT_LEAST, _X32, "deny", ""),
        *((_JUMP_EQUAL, number, "deny", "") for number in forbidden),
        *((_JUMP_EQUAL, number, "first is 0", "") for number in own_only),
        *((_JUMP_EQUAL, number, f"first is {first}, second 0", "") for number, first in (priorities or {}).items()),
    ]
    if pairs is not None:
        program += [
            (_JUMP_EQUAL, pairs, "", "allow"),
            (_LOAD, _FIRST_ARGUMENT_AT, "", ""),
            (_JUMP_EQUAL, _AF_UNIX, "", "deny"),
            (_LOAD, _SECOND_ARGUMENT_AT, "", ""),
            (_AND, _TYPE_MASK, "", ""),
            (_JUMP_EQUAL, _STREAM, "allow", ""),
            (_JUMP_EQUAL, _SEQPACKET, "allow", "deny"),
        ]
    places: dict[str, int] = {}
    ends: dict[str, list[tuple[int, int, str, str]]] = {"allow": [(_RETURN, _ALLOW, "", "")]}
    ends["first is 0"] = [(_LOAD, _FIRST_ARGUMENT_AT, "", ""), (_JUMP_EQUAL, 0, "allow at end", "deny")]
    for first in (priorities or {}).values():
        ends[f"first is {first}, second 0"] = [
            (_LOAD, _FIRST_ARGUMENT_AT, "", ""),
            (_JUMP_EQUAL, first, "", "deny"),
            (_LOAD, _SECOND_ARGUMENT_AT, "", ""),
            (_JUMP_EQUAL, 0, "allow at end", "deny"),
        ]
    ends |= {"allow at end": [(_RETURN, _ALLOW, "", "")], "deny": [(_RETURN, _EPERM, "", "")]}
    for name, lines in ends.items():  # jumps go forward only
        places[name] = len(program)
        program += lines
    code = b"".join(
        struct.pack("=HBBI", operation, *(places[to] - at - 1 if to else 0 for to in (if_true, if_false)), value)
        for at, (operation, value, if_true, if_false) in enumerate(program)
    )
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    _set(ctypes.create_string_buffer(filter_, len(filter_)))


def _set(program: ctypes.Array[ctypes.c_char]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, program, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"seccomp: {os.strerror(errno)}")
