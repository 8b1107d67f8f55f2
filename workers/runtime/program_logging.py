"""Sends what a task logs and warns to the program that owns the Executor, instead of handling it in the worker.

Runs in: supervisor (`LoggingSetup.of_program`) | zygote and worker.

The levels of the program's loggers hold in the worker, so that a record below them is never made. A record that passes
goes to the program, whose handlers, filters and current levels decide what becomes of it; handlers that were set up in
the worker are not called. Outside of a task, and in processes that a task forks, logging and warnings are the
worker's own, and go to its stderr. `logging` is changed once a task or a preload imports it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TextIO

from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.log_records import encode_record, encode_warning
from killable.workers.protocol.messages import Kind
from killable.workers.runtime.import_hooks import when_imported

if TYPE_CHECKING:
    import logging

    from killable.workers.runtime.frame_writer import FrameWriter

_show_here = warnings.showwarning
_channel: FrameWriter | None = None
_has_warned = False
"""Whether a warning was sent since the last task began."""


class LoggingSetup(NamedTuple):
    """The program's levels and filters, as they are when the Executor starts."""

    levels: Mapping[str, int]
    """By name of the logger; "root" is the root logger."""
    disabled: int
    """The level of `logging.disable`."""
    warning_filters: Sequence[tuple[Any, ...]]
    """Those of categories that Python has itself: to unpickle another one would import its module in the zygote."""

    @classmethod
    def of_program(cls) -> Self:
        import logging

        manager = logging.root.manager
        loggers = [each for each in list(manager.loggerDict.values()) if isinstance(each, logging.Logger)]
        return cls(
            levels={each.name: each.level for each in (logging.root, *loggers) if each.level},
            disabled=manager.disable,
            warning_filters=[each for each in warnings.filters if each[2].__module__ == "builtins"],
        )

    def take_effect(self) -> None:
        """Set the levels and filters in this process, and send what is logged and warned from here on."""
        warnings.filters[:] = self.warning_filters  # type: ignore[index]
        _show_again()
        warnings.showwarning = _send_warning
        when_imported("logging", self._take_effect_on)

    def _take_effect_on(self, logging: Any) -> None:
        for name, level in self.levels.items():
            logging.getLogger(None if name == "root" else name).setLevel(level)
        logging.disable(self.disabled)
        logging.Logger.callHandlers = _sender(logging)


def connect(channel: FrameWriter) -> None:
    """Send through this channel while an attempt is open."""
    global _channel
    _channel = channel


def begin_task() -> None:
    """Forget which warnings the task before has given: this one gives them too."""
    global _has_warned
    if _has_warned:
        _has_warned = False
        _show_again()


def _show_again() -> None:
    """Make warnings forget where they were given: entering the context invalidates every registry."""
    with warnings.catch_warnings():
        pass


def _sender(logging: Any) -> Callable[[logging.Logger, logging.LogRecord], None]:
    handle_here = logging.Logger.callHandlers

    def send(logger: logging.Logger, record: logging.LogRecord) -> None:
        """Stand in for `Logger.callHandlers`, after the level and the logger's own filters."""
        if _channel is None or not _channel.is_open:
            handle_here(logger, record)
            return
        try:
            payload = encode_record(record)
        except Exception:
            logging.Handler().handleError(record)
        else:
            _channel.try_send(Kind.LOG_RECORD, payload)

    return send


def _send_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Stand in for `warnings.showwarning`, after the filters."""
    global _has_warned
    if _channel is None or not _channel.is_open or file is not None:
        _show_here(message, category, filename, lineno, file, line)
        return
    warning = message if isinstance(message, Warning) else category(message)
    _has_warned = True
    _channel.try_send(Kind.WARNING, encode_warning(warning, filename, lineno, _module_at(filename, lineno)))


def _module_at(filename: str, lineno: int) -> str | None:
    """Return the name of the module whose line is warned about, by the stack: `showwarning` is not told."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == filename and frame.f_lineno == lineno:
            name = frame.f_globals.get("__name__")
            return name if isinstance(name, str) else None
        frame = frame.f_back  # type: ignore[assignment]
    return None
