"""What tasks print, log and warn, in the program: on its own stdout and stderr, in its loggers, as its warnings.

Runs in: supervisor (an Executor's thread: `TaskOutput`) | the relay's thread (what is shown).
"""

from __future__ import annotations

import contextvars
import logging
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from killable.supervisor.executor.output_relay import Relay
from killable.supervisor.executor.supervisor_thread import SupervisorThread
from killable.workers.protocol.log_records import decode_record, decode_warning
from killable.workers.protocol.messages import Kind

if TYPE_CHECKING:
    from killable.supervisor.jobs.job import Job

LINE_BYTES_MAX = 64 << 10
"""A longer piece without a line end is shown before its line is complete."""
SHOWN_S = 1.0
"""The most seconds for which the end of a task waits until what it has printed is shown."""


class ProgramOutput:
    """The output of an Executor's tasks in the program."""

    def __init__(self, thread: SupervisorThread, name: str, *, is_captured: bool) -> None:
        """`is_captured`: what tasks print is not shown."""
        self.relay = Relay(name)
        self.thread = thread
        self.is_captured = is_captured

    def show(self, data: bytes, stream: str) -> None:
        """Show what no task has printed."""
        if not self.is_captured:
            self.relay.put(partial(_write, stream, data.decode("utf-8", "replace")), len(data))

    def join(self, *, is_patient: bool = True) -> None:
        """Wait until everything is shown (`Relay.join`). Return at once in the Executor's thread."""
        if self.thread.can_wait():
            self.relay.join(is_patient=is_patient)


class TaskOutput:
    """The output of one task on its way to the program: whole lines, and the rest at the end.

    A carriage return counts as a line end: progress bars end their lines so.
    """

    def __init__(self, output: ProgramOutput, job_id: str, context: contextvars.Context) -> None:
        """`context` is that of the thread that submitted the task: Jupyter finds the cell by it."""
        self._output = output
        self._relay = output.relay
        self._context = context
        self._job_id = job_id
        self._rests: dict[str, bytes] = {}
        """What follows the last line end, by stream."""
        self._is_held = False

    def print(self, job: Job, data: bytes, stream: str) -> None:
        """Show what the task has just printed. If there is no room for more, its worker has to wait."""
        if self._output.is_captured:
            return
        data = self._rests.pop(stream, b"") + data
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if len(data) - end > LINE_BYTES_MAX:
            end = _last_character(data)
        if end < len(data):
            self._rests[stream] = data[end:]
        if end:
            self._show(data[:end], stream)
        if self._relay.is_full and not self._is_held and job.attempt is not None:
            self._is_held = True
            job.attempt.hold_output(held=True)
            self._relay.when_there_is_room(partial(self._output.thread.call, partial(self._go_on, job)))

    def _go_on(self, job: Job) -> None:
        self._is_held = False
        if job.attempt is not None:
            job.attempt.hold_output(held=False)

    def log(self, kind: int, payload: bytes) -> None:
        """Hand over a record or a warning."""
        act = _handle if kind == Kind.LOG_RECORD else _warn
        self._relay.put(partial(self._context.run, act, payload, self._job_id), len(payload))

    def when_shown(self, act: Callable[[], None]) -> None:
        """Run `act` once everything is shown, in the Executor's thread: at once if nothing waits or the program's
        stdout blocks, and after SHOWN_S in any case.
        """
        for stream in sorted(self._rests, reverse=True):  # stdout first
            self._show(self._rests.pop(stream), stream)
        if self._relay.is_idle or self._relay.is_stuck:
            act()
            return
        acts = [act]

        def act_once() -> None:
            if acts:
                timer.cancel()
                acts.pop()()

        timer = self._output.thread.call_later(SHOWN_S, act_once)
        self._relay.put(partial(self._output.thread.call, act_once))

    def _show(self, data: bytes, stream: str) -> None:
        text = data.decode("utf-8", "replace")
        self._relay.put(partial(self._context.run, _write, stream, text), len(data))


def _last_character(data: bytes) -> int:
    """Return where the last character of a UTF-8 text begins, which may not be whole."""
    return next((at for at in range(len(data) - 1, len(data) - 5, -1) if data[at] & 0xC0 != 0x80), len(data))


def _write(stream: str, text: str) -> None:
    """Write to the program's stdout or stderr. Nobody can be told when it fails: it may be closed, or a broken pipe."""
    file: Any = getattr(sys, stream)  # None in a program without a terminal
    try:
        try:
            file.write(text)
        except UnicodeEncodeError as error:
            file.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        file.flush()
    except Exception:
        pass


def _handle(payload: bytes, job_id: str) -> None:
    try:
        record = decode_record(payload)
    except Exception:
        return  # forged
    record.job_id = job_id
    target = logging.getLogger(record.name)
    if target.isEnabledFor(record.levelno):
        target.handle(record)


_registries: dict[str, dict[str | tuple[str, type[Warning], int], int]] = {}
"""Which warnings were shown, by file: the program's registries, which are in its modules, may be of other code."""


def _warn(payload: bytes, _job_id: str) -> None:
    try:
        warned = decode_warning(payload)
    except Exception:
        return  # forged
    registry = _registries.setdefault(warned.filename, {})
    try:
        warnings.warn_explicit(
            warned.message, type(warned.message), warned.filename, warned.lineno, warned.module, registry
        )
    except Warning as error:
        if error is not warned.message:
            raise
        # The filter "error": the task is past the place where it could be raised.
        warnings.showwarning(warned.message, type(warned.message), warned.filename, warned.lineno)
