"""A job's interface to its own run: `Context`, and `Stopping`, the exception that asks it to end.

Runs in: worker.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from killable.workers.authoring.operations import OnTimeout, Operation, Operations, timeouts_of
from killable.workers.authoring.shield import Shield
from killable.workers.exit_codes import ExitCode
from killable.workers.protocol.messages import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from killable.workers.authoring.spans import Span, Spans

EXIT_CODE = int(ExitCode.TERMINATED)
"""128 + SIGTERM, as a shell reports a process that SIGTERM ended."""


given_files: Mapping[str, str] = {}
"""The path of each uploaded file of the job that runs here, by its id: a worker runs one job at a time."""


class Stopping(SystemExit):
    """The job must end. Raised once, in the main thread, while the job function is on the stack.

    A SystemExit, so that `except Exception` does not catch it and asyncio propagates it. `finally` blocks run; SIGKILL
    follows after `grace_s`, even if they have not finished.
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
        """The `time.monotonic()` of the SIGKILL."""
        self.reason = reason
        """The text that the caller gave; may be empty."""

    @property
    def remaining_s(self) -> float:
        """Seconds until SIGKILL, at least 0.0."""
        return max(0.0, self.deadline - time.monotonic())

    def __str__(self) -> str:
        by = f" by {self.by}" if self.by else ""
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.cause}{by}, {self.grace_s:g} s of grace{reason}"

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call Stopping(143), with the exit code as the cause.
        return _rebuild, (self.cause, self.by, self.grace_s, self.deadline, self.reason)


def _rebuild(cause: str, by: str, grace_s: float, deadline: float, reason: str) -> Stopping:
    return Stopping(cause, by=by, grace_s=grace_s, deadline=deadline, reason=reason)


class Output(Protocol):
    """Takes a job's output; the harness implements it. Each call may block while the pipe is full."""

    def token(self, value: Any) -> None: ...

    def progress(self, value: dict[str, Any]) -> None: ...

    def checkpoint(self, value: Any) -> None: ...

    def send(self, kind: int, payload: bytes) -> None: ...


class StopState(Protocol):
    """Holds the stop of a job and raises it; the harness implements it."""

    stopping: Stopping | None
    operations: Operations | None
    shields: int

    def raise_deferred(self) -> None: ...


