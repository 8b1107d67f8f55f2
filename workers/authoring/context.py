"""What a job sees of its own run: `Context`, and `Stopping`, which is raised in it when it is to end.

Runs in: worker.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from killable.workers.authoring.operations import OnTimeout, Operation, Operations, timeouts_of
from killable.workers.authoring.shield import Shield
from killable.workers.exit_codes import ExitCode

EXIT_CODE = int(ExitCode.TERMINATED)
"""128 + SIGTERM: what a shell reports for a process that SIGTERM ended."""


class Stopping(SystemExit):
    """The job is to end: raised once, in the main thread, while the job function is on the stack.

    A SystemExit, so that `except Exception` does not catch it and asyncio passes it on. `finally` blocks run; what they
    need longer than `grace_s` is cut off by SIGKILL.
    """

    def __init__(
        self, cause: str, *, by: str = "", grace_s: float = 0.0, deadline: float = 0.0, reason: str = ""
    ) -> None:
        super().__init__(EXIT_CODE)
        self.cause = cause
        """An error code: `cancelled`, `timeout.run`, ..."""
        self.by = by
        """For a cancel: user, client_gone, operator or shutdown."""
        self.grace_s = grace_s
        self.deadline = deadline
        """`time.monotonic()` at which SIGKILL comes."""
        self.reason = reason
        """What the caller wrote; may be empty."""

    @property
    def remaining_s(self) -> float:
        """Seconds until SIGKILL; 0.0 when that moment has passed."""
        return max(0.0, self.deadline - time.monotonic())

    def __str__(self) -> str:
        by = f" by {self.by}" if self.by else ""
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.cause}{by}, {self.grace_s:g} s of grace{reason}"

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call Stopping(143): the exit code as the cause.
        return _rebuild, (self.cause, self.by, self.grace_s, self.deadline, self.reason)


def _rebuild(cause: str, by: str, grace_s: float, deadline: float, reason: str) -> Stopping:
    return Stopping(cause, by=by, grace_s=grace_s, deadline=deadline, reason=reason)


class Output(Protocol):
    """Where a job's output goes; the harness implements it. Each call may block while the pipe is full."""

    def token(self, value: Any) -> None: ...

    def progress(self, value: dict[str, Any]) -> None: ...

    def checkpoint(self, value: Any) -> None: ...

    def send(self, kind: int, payload: bytes) -> None: ...


class StopState(Protocol):
    """What knows whether the job has been told to end, and raises it; the harness implements it."""

    stopping: Stopping | None
    operations: Operations | None
    shields: int

    def raise_deferred(self) -> None: ...


