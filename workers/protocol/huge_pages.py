"""Large memory files in huge pages (2 MiB), as large arrays of a program have them: what reads an array here and there
then takes half the time.

Runs in: the program (has the kernel gather a file's pages) | worker (maps the file). Linux 6.1 and later.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from typing import Any

PAGE_BYTES = 2 << 20
_MADV_COLLAPSE = 25
_MAP_FIXED = 0x10
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def gather(descriptor: int, size: int) -> None:
    """Have the content of a file moved to huge pages, as far as there are any. It takes about as long as a copy."""
    try:
        content = _map(descriptor, size)
    except OSError:
        return  # no address space: it stays as it is
    _libc.madvise(ctypes.addressof(content), size // PAGE_BYTES * PAGE_BYTES, _MADV_COLLAPSE)


def mapped(descriptor: int, size: int) -> memoryview:
    """Map a file privately, where its pages may be huge; the mapping goes with the last reference. Raise OSError."""
    return memoryview(_map(descriptor, size)).cast("B")


def _map(descriptor: int, size: int) -> Any:
    """Map a file at the beginning of a huge page. (For the module mmap the kernel chooses a place that is not.)"""
    whole = size + PAGE_BYTES
    reserved = _mmap(None, whole, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
    start = -(-reserved // PAGE_BYTES) * PAGE_BYTES
    try:
        _mmap(start, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED, descriptor)
    except OSError:
        _libc.munmap(reserved, whole)
        raise
    content = (ctypes.c_ubyte * size).from_address(start)
    weakref.finalize(content, _libc.munmap, reserved, whole).atexit = False  # arrays may live longer
    return content


def _mmap(address: int | None, size: int, protection: int, flags: int, descriptor: int) -> int:
    found: int = _libc.mmap(address, size, protection, flags, descriptor, 0)
    if found == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found
