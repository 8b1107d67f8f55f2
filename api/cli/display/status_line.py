"""A transient line on stderr: the place in the queue, then the progress that a job reports.

Runs in: any machine. Only where stderr is a terminal; it never stands in the middle of a line of the job's text.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from killable.api.explanation import spelling
from killable.api.explanation.state_words import percent, progress_text
from killable.workers.errors import KillableError

if TYPE_CHECKING:
    from killable.api.client.client import JobHandle

BAR_COLUMNS = 30
ASK_S = 0.5
"""Seconds between two requests for the place in the queue: people read no faster."""


class StatusLine:
    """The line. Safe to use from two threads; does nothing if stderr is not a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._line: Table | Text | None = None
        self._drawn = False
        self._paused = False

    @property
    def is_live(self) -> bool:
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def show(self, line: Table | Text) -> None:
        """Replace the line; while paused, the new one is drawn by `resume`."""
        with self._lock:
            self._line = line
            self._draw()

    def pause(self) -> None:
        """Erase the line, to make room for the job's output."""
        with self._lock:
            self._erase()
            self._paused = True

    def resume(self) -> None:
        """Draw the line again. The cursor must be at the beginning of a line."""
        with self._lock:
            self._paused = False
            self._draw()

    def clear(self) -> None:
        with self._lock:
            self._line = None
            self._erase()

    def _draw(self) -> None:
        if not self.is_live or self._paused or self._line is None:
            return
        self._erase()
        with self._console.capture() as drawn:
            # One column less: a full line would wrap, and only its last part could be erased.
            self._console.print(self._line, width=self._console.width - 1, end="", no_wrap=True, soft_wrap=False)
        self._console.file.write(drawn.get().rstrip("\n"))
        self._console.file.flush()
        self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            self._console.file.write("\r\x1b[2K")
            self._console.file.flush()
            self._drawn = False


def progress_line(reported: Mapping[str, Any]) -> Table | Text:
    """Return a bar with its text; only the text if the job reports no total."""
    words = Text(progress_text(reported), no_wrap=True, overflow="ellipsis")
    done, total = reported.get("done"), reported.get("total")
    if percent(reported) is None:
        return words
    line = Table.grid(padding=(0, 1))
    line.add_column(width=BAR_COLUMNS)
    line.add_column(no_wrap=True, overflow="ellipsis")
    line.add_row(ProgressBar(total=float(total), completed=max(0.0, float(done)), width=BAR_COLUMNS), words)  # type: ignore[arg-type]
    return line


class QueueWatch:
    """Shows a job's place in the queue until `stop`. A context manager."""

    def __init__(self, job: JobHandle, line: StatusLine) -> None:
        self._job = job
        self._line = line
        self._over = threading.Event()
        self._lock = threading.Lock()  # `stop` must not come between the check of `_over` and the drawing
        self._thread = threading.Thread(target=self._watch, name="queue watch", daemon=True)

    def __enter__(self) -> Self:
        if self._line.is_live:
            self._thread.start()
        return self

    def stop(self) -> None:
        """Stop watching: the job has begun, or it has ended. May be called twice."""
        if not self._over.is_set():
            with self._lock:
                self._over.set()
            self._line.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _watch(self) -> None:
        while not self._over.wait(ASK_S):
            try:
                record = self._job.record()
            except KillableError:
                return  # the stream reports the error
            queue = record.get("queue") or {}
            if record["state"] != "queued" or queue.get("position") is None:
                continue
            with self._lock:
                if not self._over.is_set():
                    self._line.show(Text(_in_queue(queue), "dim"))


def _in_queue(queue: Mapping[str, Any]) -> str:
    if queue.get("detail"):
        return f"queued, {queue['detail']}"
    before, wait_s = queue["position"], queue.get("estimated_wait_s")
    place = f"{spelling.counted(before, 'job')} ahead of it" if before else "next"
    return f"queued, {place}{f', about {spelling.duration(wait_s)}' if wait_s else ''}"
