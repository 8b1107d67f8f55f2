"""The file of the audit log: lines are appended by a thread, so that a disk that fails or blocks holds up nothing.

Runs in: api; the file only in the thread.

    write ──► queue, RECORDS_MAX at most ──► thread: open again if it was moved ──► O_APPEND, whole lines
                └─ full: counted, and a record `records_lost` when there is room again
"""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from killable.supervisor.clock import rfc_3339

logger = logging.getLogger("killable.server")

RECORDS_MAX = 10_000
"""Records that wait for the disk, some 5 MB. Further ones are lost, and counted: no request waits for this file."""
GATHER_S = 0.02
"""Time for which records are collected before they are written, as in the log."""
AGAIN_S = 1.0
"""Time until a write that failed is tried again."""
STANDS_STILL_S = 5.0
"""A disk that takes no record for so long is in trouble."""
LAST_WORDS_S = 2.0


class AuditLog:
    """Appends records to one file. `write` may be called in any thread."""

    def __init__(self, path: str, clock: Callable[[], float] = time.time) -> None:
        """Open the file, and create it readable by its owner only. Raise OSError."""
        self.path = path
        self.lost = 0
        """Records that were dropped since the start."""
        self._clock = clock
        self._lines: deque[bytes] = deque()
        self._number = 0
        self._unsaid = 0
        self._fault = ""
        self._moved = time.monotonic()
        """When the last record was written, or the queue was empty."""
        self._rest = b""
        """Of the first record that waits, of which the file has the beginning."""
        self._is_torn = False
        """Whether the file ends in the middle of a line that a server before has begun."""
        self._descriptor = -1
        self._open()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._reopen = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killable-audit", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str:
        """What is wrong with the file now, or ""."""
        if self._fault:
            return f"the audit log {self.path} cannot be written: {self._fault}"
        waits_s = time.monotonic() - self._moved
        if self._lines and waits_s > STANDS_STILL_S:
            return f"the audit log {self.path} has taken no record for {waits_s:.0f} s"
        return ""

    def write(self, event: str, **members: Any) -> None:
        """Queue a record with the time, and a number that has no gap unless records were lost. Never waits."""
        self._number += 1
        if len(self._lines) >= RECORDS_MAX:
            self.lost += 1
            self._unsaid += 1
            return
        if self._unsaid:
            lost, self._unsaid = self._unsaid, 0
            self._append("records_lost", {"lost": lost})
        self._append(event, members)

    def reopen(self) -> None:
        """Open the file again, as after it was moved away; the thread would notice it, too, with the next record."""
        self._reopen.set()
        self._wake.set()

    def close(self) -> None:
        """Write what waits, for two seconds at most. May be called again."""
        self._closing.set()
        self._wake.set()
        self._thread.join(LAST_WORDS_S)  # if the disk blocks, the thread ends with the process

    def _append(self, event: str, members: dict[str, Any]) -> None:
        record = {"time": rfc_3339(self._clock()), "number": self._number, "event": event, **members}
        if not self._lines:
            self._moved = time.monotonic()
        self._lines.append(json.dumps(record, default=str).encode() + b"\n")
        self._wake.set()

    # ── in the thread ──

    def _run(self) -> None:
        while True:
            self._wake.wait(AGAIN_S if self._lines else None)
            self._wake.clear()  # before `_closing` is looked at: after it, the `set` of `close` could be lost
            is_last = self._closing.wait(GATHER_S)
            try:
                self._write_all()
                self._note("")
            except OSError as error:
                self._note((error.strerror or str(error)).lower())
                if not is_last:
                    self._closing.wait(AGAIN_S)
            if is_last:
                if self._descriptor >= 0:
                    os.close(self._descriptor)
                return

    def _write_all(self) -> None:
        """Write the records that wait. Raise OSError; those that are not written wait on."""
        if self._lines or self._reopen.is_set():
            self._follow()
        while self._lines:
            line = self._rest or (b"\n" if self._is_torn else b"") + self._lines[0]
            self._rest = line[os.write(self._descriptor, line) :]
            self._is_torn = False
            if not self._rest:  # else the next write says why
                self._lines.popleft()
                self._moved = time.monotonic()

    def _follow(self) -> None:
        """Open the file anew if it is another one by now: logrotate(8) moves it away. Raise OSError."""
        is_asked = self._reopen.is_set()
        self._reopen.clear()
        if self._descriptor >= 0 and not is_asked:
            try:
                there, here = os.stat(self.path, follow_symlinks=False), os.fstat(self._descriptor)
                if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
                    return
            except FileNotFoundError:
                pass
        self._open()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self.path, flags, 0o600)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise OSError(None, "it is not a regular file")
        before, self._descriptor = self._descriptor, descriptor
        if before >= 0:
            is_same = os.path.samestat(found, os.fstat(before))
            os.close(before)
            if is_same:  # what was begun there goes on there
                return
        self._rest = b""
        self._is_torn = found.st_size > 0 and os.pread(descriptor, 1, found.st_size - 1) != b"\n"

    def _note(self, fault: str) -> None:
        """Keep what is wrong, and log when that changes."""
        if fault and fault != self._fault:
            logger.error("audit_log_failed", extra={"path": self.path, "error": fault})
        elif self._fault and not fault:
            logger.warning("audit_log_goes_on", extra={"path": self.path, "lost": self.lost})
        self._fault = fault
