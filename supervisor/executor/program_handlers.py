"""Keeps from an Executor what the program's logging handlers raise.

Runs in: supervisor, the Executor's thread.
"""

from __future__ import annotations

import logging

_OWN = "killable."
_told = logging.Handler()
"""Whose `handleError` says what a handler has raised, as handlers of the standard library do: on stderr, if
`logging.raiseExceptions`.
"""


def guard() -> None:
    """Let no record of ours raise from now on. Call it when the modules that log are imported.

    A handler should call `handleError`. One that raises does so in whoever logs, which would be the thread that all
    calls of an Executor are in.
    """
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name) if name.startswith(_OWN) else None
        if logger is not None and "callHandlers" not in vars(logger):
            _guard(logger)


def _guard(logger: logging.Logger) -> None:
    call_handlers = logger.callHandlers

    def guarded(record: logging.LogRecord) -> None:
        try:
            call_handlers(record)
        except Exception:
            _told.handleError(record)

    logger.callHandlers = guarded  # type: ignore[method-assign]
