"""Parts of a job with a timeout of their own: `with ctx.operation("download", timeout_s=600)`.

Runs in: worker. The supervisor keeps their timers: it is informed when an operation is entered and left, so a timeout
does not depend on a job that hangs in one.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar, Token
from types import FrameType, TracebackType
from typing import Any, Literal, Protocol

from killable.workers.authoring.identifiers import OPERATION_NAME
from killable.workers.protocol.message_bounds import OPERATIONS_MAX
from killable.workers.protocol.messages import Kind, OperationEntered, OperationLeft

OnTimeout = Literal["kill", "raise"]


class OperationTimedOut(TimeoutError):
    """An operation with `on_timeout="raise"` timed out. Raised inside it, in the main thread, once.

    A job that catches it goes on, but is stopped if it is still inside the operation `grace_s` later. If it does not
    catch it, the job ends `timed_out` with `timeout.operation`.
    """

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__(path, timeout_s)
        self.path = path
        """The operation's name, after those of the operations around it: `load/download`."""
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"operation {self.path} took longer than {self.timeout_s:g} s"


class FrameSink(Protocol):
    """Sends frames (`frame_writer.FrameWriter`)."""

    def send(self, kind: int, payload: bytes) -> None: ...


class Operations:
    """Tracks the operations of one attempt."""

    def __init__(self, speaker: FrameSink, timeouts: Mapping[str, float | None]) -> None:
        """`timeouts` (the limit `operation_s`), by path or name, override those in the code."""
        self._frames = speaker
        self._timeouts = timeouts
        self._entered: dict[int, Operation] = {}
        self._numbers = 0

    def timeout_of(self, path: str, declared_s: float | None) -> float | None:
        """Return the timeout in force: the one set for the path, else for the name alone, else `declared_s`."""
        for name in (path, path.rpartition("/")[2]):
            if name in self._timeouts:
                return self._timeouts[name]
        return declared_s

    def enter(self, operation: Operation) -> int:
        """Return the number of a newly entered operation. Raise RuntimeError over OPERATIONS_MAX at once."""
        if len(self._entered) >= OPERATIONS_MAX:
            raise RuntimeError(f"more than {OPERATIONS_MAX} operations at once")
        self._numbers += 1
        self._entered[self._numbers] = operation
        return self._numbers

    def send_entered(self, entered: OperationEntered) -> None:
        self._frames.send(Kind.OPERATION, entered.encode())

    def leave(self, number: int) -> None:
        """Mark an operation as left. May be called again."""
        if self._entered.pop(number, None) is not None:
            with suppress(RuntimeError):  # the job has ended, or this is a process that it forked
                self._frames.send(Kind.OPERATION_LEFT, OperationLeft(number).encode())

    def expired(self, number: int, frame: FrameType | None) -> OperationTimedOut | None:
        """Return the exception to raise in an operation; None if it has been left or is being left."""
        operation = self._entered.get(number)
        if operation is None or operation.is_being_left(frame):
            return None
        return operation.timed_out()


_innermost: ContextVar[Operation | None] = ContextVar("killable_operation", default=None)
"""The innermost operation that this thread or asyncio task has entered."""


class Operation:
    """One `with ctx.operation(...)`. It may be entered again, but not inside itself."""

    def __init__(
        self, operations: Operations, name: str, timeout_s: float | None = None, on_timeout: OnTimeout = "kill"
    ) -> None:
        """Raise ValueError for an invalid name, timeout or `on_timeout`."""
        if not re.fullmatch(OPERATION_NAME, name):
            raise ValueError(f"an operation's name is 1 to 64 of A-Z a-z 0-9 _ . -, not {name!r}")
        if timeout_s is not None and not 0 < timeout_s < float("inf"):
            raise ValueError(
                f"timeout_s of operation {name} is {timeout_s!r}; it is a positive number of seconds, or None"
            )
        if on_timeout not in ("kill", "raise"):
            raise ValueError(f'on_timeout of operation {name} is {on_timeout!r}; it is "kill" or "raise"')
        self.name = name
        self.path = name
        """Once entered: the name after those of the operations around it, `load/download`."""
        self.timeout_s = timeout_s
        """Once entered: the timeout in force, in seconds; None: no timeout of its own."""
        self._operations = operations
        self._declared_s = timeout_s
        self._raises = on_timeout == "raise"
        self._ends: float | None = None
        self._number = 0
        self._before: Token[Operation | None] | None = None

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the first timeout of this operation and those around it, at least 0.0; None without any."""
        return None if self._ends is None else max(0.0, self._ends - time.monotonic())

    def __enter__(self) -> Operation:
        around = _innermost.get()
        if around is not None and around._operations is not self._operations:
            around = None  # from an earlier attempt, whose generator was never finished
        self.path = self.name if around is None else f"{around.path}/{self.name}"
        self.timeout_s = self._operations.timeout_of(self.path, self._declared_s)
        if self._raises and threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f'operation {self.path}: on_timeout="raise" raises in the main thread only')
        ends = [around._ends] if around is not None else []
        ends.append(None if self.timeout_s is None else time.monotonic() + self.timeout_s)
        self._ends = min((end for end in ends if end is not None), default=None)
        self._number = self._operations.enter(self)
        try:
            number_around = 0 if around is None else around._number
            entered = OperationEntered(self._number, self.path, self.timeout_s, self._raises, number_around)
            self._operations.send_entered(entered)
            self._before = _innermost.set(self)
        except BaseException:  # for example its own timeout, raised at once
            self._operations.leave(self._number)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._operations.leave(self._number)
        if self._before is not None:
            before, self._before = self._before, None
            try:
                _innermost.reset(before)
            except ValueError:
                pass  # a generator was resumed in another context

    def is_being_left(self, frame: FrameType | None) -> bool:
        """Return whether a stack is inside `__exit__` of this operation, where raising would come too late."""
        while frame is not None:
            if frame.f_code is Operation.__exit__.__code__ and frame.f_locals.get("self") is self:
                return True
            frame = frame.f_back
        return False

    def timed_out(self) -> OperationTimedOut:
        return OperationTimedOut(self.path, self.timeout_s or 0.0)

    def __repr__(self) -> str:
        left = "" if self.remaining_s is None else f" remaining={self.remaining_s:.1f}s"
        return f"<Operation {self.path}{left}>"


def timeouts_of(limits: Mapping[str, Any]) -> Mapping[str, float | None]:
    """Return the limit `operation_s`: timeouts by path or name of an operation."""
    return limits.get("operation_s") or {}