class Context:
    """The running attempt of a job. A job function gets it in the parameter annotated `Context`."""

    __slots__ = (
        "_channel",
        "_entered",
        "_operations",
        "_previous_checkpoint",
        "_saved",
        "_spans",
        "_staging",
        "_stop_signal",
        "_tells_spans",
        "_tmp",
        "_tmp_parent",
        "attempt",
        "correlation_id",
        "emit",
        "job_id",
        "limits",
        "tags",
        "traceparent",
        "tracestate",
    )

    emit: Callable[[Any], None]
    """Stream one value, as a `yield` does: str, bytes or JSON. Blocks while the pipe is full, and stays killable.

    May be called from any thread, callback or signal handler of the job's process, but not from a process that it
    forked. Values are sent in the order of the calls. `Stopping` is raised in the main thread only. If a native library
    swallows it in a callback, it is raised again after the library returns: check `stopping` in such a callback, and
    make the library return.
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
        staging: str = "",
        previous_checkpoint: Callable[[], Any] | None = None,
        traceparent: str = "",
        tracestate: str = "",
        tells_spans: bool = False,
    ) -> None:
        """Make the context of one attempt.

        The job's private directory is made in `tmp` (default: the system's directory for temporary files), which need
        not exist yet. `entered` is the `time.monotonic()` from which `run_s` counts (default: now). `staging` is the
        folder in which saved files wait for the supervisor; empty: no file can be saved. `previous_checkpoint` returns
        the checkpoint of an earlier attempt (default: there is none). `tells_spans`: whether the supervisor wants to
        hear of spans.
        """
        self._channel = channel
        # The channel's own method, without a wrapper: one call less for each of millions of tokens.
        self.emit = channel.token
        self._entered = time.monotonic() if entered is None else entered
        self._tmp: Path | None = None
        self._tmp_parent = tmp
        self._stop_signal = stop_signal
        self._staging = staging
        self._saved = 0
        self.job_id = job_id
        self.attempt = attempt
        """The number of this run of the job, from 1."""
        self._previous_checkpoint = previous_checkpoint
        self.tags: Mapping[str, str] = {} if tags is None else tags
        self.limits: Mapping[str, Any] = {} if limits is None else limits
        """The limits in force for this job, in seconds and bytes; None: no such limit."""
        self._operations: Operations | None = None
        self.correlation_id = correlation_id
        """The caller's id for the work that this job belongs to; also KILLABLE_CORRELATION_ID in the environment."""
        self.traceparent = traceparent
        """The job's place in a trace, for requests that it makes (W3C Trace Context); also TRACEPARENT in the
        environment. Empty: it is in none.
        """
        self.tracestate = tracestate
        """What belongs to `traceparent`; also TRACESTATE in the environment."""
        self._tells_spans = tells_spans
        self._spans: Spans | None = None

    @property
    def stopping(self) -> Stopping | None:
        """The `Stopping` of this job, once it must end; None until then."""
        return None if self._stop_signal is None else self._stop_signal.stopping

    @property
    def tmp(self) -> Path:
        """A private directory (mode 0700), made on first use, and removed when the attempt's processes are gone."""
        if self._tmp is None:
            import tempfile  # here, as it takes a worker 10 ms with all that it imports, and few jobs have use for it
            from pathlib import Path

            if self._tmp_parent is not None:
                os.makedirs(self._tmp_parent, mode=0o700, exist_ok=True)
            self._tmp = Path(tempfile.mkdtemp(prefix="killable-", dir=self._tmp_parent))
        return self._tmp

    @property
    def tmp_path_if_made(self) -> Path | None:
        """`tmp` if the job has used it, else None. The harness removes it; jobs have no need of this."""
        return self._tmp

    @property
    def remaining_s(self) -> float | None:
        """Seconds until `run_s` is over, at least 0.0; None if this job has no `run_s`."""
        run_s = self.limits.get("run_s")
        if run_s is None:
            return None
        return max(0.0, float(run_s) - (time.monotonic() - self._entered))

    def progress(self, done: float, total: float | None = None, unit: str = "") -> None:
        """Report the job's progress: `done` of `total` (None: unknown) in `unit`s ("tokens", "chars"; may be empty).

        Raise ValueError if this takes more than 4 KiB: the job's record repeats it.
        """
        self._channel.progress({"done": done, "total": total, "unit": unit})

    def checkpoint(self, value: Any) -> None:
        """Save an intermediate result: the job's record keeps the last one as `partial`, however the job ends."""
        self._channel.checkpoint(value)

    @property
    def previous_checkpoint(self) -> Any:
        """The last checkpoint of the attempts before this one, as a new value each time; None: there is none.

        With a journal it survives the server's death, too: at a retry, and for a type with `on_loss="rerun"`. What was
        checkpointed in the last moments before a death may be missing.
        """
        return None if self._previous_checkpoint is None else self._previous_checkpoint()

    def save_file(self, source: str | os.PathLike[str] | bytes, name: str = "", *, content_type: str = "") -> None:
        """Save a result file, which clients can download from then on: `ctx.save_file(ctx.tmp / "out.webm")`.

        `source` is the path of a file, or the content itself. A file in `ctx.tmp` is moved if the server's files are on
        the same file system, and any other one is copied. `name` defaults to that of the source; a file that was saved
        under it before is replaced. `content_type` defaults to what the name's suffix says. The files of a job are kept
        as long as its record, and count for `tmp_bytes`. After a retry only those of the last attempt are kept.

        Raise ValueError for a name that no file can have, and OSError for a source that cannot be read or is no regular
        file, for a full disk, and if the server keeps no files.
        """
        from killable.workers.authoring.saved_files import save  # here: few jobs save any

        self._saved += 1
        saved = save(source, name, content_type, self._saved, staging=self._staging, tmp=self._tmp)
        self._channel.send(Kind.FILE, saved.encode())

    def operation(self, name: str, timeout_s: float | None = None, on_timeout: OnTimeout = "kill") -> Operation:
        """Give a part of the job a timeout of its own: `with ctx.operation("download", timeout_s=600):`.

        Operations nest; errors name the path, `load/download`, and an inner one never outlives the outer. The limit
        `operation_s` sets the timeout by path or name and overrides `timeout_s`; with neither there is no timeout, and
        the operation only appears in errors. At the timeout the job is stopped with `timeout.operation` ("kill"), or
        `OperationTimedOut` is raised inside the operation, where the job may catch it ("raise", in the main thread
        only). If native code does not react to that within `ack_s`, the job is stopped. The `with` returns an object
        with `path`, `timeout_s` and `remaining_s`.

        Raise ValueError for an invalid name, timeout or `on_timeout`. Entering raises RuntimeError in another thread
        with "raise", and if a hundred operations are already entered.
        """
        if self._operations is None:
            self._operations = Operations(self._channel, timeouts_of(self.limits))
            if self._stop_signal is not None:
                self._stop_signal.operations = self._operations
        return Operation(self._operations, name, timeout_s, on_timeout)

    def span(self, name: str, **attributes: Any) -> Span:
        """Make a part of the job a span of its trace: `with ctx.span("load", model="m") as span:`.

        Spans of one thread nest. What `with` returns has `traceparent`, for requests, and `set(name, value)`. The trace
        has spans, too, in whose middle the job was killed: they end with it, with the status "killed". Without a trace
        this does nothing. Of one attempt 1,000 are told, each with 64 attributes of 1,000 characters.
        """
        from killable.workers.authoring.spans import Span

        return Span(self.spans_told(), name, attributes)

    def spans_told(self) -> Spans | None:
        """Return what tells the supervisor of spans; None: it wants to hear of none. Jobs have no need of this."""
        if self._tells_spans and self._spans is None:
            from killable.workers.authoring.spans import Spans  # here: in a new worker it takes 0.5 ms

            self._spans = Spans.of(self._channel, self.traceparent, self.tracestate)
        return self._spans

    def shield(self) -> Shield:
        """Defer `Stopping` and `OperationTimedOut` during a critical section: `with ctx.shield():`.

        They are raised at its end; `stopping` is set before that. SIGKILL is not deferred: it comes when the grace
        period is over. Shields nest.
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
