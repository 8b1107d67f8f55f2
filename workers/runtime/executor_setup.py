"""The contract between an Executor and its pool: the names of its job types (`executor_jobs`), the setup, and what a
chunk of a `map` calls.

Runs in: any.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from killable.workers.named_tuples import NamedTuple

# The program imports this module before it starts the first guard, which should not wait: the rest is imported below.

POOL_MODULE = "killable.workers.runtime.call_execution"
IMPORTED_AHEAD = (POOL_MODULE, "killable.workers.protocol.pickling")
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
    sends_logging: bool = False
    """Whether what tasks log and warn goes to the program; otherwise the workers handle it."""

    def encode(self, path: Sequence[str]) -> bytes:
        """Pickle the setup with `path`, the program's sys.path. Raise any exception of pickling."""
        import multiprocessing
        import pickle

        from killable.workers.protocol import pickling, script_globals
        from killable.workers.runtime.program_logging import LoggingSetup

        authkey = bytes(multiprocessing.current_process().authkey)  # workers need it to use the program's managers
        facts = script_globals.facts_of_main()
        logging = LoggingSetup.of_program() if self.sends_logging else None
        rest = pickling.pickled(self).to_bytes()
        return pickle.dumps((list(path), sys.argv, os.getpid(), authkey, facts, logging, rest))


_in_pool = False


def is_in_pool() -> bool:
    """Return whether this process belongs to an Executor's pool."""
    return _in_pool


def prepare(encoded: bytes) -> None:
    """Take over what the program says of itself, import the modules of a setup and declare its preloads."""
    global _in_pool
    _in_pool = True
    import pickle

    from killable.workers.authoring.preloads import preload
    from killable.workers.protocol import pickling, script_globals
    from killable.workers.runtime import worker_identity

    path, arguments, program, authkey, facts, logging, rest = pickle.loads(encoded)
    sys.path[:] = [*path, *(folder for folder in sys.path if folder not in path)]
    sys.argv[:] = arguments
    worker_identity.descend_from(program, authkey)
    script_globals.share(facts)
    if logging is not None:
        logging.take_effect()
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

        preloaded.name = "the executor's preload"

    if setup.initializer is not None:
        initialize = setup.initializer

        @preload(each_worker=True)
        def initialized() -> object:
            made = initialize(*setup.initargs)
            script_globals.settle()
            return made

        initialized.name = "the executor's initializer"


def apply_to_each(function: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
    """Return the results of one chunk of a `map`; each column has the items of one of its iterables."""
    return [function(*arguments) for arguments in zip(*columns, strict=True)]


class ItemRaised(NamedTuple):
    """Stands in a chunk's results for an item whose function raised an exception."""

    pickled: bytes
    """The exception; empty: it cannot be pickled."""
    type: str
    message: str
    traceback: str


def try_each(function: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
    """Return what `apply_to_each` does, with an ItemRaised for each item whose function raised an Exception."""
    return [_tried(function, arguments) for arguments in zip(*columns, strict=True)]


def _tried(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        import traceback

        from killable.workers.protocol.codec import CODECS

        told = traceback.TracebackException(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
        return ItemRaised(
            CODECS["pickle"].encode_exception(error),
            type(error).__qualname__,
            next(told.format_exception_only()).rstrip(),
            "".join(told.format()),
        )