class Context:
    """One attempt of a job as its function sees it: the parameter that is annotated `Context`."""

    __slots__ = (
        "_channel",
        "_entered",
        "_operations",
        "_stop_signal",
        "_tmp",
        "_tmp_parent",
        "attempt",
        "correlation_id",
        "emit",
        "job_id",
        "limits",
        "tags",
    )

    emit: Callable[[Any], None]
    """Stream one value, as a `yield` does: str, bytes or JSON. Blocks while the pipe is full, and stays killable.

    From any thread, callback or signal handler of the job's process (not from a process that it forked); the values go
    out in the order of the calls. `Stopping` is raised in the main thread only. What a native library calls back there
    may swallow it; it is then raised again, but not before the library returns: look at `stopping` in a callback, and
    tell the library to end.
    """

    def __init__(
        self,
        channel: Output,
        *,
        job_id: str,
        attempt: int = 1,
        tags: Mapping[str, str] | None = None,
        limits: Mapping[str, Any] | None = None,
        correlation_id: str = "",
        tmp: Path | str | None = None,
        stop_signal: StopState | None = None,
        entered: float | None = None,
    ) -> None:
        """Make the context of one attempt.

        `tmp` is the directory in which the job's own one will be made (default: the system's place for temporary
        files); it need not be there yet. `entered` is the `time.monotonic()` from which `run_s` counts (default: now).
        """
        self._channel = channel
        # The channel's own method, not one of ours around it: a call less for each of millions of tokens.
        self.emit = channel.token
        self._entered = time.monotonic() if entered is None else entered
        self._tmp: Path | None = None
        self._tmp_parent = tmp
        self._stop_signal = stop_signal
        self.job_id = job_id
        self.attempt = attempt
        """Counts the runs of this job from 1."""
        self.tags: Mapping[str, str] = {} if tags is None else tags
        self.limits: Mapping[str, Any] = {} if limits is None else limits
        """The limits in force for this job: seconds and bytes; None is no such limit."""
        self._operations: Operations | None = None
        self.correlation_id = correlation_id
        """The caller's name for what this job is a part of; also KILLABLE_CORRELATION_ID in the environment."""

    @property
    def stopping(self) -> Stopping | None:
        """The object that was raised, once this job has been told to end; None until then."""
        return None if self._stop_signal is None else self._stop_signal.stopping

    @property
    def tmp(self) -> Path:
        """A private directory (mode 0700), made on first use; it is removed when the attempt's processes are gone."""
        if self._tmp is None:
            if self._tmp_parent is not None:
                os.makedirs(self._tmp_parent, mode=0o700, exist_ok=True)
            self._tmp = Path(tempfile.mkdtemp(prefix="killable-", dir=self._tmp_parent))
        return self._tmp

    @property
    def tmp_path_if_made(self) -> Path | None:
        """`tmp` if the job ever asked for it: what there is to remove, which is not the job's own work."""
        return self._tmp

    @property
    def remaining_s(self) -> float | None:
        """Seconds until `run_s` is over, 0.0 when they are; None when this job has no `run_s`."""
        run_s = self.limits.get("run_s")
        if run_s is None:
            return None
        return max(0.0, float(run_s) - (time.monotonic() - self._entered))

    def progress(self, done: float, total: float | None = None, unit: str = "") -> None:
        """Say how far the job is: `done` of `total` (None: unknown) in `unit`s ("tokens", "chars"; may be empty).

        Raise ValueError for what is no two numbers and a word, but over 4 KiB: the job's record repeats it.
        """
        self._channel.progress({"done": done, "total": total, "unit": unit})

    def checkpoint(self, value: Any) -> None:
        """Hand over what has been reached so far: the record keeps the last one as `partial`, however the job ends."""
        self._channel.checkpoint(value)

    def operation(self, name: str, timeout_s: float | None = None, on_timeout: OnTimeout = "kill") -> Operation:
        """Give a part of the job a time of its own: `with ctx.operation("download", timeout_s=600):`.

        Operations nest; an error names the path, `load/download`, and one inside another never outlives it. The limit
        `operation_s` sets the time of one by its path or its name, over `timeout_s`; with neither it has none, and only
        errors name it. When it is over the job is stopped with `timeout.operation` ("kill"), or `OperationTimedOut` is
        raised inside it, which the job may catch ("raise", in the main thread only). Native code that does not hear
        that within `ack_s` is stopped too. The `with` gives an object with `path`, `timeout_s` and `remaining_s`.

        Raise ValueError for a name, a time or a manner that there is not; RuntimeError when it is entered in another
        thread with "raise", or beside a hundred others.
        """
        if self._operations is None:
            self._operations = Operations(self._channel, timeouts_of(self.limits))
            if self._stop_signal is not None:
                self._stop_signal.operations = self._operations
        return Operation(self._operations, name, timeout_s, on_timeout)

    def shield(self) -> Shield:
        """Defer `Stopping` and `OperationTimedOut` over a critical section: `with ctx.shield():`.

        They are raised at its end; `stopping` tells of the former before. SIGKILL is not deferred: it comes when the
        grace is over. Shields nest.
        """
        return Shield(self._stop_signal)

    def sleep(self, s: float) -> None:
        """Sleep; `Stopping` interrupts it at once. Raise ValueError for a negative number of seconds."""
        time.sleep(s)

    def __repr__(self) -> str:
        remaining = self.remaining_s
        left = "" if remaining is None else f" remaining={remaining:.1f}s"
        stopping = "" if self.stopping is None else f" stopping={self.stopping.cause!r}"
        return f"<Context job={self.job_id} attempt={self.attempt}{left}{stopping}>"
