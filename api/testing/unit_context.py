"""A Context for unit tests of a job function: without a process, a server or a second of real time.

Runs in: any machine.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from killable.workers.authoring import context as authoring
from killable.workers.authoring.context import Stopping
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, parse_limit
from killable.workers.authoring.operations import Operations, OperationTimedOut
from killable.workers.authoring.saved_files import save
from killable.workers.protocol.codec import CODECS
from killable.workers.protocol.messages import Kind, OperationEntered, OperationLeft


class UnitContext(authoring.Context):
    """A `killable.Context` that collects what the job does with it, and can ask it to stop.

        ctx = Context(limits={"run_s": 60})
        assert ctx.run(my_jobs.split, text="one two") == {"words": 2}
        assert ctx.tokens == ["one", "two"]

    `sleep` takes no time: it only counts, towards `run_s` and the timeouts of operations, too. A stop is raised where
    the job can next notice one: at a `yield`, or in a call of the context.
    """

    def __init__(
        self, *, limits: Mapping[str, Any] | None = None, job_id: str = "job-unit-test", attempt: int = 1,
        tags: Mapping[str, str] | None = None, correlation_id: str = "", tmp: Path | str | None = None,
        previous_checkpoint: Any = None,
    ) -> None:  # fmt: skip
        """`limits`: as in `@job` (`{"run_s": "1m"}`); the others have their defaults. `tmp`: where `ctx.tmp` is made,
        such as pytest's `tmp_path`. `previous_checkpoint`: what an earlier attempt laid down, for an `attempt` above 1.
        Raise ValueError for a limit that is none.
        """
        unknown = (limits or {}).keys() - DEFAULT_LIMITS.keys()
        if unknown:
            raise ValueError(f"there is no limit {min(unknown)!r}")
        own = {name: parse_limit(name, value) for name, value in (limits or {}).items()}
        self._stops = _Stops()
        self._record = _Record(self)
        super().__init__(
            self._record, job_id=job_id, attempt=attempt, tags=tags, limits={**DEFAULT_LIMITS, **own},
            correlation_id=correlation_id, tmp=tmp, stop_signal=self._stops,
            previous_checkpoint=lambda: copy.deepcopy(previous_checkpoint),
        )  # fmt: skip
        self.tokens: list[Any] = []
        """What it has yielded and emitted."""
        self.reports: list[dict[str, Any]] = []
        """Its calls of `progress`: `{done, total, unit}` each."""
        self.checkpoints: list[Any] = []
        """Its calls of `checkpoint`."""
        self.files: dict[str, bytes] = {}
        """What it has saved with `save_file`: the content of each, by its name."""
        self.logs: list[str] = []
        """Lines that it has printed while `run` ran it."""
        self.slept_s = 0.0
        """Seconds that it would have slept."""
        self._passed_s = 0.0
        self._stop_after: int | None = None
        self._stop_with: dict[str, Any] = {}

    @property
    def partial(self) -> Any:
        """The last checkpoint; None: there was none."""
        return self.checkpoints[-1] if self.checkpoints else None

    # ── for the test ──

    def run(self, function: Callable[..., Any], /, **input: Any) -> Any:
        """Call a job function, with this context if it has a parameter for it, and return its result.

        A generator is run to its end: what it yields is in `tokens`. What the job raises is raised, `Stopping` if it
        was asked to stop and has not caught that. Raise TypeError for input that the function does not take.
        """
        parameter = _context_parameter(function)
        if parameter is not None and parameter not in input:
            input[parameter] = self
        with self._collecting_output():
            value = function(**input)
            return self._drive(value) if isinstance(value, Generator) else value

    def stop(self, cause: str = "cancelled", *, by: str = "user", reason: str = "", grace_s: float = 5.0) -> None:
        """Ask the job to stop: `Stopping` is raised where it can next notice it. `cause` is an error code. A second
        call changes nothing, as a second cancel does not.
        """
        self._stops.ask(Stopping(cause, by=by, reason=reason, grace_s=grace_s, deadline=_deadline(grace_s)))

    def stop_after(self, tokens: int, cause: str = "cancelled", **how: Any) -> None:
        """Ask it to stop once it has streamed so many tokens; `how` as in `stop`."""
        self._stop_after, self._stop_with = tokens, {"cause": cause, **how}

    def pass_time(self, s: float) -> None:
        """Let seconds of its `run_s` go by. At its end the job is asked to stop, by `timeout.run`; operations whose
        timeout is over end as they are declared to.
        """
        self._passed_s += s
        for operation in self._record.operations.values():
            operation.left_s = None if operation.left_s is None else operation.left_s - s
        over = next((each for each in self._record.operations.values() if (each.left_s or 1) <= 0), None)
        if over is not None and over.raises:
            self._stops.expire(OperationTimedOut(over.path, over.timeout_s or 0.0))
            over.left_s = None
        elif over is not None:
            self.stop("timeout.operation", by="supervisor")
        if self.remaining_s == 0:
            self.stop("timeout.run", by="supervisor")

    # ── for the job ──

    @property
    def remaining_s(self) -> float | None:
        """Seconds until `run_s` is over, by the time that the test and `sleep` let pass; None if it has no `run_s`."""
        run_s = self.limits.get("run_s")
        return None if run_s is None else max(0.0, float(run_s) - self._passed_s)

    def sleep(self, s: float) -> None:
        """Count the time, and take none. Raise ValueError for a negative number of seconds."""
        if s < 0:
            raise ValueError("sleep length must be non-negative")
        self.slept_s += s
        self.pass_time(s)
        self._stops.raise_deferred()

    def save_file(self, source: str | os.PathLike[str] | bytes, name: str = "", *, content_type: str = "") -> None:
        """Keep the content in `files`. Raise ValueError and OSError as a worker does."""
        with tempfile.TemporaryDirectory() as staging:
            saved = save(source, name, content_type, 1, staging=staging, tmp=self._tmp)
            self.files[saved.name] = Path(staging, "1").read_bytes()

    def _took(self) -> None:
        """The job has streamed a token: it may be asked to stop now."""
        if self._stop_after is not None and len(self.tokens) >= self._stop_after:
            self.stop(**self._stop_with)

    def _drive(self, generator: Generator[Any, Any, Any]) -> Any:
        raised: BaseException | None = None
        try:
            while True:
                self._record.note_token(next(generator) if raised is None else generator.throw(raised))
                raised = self._stops.take()
        except StopIteration as end:
            return end.value
        finally:
            generator.close()

    @contextlib.contextmanager
    def _collecting_output(self) -> Iterator[None]:
        collected = io.StringIO()
        with (
            contextlib.redirect_stdout(_Tee(sys.stdout, collected)),
            contextlib.redirect_stderr(_Tee(sys.stderr, collected)),
        ):
            try:
                yield
            finally:
                self.logs += collected.getvalue().splitlines()


class _Stops:
    """Implements `StopState`: what is to be raised, and whether a shield defers it."""

    def __init__(self) -> None:
        self.stopping: Stopping | None = None
        self.operations: Operations | None = None
        self.shields = 0
        self._due: list[BaseException] = []

    def ask(self, stopping: Stopping) -> None:
        if self.stopping is None:
            self.stopping = stopping
            self._due.append(stopping)

    def expire(self, error: OperationTimedOut) -> None:
        self._due.insert(0, error)

    def take(self) -> BaseException | None:
        """Return what is to be raised now; None: nothing, or a shield is held."""
        return self._due.pop(0) if self._due and self.shields == 0 else None

    def raise_deferred(self) -> None:
        if (due := self.take()) is not None:
            raise due


class _Entered:
    def __init__(self, message: OperationEntered) -> None:
        self.path, self.timeout_s, self.raises = message.path, message.timeout_s, message.raises
        self.left_s = message.timeout_s


class _Record:
    """Implements `Output`: collects, as the pipe of a worker takes it. Raise Unserializable for what that refuses."""

    def __init__(self, context: UnitContext) -> None:
        self._context = context
        self._codec = CODECS["json"]
        self.operations: dict[int, _Entered] = {}

    def note_token(self, value: Any) -> None:
        self._codec.encode_token(value)
        self._context.tokens.append(value)
        self._context._took()

    def token(self, value: Any) -> None:
        self.note_token(value)
        self._context._stops.raise_deferred()

    def progress(self, value: dict[str, Any]) -> None:
        self._codec.encode_value(value)
        self._context.reports.append(value)
        self._context._stops.raise_deferred()

    def checkpoint(self, value: Any) -> None:
        self._codec.encode_value(value)
        self._context.checkpoints.append(value)
        self._context._stops.raise_deferred()

    def send(self, kind: int, payload: bytes) -> None:
        if kind == Kind.OPERATION:
            entered = OperationEntered.decode(payload)
            self.operations[entered.number] = _Entered(entered)
        elif kind == Kind.OPERATION_LEFT:
            self.operations.pop(OperationLeft.decode(payload).number, None)


class _Tee(io.TextIOBase):
    """Writes to the test's own stream, and to what is collected."""

    def __init__(self, stream: TextIO, collected: io.StringIO) -> None:
        self._stream, self._collected = stream, collected

    def write(self, text: str) -> int:
        self._collected.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()


def _context_parameter(function: Callable[..., Any]) -> str | None:
    from killable.workers.authoring.function_signature import read_parameters

    return read_parameters(function, typed=False).context


def _deadline(grace_s: float) -> float:
    import time

    return time.monotonic() + grace_s
