"""What Ctrl-C ends in a program with an Executor: the calls that are waited for; once more, and they are killed.

Runs in: the program, in the thread that is interrupted. Workers are in sessions of their own: the terminal's SIGINT
does not reach them, nor a notebook's. So whoever waits has to stop them:

    a future's `result`, `exception`      stops the call                        `futures.JobFuture.exception`
    a stream's next item                  stops its call                        `streams.Stream.__next__`
    the body of a `with`, or its end      stops all calls, then kills them      `Executor.__exit__`, `terminate_workers`
    the end of the program                stops all calls, then kills them      `program_end.LastWait`
"""

from __future__ import annotations

import sys

OF_CALLER = "its caller was interrupted"
OF_READER = "its reader was interrupted"
OF_PROGRAM = "the program was interrupted"
"""Reasons of a cancel, in its certificate and in the log."""


def grace_s(interrupts: int) -> float | None:
    """Return the grace in seconds of calls at the end of the program after so many interrupts, 1 or more: after the
    first one their own (None), then none.
    """
    return None if interrupts == 1 else 0.0


def ends_program() -> bool:
    """Return whether an uncaught Ctrl-C ends the program. In an interactive session it may be from an earlier line."""
    return issubclass(getattr(sys, "last_type", object), KeyboardInterrupt) and not hasattr(sys, "ps1")


def end_by_sigint() -> None:
    """Let CPython end the program by SIGINT, as it does after an uncaught KeyboardInterrupt. It has forgotten that when
    a text was executed since, and to end calls imports modules: each definition of a dataclass executes one.
    """
    try:
        exec("raise KeyboardInterrupt")
    except KeyboardInterrupt:
        pass
