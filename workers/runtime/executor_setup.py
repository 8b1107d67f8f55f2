"""The contract between an Executor and its pool: the names of its job types (`executor_jobs`), and the setup.

Runs in: any.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

# The program imports this module before it starts the first guard, which should not wait: the rest is imported below.

POOL_MODULE = "killable.workers.runtime.executor_jobs"
IMPORTED_AHEAD = (POOL_MODULE, "killable.workers.protocol.pickling", "multiprocessing")
"""What the zygote of an Executor imports while the program still starts."""
CALL, STREAM = "call", "stream"


class ExecutorSetup(NamedTuple):
    """The preparation of an Executor's processes before the first task."""

    modules: Sequence[str] = ()
    """Names of modules to import in the zygote."""
    preload: Callable[[], object] | None = None
    """Called once in the zygote: workers share the memory that it fills."""
    initializer: Callable[..., object] | None = None
    """Called in each worker."""
    initargs: Sequence[Any] = ()

    def encode(self, path: Sequence[str]) -> bytes:
        """Pickle the setup with `path`, the program's sys.path. Raise any exception of pickling."""
        import multiprocessing
        import pickle

        from killable.workers.protocol import pickling

        authkey = bytes(multiprocessing.current_process().authkey)  # workers need it to use the program's managers
        return pickle.dumps((list(path), authkey, pickling.pickled(self).to_bytes()))


_in_pool = False


def is_in_pool() -> bool:
    """Return whether this process belongs to an Executor's pool."""
    return _in_pool


def prepare(encoded: bytes) -> None:
    """Take over the program's sys.path and authkey, import the modules, and declare the preloads of a setup."""
    global _in_pool
    _in_pool = True
    import multiprocessing
    import pickle

    from killable.workers.authoring.preloads import preload
    from killable.workers.protocol import pickling, script_globals

    path, authkey, rest = pickle.loads(encoded)
    sys.path[:] = [*path, *(folder for folder in sys.path if folder not in path)]
    multiprocessing.current_process().authkey = authkey
    script_globals.share()
    setup: ExecutorSetup = pickling.loads(rest)
    for name in setup.modules:
        importlib.import_module(name)
    if setup.preload is not None:
        preload_function = setup.preload

        @preload
        def preloaded() -> object:
            made = preload_function()
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
    """Return the results of one chunk of a `map`; each column has the items of one of its iterables."""
    return [function(*arguments) for arguments in zip(*columns, strict=True)]
