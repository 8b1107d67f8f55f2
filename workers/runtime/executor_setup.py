"""What an Executor and its pool agree on: the names of its job types (`calltypes`), and what is made ready.

Runs in: any.
"""

from __future__ import annotations

import importlib
import multiprocessing
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from killable.workers.protocol import pickling, script_globals

POOL_MODULE = "killable.workers.runtime.executor_jobs"
CALL, STREAM = "call", "stream"


@dataclass(frozen=True, slots=True)
class ExecutorSetup:
    """What an Executor's processes make ready before the first call."""

    modules: Sequence[str] = ()
    """Imported in the zygote."""
    preload: Callable[[], object] | None = None
    """Called there, once: workers share what it leaves in memory."""
    initializer: Callable[..., object] | None = None
    """Called in each worker."""
    initargs: Sequence[Any] = ()

    def encode(self, path: Sequence[str]) -> bytes:
        """`path` is the program's sys.path, by which its modules are found. Raise what pickling raises."""
        authkey = bytes(multiprocessing.current_process().authkey)  # what its managers share is locked with it
        return pickle.dumps((list(path), authkey, pickling.pickled(self).joined()))


_in_pool = False


def is_in_pool() -> bool:
    """Tell whether this process is one of an Executor's."""
    return _in_pool


def prepare(encoded: bytes) -> None:
    """Find what the program finds, and declare what is to be made ready."""
    global _in_pool
    _in_pool = True
    from killable.workers.authoring.preloads import preload  # the program itself declares nothing

    path, authkey, rest = pickle.loads(encoded)
    sys.path[:] = [*path, *(folder for folder in sys.path if folder not in path)]
    multiprocessing.current_process().authkey = authkey
    script_globals.share()
    setup: ExecutorSetup = pickling.loads(rest)
    for name in setup.modules:
        importlib.import_module(name)
    if setup.preload is not None:
        made_ready = setup.preload

        @preload
        def preloaded() -> object:
            made = made_ready()
            script_globals.settle()
            return made

    if setup.initializer is not None:
        initialize = setup.initializer

        @preload(each_worker=True)
        def initialized() -> object:
            made = initialize(*setup.initargs)
            script_globals.settle()
            return made


def apply_to_each(function: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
    """Return the results of one chunk of a `map`; each column is what one of its iterables gives."""
    return [function(*arguments) for arguments in zip(*columns, strict=True)]
