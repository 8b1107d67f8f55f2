"""Imports what only endings need, some time after the start, and keeps a descriptor with which that is possible.

Runs in: supervisor | any thread of the program.

A task that simply returns needs none of these modules: its first result does not wait for them. But an ending must not
fail because the program has no descriptor left for an import.
"""

from __future__ import annotations

import errno
import importlib
from contextlib import suppress

from killable.supervisor.linux.program_forks import forks_postponed
from killable.supervisor.linux.reserved_descriptor import ReservedDescriptor

MODULES = ("datetime", "killable.supervisor.attempts.attempt", "killable.supervisor.executor.exception_notes")
"""Imported ahead, and not with the first ending: an import in a thread after a Ctrl-C can make CPython forget that the
interrupt is what ends the program (named tuples are made with `eval`), and so change its exit status.
"""
LOAD_AFTER_S = 0.05
"""Seconds from the start to the imports for endings: they take 20 ms, for which the first result does not wait."""

_is_loaded = False
_descriptor = ReservedDescriptor()
"""Given up for the imports. They need one at a time."""
_keepers = 0
"""Executors whose thread runs: with the last one the descriptor is given back."""


def reserve() -> None:
    """Keep a descriptor for the imports, until `release`. Raise OSError if there is none."""
    global _keepers
    with forks_postponed:
        _keepers += 1
        if not _is_loaded:
            _descriptor.keep()


def release() -> None:
    """Take one `reserve` back, also one that failed. An Executor may end before anything was imported."""
    global _keepers
    with forks_postponed:
        _keepers -= 1
        if _keepers == 0:
            _descriptor.give_up()


def load() -> None:
    """Import the modules, unless that is done. Raise OSError if another thread takes the descriptor meanwhile.

    A task becomes a job only after this: no import on the way of an ending opens a file then.
    """
    global _is_loaded
    if _is_loaded:
        return
    with forks_postponed:  # a child would find the locks of the imports taken
        _descriptor.give_up()
        try:
            for name in MODULES:
                importlib.import_module(name)
        except (OSError, ImportError) as error:  # an extension module that cannot be opened is an ImportError
            if _keepers:
                with suppress(OSError):
                    _descriptor.keep()
            raise OSError(errno.EMFILE, str(error)) from error
        _is_loaded = True
