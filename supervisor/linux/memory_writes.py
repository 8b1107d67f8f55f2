"""Compares memory, and notices whether it was written to since (userfaultfd(2), PAGEMAP_SCAN of ioctl_pagemap_scan(2)).

Runs in: any thread of an Executor's program. Behind `ports`.

Linux 6.7 and later mark pages on request, and take the mark off at the first write, without a signal or a message. A
look at ten thousand pages takes some 30 µs, where comparing them takes milliseconds. Only private anonymous memory can
be watched: what other processes write into shared memory leaves no trace here. Nor do devices that write into pinned
memory (a GPU, RDMA).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_PTR = ctypes.c_uint64
_SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}.get(os.uname().machine)
_USER_MODE_ONLY = 1
"""All that an unprivileged process may ask for; marks are taken off by the kernel's own writes, too."""
_API, _API_VERSION = 0xC018AA3F, 0xAA
_REGISTER, _REGISTER_WRITES = 0xC020AA00, 2
_UNREGISTER = 0x8010AA01
_PROTECT, _PROTECT_WRITES = 0xC018AA06, 1
_WRITES_ASYNC = 1 << 15
_SCAN, _ONLY_WATCHED = 0xC0606610, 2
_WATCHED, _WRITTEN, _FILE, _PRESENT, _SWAPPED = 1, 2, 4, 8, 16
"""Categories of pages. A page that was never touched counts as swapped once it is marked."""


class _Region(ctypes.Structure):
    _fields_ = [("start", _PTR), ("end", _PTR), ("categories", _PTR)]


class _Scan(ctypes.Structure):
    _fields_ = [
        (name, _PTR)
        for name in (
            "size", "flags", "start", "end", "walk_end", "vec", "vec_len", "max_pages", "category_inverted",
            "category_mask", "category_anyof_mask", "return_mask",
        )
    ]  # fmt: skip


_libc = ctypes.CDLL(None, use_errno=True)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_quick = ctypes.PyDLL(None)
"""Calls that keep the interpreter: before each submit, they take a few µs, and to get it back takes up to ten times as
long while results come in.
"""
QUICK_BYTES_MAX = 64 << 20
"""Of larger memory the looks give the interpreter up: they go through it page by page, and kills are not to wait."""
for _calls in (_libc, _quick):
    _calls.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    _calls.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.restype = None
_PyBuffer = ctypes.c_void_p * 11
"""Py_buffer, of the stable ABI. The address is its first member."""
_get_buffer.argtypes = (ctypes.py_object, _PyBuffer, ctypes.c_int)
_release_buffer.argtypes = (_PyBuffer,)


def address_of(buffer: object) -> int:
    """Return the address of a contiguous buffer. It is valid as long as something else holds the buffer."""
    view = _PyBuffer()
    _get_buffer(buffer, view, 0)
    address = view[0] or 0
    _release_buffer(view)
    return address


def are_equal(first: object, second: object, size: int) -> bool:
    """Return whether the first `size` bytes of two contiguous buffers are equal. Other threads run meanwhile."""
    return bool(_libc.memcmp(address_of(first), address_of(second), size) == 0)


def edges_of_copy(address: int, size: int, descriptor: int) -> tuple[bytes, bytes]:
    """Return those parts of a copy in a file that are outside of whole pages at the address of the original, before and
    behind: there they cannot be watched. Raise OSError.
    """
    start, end = (page - address for page in whole_pages(address, size))
    return os.pread(descriptor, start, 0), os.pread(descriptor, PAGE_BYTES, end)


class _Look:
    """One look at the pages of a piece of memory, which is mostly repeated: made once."""

    __slots__ = ("_all", "_at", "_calls", "_into", "_region", "_scan", "_size", "_start", "_there", "pages")

    def __init__(self, start: int, end: int) -> None:
        self.pages = start, end
        count = (end - start) // PAGE_BYTES
        self._calls: ctypes.CDLL = _quick if end - start <= QUICK_BYTES_MAX else _libc
        self._start, self._size = ctypes.c_void_p(start), ctypes.c_size_t(end - start)
        self._there = bytearray(count)
        self._all = b"\1" * count
        self._into = (ctypes.c_ubyte * count).from_buffer(self._there)
        self._region = _Region()
        self._scan = _Scan(
            size=ctypes.sizeof(_Scan), flags=_ONLY_WATCHED, start=start, end=end, vec=ctypes.addressof(self._region),
            vec_len=1, category_mask=_WRITTEN, return_mask=_WRITTEN,
        )  # fmt: skip
        self._at = ctypes.addressof(self._scan)

    def finds_write(self, pagemap: int) -> bool:
        """Return whether a page was written to. Raise OSError if it is no longer watched: other memory is there now."""
        found: int = self._calls.ioctl(pagemap, _SCAN, self._at)
        if found < 0:
            raise OSError("it is not watched")
        return found > 0

    def is_all_there(self) -> bool:
        """Return whether all pages are in memory (mincore(2))."""
        return self._calls.mincore(self._start, self._size, self._into) == 0 and self._there == self._all


