"""Makes log records of what is written to stderr past the log, so that each line of a log in JSON is JSON.

Runs in: supervisor, and a thread of its own. Behind `ports`.

Guards, zygotes (a module that prints while it is imported) and native libraries write to descriptor 2. That
becomes a pipe, which is read line by line; the log writes to the original. So does the interpreter when it dies by a
signal, as nobody would read the pipe any more.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
from types import TracebackType
from typing import Any, Self, TextIO

logger = logging.getLogger("killable.server")

LINE_BYTES_MAX = 8192
"""A longer line becomes several records."""
LAST_LINES_S = 1.0


class StrayLines:
    """Takes descriptor 2 over, as a context manager. `descriptor` and `stream` are what it was.

    Close it after the log.
    """

    def __init__(self) -> None:
        sys.stderr.flush()
        self.descriptor = os.dup(2)
        self.stream: TextIO = open(  # noqa: SIM115 - the log's, until the end
            self.descriptor, "w", encoding="utf-8", errors="backslashreplace", closefd=False
        )

    def __enter__(self) -> Self:
        """Raise OSError if no descriptor is left."""
        self._reading, writing = os.pipe()
        self._over, self._end = os.pipe()
        os.set_blocking(self._reading, False)
        os.dup2(writing, 2)
        os.close(writing)
        self._hooks = threading.excepthook, sys.unraisablehook
        threading.excepthook, sys.unraisablehook = _of_thread, _of_no_one
        logging.captureWarnings(True)
        self._thread = threading.Thread(target=self._read, name="killable-stderr", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give descriptor 2 back, and log what is left in the pipe. The log is closed after it."""
        logging.captureWarnings(False)
        threading.excepthook, sys.unraisablehook = self._hooks
        sys.stderr.flush()
        os.dup2(self.descriptor, 2)
        os.close(self._end)
        self._thread.join(LAST_LINES_S)
        for descriptor in (self._reading, self._over):
            os.close(descriptor)

    def close(self) -> None:
        self.stream.close()
        os.close(self.descriptor)

    def _read(self) -> None:
        """Log lines until the end is told and the pipe is empty."""
        rest = b""
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        poll.register(self._over, select.POLLIN)
        while True:
            is_over = any(descriptor == self._over for descriptor, _ in poll.poll())
            while data := self._some():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    _log(line)
                if len(rest) > LINE_BYTES_MAX:
                    _log(rest)
                    rest = b""
            if is_over:
                _log(rest)
                return

    def _some(self) -> bytes:
        try:
            return os.read(self._reading, 64 << 10)
        except OSError:
            return b""


def _log(line: bytes) -> None:
    for begin in range(0, len(line), LINE_BYTES_MAX):
        if text := line[begin : begin + LINE_BYTES_MAX].decode("utf-8", "backslashreplace").rstrip():
            logger.warning("stderr", extra={"detail": text})


def _of_thread(args: Any) -> None:
    if args.exc_type is not SystemExit:
        exc_info = (args.exc_type, args.exc_value, args.exc_traceback)
        logger.error("uncaught", exc_info=exc_info, extra={"thread": args.thread.name if args.thread else ""})


def _of_no_one(args: Any) -> None:
    exc_info = (args.exc_type, args.exc_value, args.exc_traceback)
    logger.error("uncaught", exc_info=exc_info, extra={"thread": threading.current_thread().name})
