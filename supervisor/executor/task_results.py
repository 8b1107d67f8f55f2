"""What a task returned or raised, unpickled in the program.

Runs in: any thread of the program.
"""

from __future__ import annotations

from collections.abc import Callable
from mmap import mmap
from typing import Any, TypeVar

from killable.workers.protocol import pickling
from killable.workers.protocol.exception_pickling import set_attribute
from killable.workers.protocol.shared_memory import MemoryFile

T = TypeVar("T")

RAISED_CODES = frozenset({"exception", "limit.files"})
"""Codes of outcomes that the function's own exception describes: `result` raises that exception."""


class RemoteTraceback(Exception):
    """The worker's traceback of an exception, as the `__cause__` of the exception that `result` raises."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class UnpickleFailed(Exception):
    """The same bytes could not be unpickled twice. The second exception is the cause."""


def read(unpickle: Callable[..., T], *sent: Any) -> T:
    """Unpickle bytes from a job. Raise UnpickleFailed if that fails twice.

    A single failure may have another cause: Ctrl-C, or a signal handler that raises. That exception is raised as it
    is, and the value can be read again.
    """
    try:
        return unpickle(*sent)
    except KeyboardInterrupt:
        raise
    except BaseException:
        try:
            unpickle(*sent)
        except KeyboardInterrupt:
            raise
        except BaseException as again:
            raise UnpickleFailed from again
        raise


def unpickled(payload: bytes | memoryview | mmap | MemoryFile | None) -> Any:
    if isinstance(payload, MemoryFile):
        with payload.mapped() as content:
            return pickling.loads(content)
    return None if payload is None else pickling.loads(payload)


def raised_error(pickled: bytes, traceback: str) -> BaseException:
    """Return the exception that a worker has pickled, with the worker's traceback as its cause, and its own cause as
    the context. Raise UnpickleFailed.
    """
    error = read(_exception, pickled)
    set_attribute(error, "__context__", error.__cause__ or error.__context__)
    set_attribute(error, "__cause__", RemoteTraceback(traceback))
    return error


def _exception(pickled: bytes) -> BaseException:
    error = pickling.loads(pickled)
    assert isinstance(error, BaseException), error
    return error
