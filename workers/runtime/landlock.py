"""Restrict what files this process and all below it may write and read, by Landlock (landlock(7)).

Runs in: worker, before any code of a job; supervisor and doctor ask for the version. The C library has no functions for
these system calls, whose numbers are the same on every architecture.

A restriction cannot be taken back, holds through fork and exec, and only forbids: what it forbids is EACCES. Files that
are open already, and pipes, are not concerned. Beside files a restricted process cannot trace or signal processes that
are not restricted with it.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
ABI_WANTED = 3
"""Linux 6.2. Before it, truncate(2) empties files that may not be written."""
_ABI_OF_DEVICES, _ABI_OF_SCOPES = 5, 6

# linux/landlock.h
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE = sum(1 << bit for bit in range(6, 13))
"""Device nodes, folders, files, sockets, pipes, links."""
DEVICE_NODES = 1 << 6 | 1 << 11
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
LIST = _READ_DIR
READ = _EXECUTE | _READ_FILE | LIST
WRITE = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE | _REFER | _TRUNCATE | _IOCTL_DEV
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""Rights on a file itself; the others are those of a folder on what is in it."""
_ABSTRACT_UNIX_SOCKET, _SIGNAL = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """Return the version of Landlock in this kernel; 0: it has none, it is switched off, or it may not be used."""
    version: int = _libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    return max(0, version)


class Ruleset:
    """Rules for the process that makes them. Raise OSError."""

    def __init__(self, handled: int) -> None:
        """`handled`: the rights that this process loses, except where a rule gives them."""
        version = abi()
        self._handled = handled & ~(0 if version >= _ABI_OF_DEVICES else _IOCTL_DEV)
        scopes = _SIGNAL | _ABSTRACT_UNIX_SOCKET if version >= _ABI_OF_SCOPES else 0
        attributes = struct.pack("=QQQ", self._handled, 0, scopes)  # older kernels take zeros at the end
        self._descriptor = _call(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)

    def allow(self, paths: Iterable[str], rights: int) -> None:
        """Give rights on files, or on folders and all that is in them."""
        for path in paths:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
                given = rights & self._handled & (-1 if is_folder else _OF_FILES)
                if given:
                    rule = struct.pack("=Qi", given, descriptor)
                    _call(_ADD_RULE, self._descriptor, _PATH_BENEATH, rule, 0)
            finally:
                os.close(descriptor)

    def enforce(self) -> None:
        """Restrict this process for good. Needs PR_SET_NO_NEW_PRIVS, or root."""
        try:
            _call(_RESTRICT_SELF, self._descriptor, 0)
        finally:
            os.close(self._descriptor)


def _call(number: int, *arguments: object) -> int:
    returned: int = _libc.syscall(number, *arguments)
    if returned < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"Landlock: {os.strerror(errno)}")
    return returned
