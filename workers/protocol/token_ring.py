"""A ring of tokens in memory that a worker and its supervisor share: no system call per token, and a kill loses none.

Runs in: worker (`TokenRingWriter`) | supervisor (`TokenRingReader`).

    words, 64 bytes apart   PUBLISHED, written by the worker · CONSUMED, WATCHED, written by the supervisor
    table                   where each token ends in the data: a u32 for each of TOKENS_MAX
    data                    the tokens; one that does not fit before the end stands at the beginning

The worker writes a token, its end, and then PUBLISHED, so that SIGKILL at any moment leaves whole tokens. Python has no
memory fences. The supervisor sees these writes in their order because x86-64 keeps the order of writes, and that of
reads; on other machines the ring is never watched, and all tokens go through the pipe.

The worker uses the ring only while the supervisor watches it, which then looks into it by itself. Before it sleeps, it
clears WATCHED and reads PUBLISHED, while the worker writes PUBLISHED and reads WATCHED: at least one of them sees what
the other wrote if a full fence is between the two accesses of each. The release of a lock is one: it is an atomic
read-modify-write, since it has to find out who waits.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
import threading

TOKENS_MAX = 8192
"""A power of two. A thread of the program that computes keeps the supervisor's from running for 5 ms at a time, in
which a worker yields some 4,000.
"""
TOKEN_BYTES_MAX = 1 << 10
"""A larger token goes through the pipe: there its bytes take longer than the system call."""
RING_BYTES = 256 << 10
"""All of it. Tokens of a few letters take 20 bytes."""

_PUBLISHED, _CONSUMED, _WATCHED = 0, 8, 16
"""Indexes of words of 8 bytes."""
_TABLE_AT = 4096
_DATA_AT = _TABLE_AT + 4 * TOKENS_MAX
_MASK = TOKENS_MAX - 1
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
"""They keep a worker from truncating it: for the supervisor, reading a truncated mapping is SIGBUS."""


def create() -> int:
    """Return a descriptor of memory for a ring. Raise OSError."""
    descriptor = os.memfd_create("killable-tokens", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, RING_BYTES)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _map(descriptor: int) -> mmap.mmap:
    """Map the ring; the descriptor may be closed then. Before Python 3.13 the mapping holds a copy of it."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, RING_BYTES, trackfd=False)
    return mmap.mmap(descriptor, RING_BYTES)


class TokenRingWriter:
    """The worker's side, for one thread at a time."""

    def __init__(self, descriptor: int) -> None:
        """Map the ring; the descriptor may be closed then. Raise OSError."""
        self._memory = memory = memoryview(_map(descriptor))
        self._words = memory[:_TABLE_AT].cast("Q")
        self._table = memory[_TABLE_AT:_DATA_AT].cast("I")
        self._published = self._full_at = 0
        self._position = self._room_end = _DATA_AT

    def is_watched(self) -> bool:
        """Return whether the supervisor looks into the ring. Behind `put`, release a lock first."""
        return self._words[_WATCHED] != 0

    def put(self, token: bytes) -> bool:
        """Publish a token. Return False if there is no room for it."""
        end = self._position + len(token)
        if end > self._room_end or self._published == self._full_at:
            if not self._find_room(len(token)):
                return False
            end = self._position + len(token)
        number = self._published
        self._memory[self._position : end] = token
        self._table[number & _MASK] = end
        self._position = end
        self._published = self._words[_PUBLISHED] = number + 1
        return True

    def _find_room(self, size: int) -> bool:
        """Find out how far the data is free behind the last token, or else at the beginning."""
        consumed = self._words[_CONSUMED]
        self._full_at = consumed + TOKENS_MAX
        if size > TOKEN_BYTES_MAX or self._published >= self._full_at:
            return False
        tail = self._table[(consumed - 1) & _MASK] if consumed else _DATA_AT
        begin, room_end = self._position, RING_BYTES
        if begin < tail:
            room_end = tail - 1  # not up to the tail: full data would look empty
        elif begin + size > RING_BYTES:
            begin, room_end = _DATA_AT, tail - 1
        if begin + size > room_end:
            return False
        self._position, self._room_end = begin, room_end
        return True


class TokenRingReader:
    """The supervisor's side. What it reads may have been written by a hostile job."""

    def __init__(self, descriptor: int) -> None:
        """Map the ring; the descriptor may be closed then. Raise OSError, also on a machine that may reorder writes."""
        if os.uname().machine != "x86_64":
            raise OSError("this machine may reorder writes")
        self._content = _map(descriptor)
        memory = memoryview(self._content)
        self._words = memory[:_TABLE_AT].cast("Q")
        self._table = memory[_TABLE_AT:_DATA_AT].cast("I")
        self._position = _DATA_AT
        self._lock = threading.Lock()
        self.consumed = 0
        """How many tokens were taken."""

    @property
    def published(self) -> int:
        """How many tokens the worker has published, as it says."""
        return self._words[_PUBLISHED]

    def watch(self) -> None:
        """Have the worker use the ring from here on."""
        self._words[_WATCHED] = 1

    def unwatch(self) -> bool:
        """Have the worker use the pipe from here on; return whether the ring is empty."""
        self._words[_WATCHED] = 0
        with self._lock:
            pass  # its release is the fence
        return self.published == self.consumed

    def take(self, count: int) -> list[bytes]:
        """Return the next tokens, `count` at most, at least one if there are any. Raise ValueError for damage."""
        waiting = self.published - self.consumed
        if not 0 <= waiting <= TOKENS_MAX:
            raise ValueError(f"its ring of tokens is damaged: {waiting} of {TOKENS_MAX} are waiting")
        place = self.consumed & _MASK
        count = min(count, waiting, TOKENS_MAX - place)
        if count <= 0:
            return []
        ends = self._table[place : place + count].tolist()  # a copy: what is checked is what is used
        begins = [self._position, *ends[:-1]]
        if begins[0] > ends[0] or ends != sorted(ends):
            begins = [begin if begin < end else _DATA_AT for begin, end in zip(begins, ends, strict=True)]
        if min(ends) < _DATA_AT or max(ends) > RING_BYTES or sum(ends) - sum(begins) > RING_BYTES:
            raise ValueError("its ring of tokens is damaged: they overlap, or are not in it")
        tokens = list(map(self._content.__getitem__, map(slice, begins, ends)))
        self._position = ends[-1]
        self.consumed += count
        self._words[_CONSUMED] = self.consumed
        return tokens