class WriteWatch:
    """Watches memory of this process for writes. Not usable in a fork of it; owns its descriptors."""

    def __init__(self) -> None:
        """Raise OSError where the kernel cannot do it, or does not permit it (as under Docker's seccomp profile)."""
        self._faults = self._pages = -1
        self._looks: dict[tuple[int, int], _Look] = {}
        """By address and size, where all pages were found to be private anonymous memory. They stay so as long as they
        are watched.
        """
        if _SYS_USERFAULTFD is None:
            raise OSError("userfaultfd has another number here")
        self._faults = _libc.syscall(_SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY)
        if self._faults < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        try:
            fcntl.ioctl(self._faults, _API, struct.pack("3Q", _API_VERSION, _WRITES_ASYNC, 0))
            self._pages = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self.close()
            raise

    def watch(self, address: int, size: int) -> bool:
        """Notice writes to the whole pages of this memory from now on; those before are forgotten.

        Return whether it is done. Pages that are read for the first time after this call are watched as well.
        """
        start, end = whole_pages(address, size)
        if end <= start:
            return False
        self._looks.pop((address, size), None)
        try:
            fcntl.ioctl(self._faults, _REGISTER, struct.pack("4Q", start, end - start, _REGISTER_WRITES, 0))
            fcntl.ioctl(self._faults, _PROTECT, struct.pack("3Q", start, end - start, _PROTECT_WRITES))
        except OSError:
            return False  # another kind of memory, or watched by somebody else
        return True

    def is_unwritten(self, address: int, size: int) -> bool:
        """Return whether it is certain that no whole page of watched memory was written to.

        The kernel finds written pages fast, but passes over those without a page table, as after MADV_DONTNEED. So all
        pages have to be there, or else each is looked at.
        """
        look = self._looks.pop((address, size), None)  # another thread makes its own meanwhile
        if look is None:
            look = _Look(*whole_pages(address, size))
            is_unwritten = self._is_marked_everywhere(*look.pages)
        else:
            try:
                is_unwritten = not look.finds_write(self._pages) and (
                    look.is_all_there() or self._is_marked_everywhere(*look.pages)
                )
            except OSError:
                return False
        if is_unwritten:
            self._looks[address, size] = look
        return is_unwritten

    def _is_marked_everywhere(self, start: int, end: int) -> bool:
        """Return whether each page is private anonymous memory, and has its mark still."""
        region = _Region()
        scan = _Scan(
            size=ctypes.sizeof(_Scan), start=start, end=end, vec=ctypes.addressof(region), vec_len=1,
            category_inverted=_WRITTEN | _FILE, category_mask=_WATCHED | _WRITTEN | _FILE,
            category_anyof_mask=_PRESENT | _SWAPPED, return_mask=_WATCHED,
        )  # fmt: skip
        try:
            found = fcntl.ioctl(self._pages, _SCAN, scan)
        except OSError:
            return False
        return found == 1 and (region.start, region.end) == (start, end)

    def forget(self, address: int, size: int) -> None:
        """Watch this memory no longer. It may have been freed."""
        start, end = whole_pages(address, size)
        self._looks.pop((address, size), None)
        try:
            fcntl.ioctl(self._faults, _UNREGISTER, struct.pack("2Q", start, end - start))
        except OSError:
            pass  # part of it is no memory any more

    def close(self) -> None:
        """Watch nothing any more. May be called again."""
        for descriptor in (self._faults, self._pages):
            if descriptor >= 0:
                os.close(descriptor)
        self._faults = self._pages = -1

    __del__ = close


def whole_pages(address: int, size: int) -> tuple[int, int]:
    """Return where the first whole page of this memory begins, and where the last one ends."""
    return -(-address // PAGE_BYTES) * PAGE_BYTES, (address + size) // PAGE_BYTES * PAGE_BYTES
