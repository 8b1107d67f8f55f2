"""One run of a job function inside the worker: bind the input, call or iterate, and report how it ended.

Runs in: worker.
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from killable.workers.authoring import context
from killable.workers.authoring.context import Context, Stopping
from killable.workers.authoring.operations import OperationTimedOut
from killable.workers.authoring.registered_types import InputError, RegisteredJob
from killable.workers.exit_codes import ExitCode
from killable.workers.protocol.call_message import CallMessage
from killable.workers.protocol.codec import Codec, TooLarge, Unserializable
from killable.workers.protocol.frames import FRAME_BYTES_MAX
from killable.workers.protocol.message_bounds import (
    EXCEPTION_CHARS_MAX,
    FAULT_CHARS_MAX,
    FAULTS_MAX,
    TRACEBACK_CHARS_MAX,
)
from killable.workers.protocol.messages import Entered, Kind, Raised, Run
from killable.workers.protocol.shared_memory import MemoryFile, SealedInput
from killable.workers.runtime import trace_place
from killable.workers.runtime.frame_writer import FrameWriter
from killable.workers.runtime.rlimits import ResourceLimits
from killable.workers.runtime.tmp_removal import remove_tree

if TYPE_CHECKING:
    from killable.workers.runtime.sigterm_handler import StopSignal

Closing = tuple[Kind, bytes | list[bytes]]

_OWN_MODULES = (
    __name__,
    "killable.workers.runtime.call_execution",
    "killable.workers.runtime.executor_jobs",
    "killable.workers.runtime.executor_setup",
    "killable.workers.commands.command_execution",
    "killable.workers.commands.command_files",
    "killable.workers.commands.command_output",
)
_RETRY_MODULE = "killable.workers.authoring.retry"
CORRELATION_VARIABLE = "KILLABLE_CORRELATION_ID"


class _NoSuchJob(Exception):
    """The order names a job type that this process has not registered."""


class Execution:
    """Runs one order, and has the exit code that the process ends with if it takes no further order."""

    def __init__(
        self,
        run: Run | CallMessage,
        limits: Mapping[str, Any],
        registered: Mapping[str, RegisteredJob],
        codec: Codec,
        channel: FrameWriter,
        tmp: str,
        rlimits: ResourceLimits,
        data_bytes: int | None,
        sealed: SealedInput | None = None,
        shared: Sequence[MemoryFile] = (),
        result_buffer: int = -1,
        staging: str = "",
        checkpoint: bytes | None = None,
    ) -> None:
        """`data_bytes` is the worker's private memory before the job; `memory_bytes` limits the growth over it. None:
        it is measured if the job has that limit.

        `staging` is the folder for files that the job saves; empty: it can save none.

        `sealed` is an input outside the order, `shared` are parts of it; they are closed here. `result_buffer` is a
        descriptor for a large result, `checkpoint` the last one of an earlier attempt.
        """
        self._run = run
        self._limits = limits
        self._registered = registered
        self._codec = codec
        self._channel = channel
        self._tmp = tmp
        self._rlimits = rlimits
        self._data_bytes = data_bytes
        self._sealed = sealed
        self._shared = shared
        self._result_buffer = result_buffer
        self._staging = staging
        self._checkpoint = checkpoint
        self._retried: tuple[type[Exception], ...] = ()
        self._context: Context | None = None
        self.exit_code: int = ExitCode.RETIRED

    @property
    def has_tmp(self) -> bool:
        """Whether the job has used its private directory."""
        return self._context is not None and self._context.tmp_path_if_made is not None

    def remove_tmp(self) -> None:
        """Remove the private directory. Only for a reused worker: otherwise the supervisor does it."""
        if self._context is not None and self._context.tmp_path_if_made is not None:
            remove_tree(self._context.tmp_path_if_made)

    def outcome(self, stop_signal: StopSignal, fence: int) -> Closing:
        """Run the job and return the closing frame."""
        closing: Closing | None = None
        try:
            stop_signal.expect(fence)
            closing = self._outcome(stop_signal)
            stop_signal.forget()
        except (Stopping, OperationTimedOut) as error:
            # It may be raised between two of these lines, after the job has returned.
            _forget(stop_signal)
            if closing is None and isinstance(error, Stopping):
                self.exit_code = ExitCode.TERMINATED
                closing = _closing(Raised("stopped"))
            elif closing is None:
                closing = _closing(self._told(error))
        return closing

    @property
    def _order(self) -> Run:
        assert type(self._run) is Run
        return self._run

    def _outcome(self, stop_signal: StopSignal) -> Closing:
        try:
            stop_signal.obey_missed_orders()  # a stop right after the order, whose signal came before `expect`
            self._rlimits.hold(self._limits, self._data_bytes)
            value = self._start(stop_signal)
            if isinstance(value, GeneratorType):  # the job is a generator function, or returns a generator
                stop_signal.generator = generator = value
                try:
                    value = self._drive(generator, stop_signal)
                finally:  # its clean-up runs while a stop can still interrupt it
                    with contextlib.suppress(Exception):  # the exception that ended it matters more
                        generator.close()
            payload = self._codec.encode_result(value, self._result_buffer)
            if type(payload) is bytes and len(payload) > FRAME_BYTES_MAX:
                bound = f"it takes {len(payload)} bytes, and a pipe takes at most {FRAME_BYTES_MAX}"
                raise TooLarge("$", type(value).__qualname__, bound)
            return (Kind.RESULT_SHM, b"") if payload is None else (Kind.RESULT, payload)
        except Stopping:
            raise
        except BaseException as error:
            return _closing(self._told(error))

    def _told(self, error: BaseException) -> Raised:
        """Describe an exception of the job, even if describing it raises."""
        try:
            return self._explain(error)
        except Stopping:
            raise
        except BaseException as broken:
            why = f"<describing it raised {_qualified_name(type(broken))}>"
            return Raised("exception", _qualified_name(type(error)), why)

    def _input(self) -> Any:
        """Decode the input from the order, or directly from the memory files that came with it."""
        run = self._order
        if not (run.sealed or run.shared):
            return self._codec.decode_input(run.input)
        files = [*([] if self._sealed is None else [self._sealed]), *self._shared]
        if len(files) < run.sealed + run.shared:
            raise OSError(errno.EMFILE, "no file descriptor is free in this process for the job's input")
        try:
            return self._codec.decode_input(run.input if self._sealed is None else self._sealed.map(), self._shared)
        finally:
            for file in files:
                file.close()

    def _start(self, stop_signal: StopSignal) -> Any:
        """Call the job function; return its value, or the generator that it is."""
        order = self._order
        job = self._registered.get(order.type)
        if job is None:
            raise _NoSuchJob(f"this pool has no job type {order.type!r}")
        self._retried = job.retried
        _set_correlation_id(order.correlation_id)
        context.given_files = order.files
        made, value = self._make_context(stop_signal), self._input()
        trace_place.take((order.traceparent, order.tracestate), made.spans_told)
        arguments = job.bind(value, made)
        self._announce()
        return job.function(**arguments)

    def _announce(self) -> None:
        if self._order.announce:
            self._channel.send(Kind.ENTERED, Entered(time.monotonic()).encode())

    def _make_context(self, stop_signal: StopSignal) -> Context:
        run = self._order
        self._context = Context(
            self._channel,
            job_id=run.job_id,
            attempt=run.attempt,
            tags=run.tags,
            limits=run.limits_in_force(),  # a copy: the job may change it
            correlation_id=run.correlation_id,
            traceparent=run.traceparent,
            tracestate=run.tracestate,
            tells_spans=run.spans,
            tmp=self._tmp,
            stop_signal=stop_signal,
            staging=self._staging,
            previous_checkpoint=None if self._checkpoint is None else self._decode_checkpoint,
        )
        return self._context

    def _decode_checkpoint(self) -> Any:
        assert self._checkpoint is not None
        return self._codec.decode_value(self._checkpoint)

    def _drive(self, generator: GeneratorType[Any, Any, Any], stop_signal: StopSignal) -> Any:
        """Send each yield and return the generator's value. An exception between two yields goes in by throw().

        Python also runs signal handlers at a loop's backward jump. The inner loop's jump is inside the `try`, and at
        the outer loop's a shield is held: an exception there would end the job without passing through it.
        """
        raised: Stopping | OperationTimedOut | None = None
        token = self._channel.token
        while True:
            try:
                if raised is not None:
                    stop_signal.shields -= 1
                    stop_signal.raise_deferred()  # it replaces `raised`: the same stop or an outer one
                    token(generator.throw(raised))
                while True:
                    token(next(generator))
            except StopIteration as end:
                return end.value
            except (Stopping, OperationTimedOut) as error:
                if generator.gi_frame is None:
                    raise  # the generator has ended
                raised = error
                stop_signal.shields += 1

    def _explain(self, error: BaseException) -> Raised:
        """Classify an exception of the job and set the exit code."""
        if isinstance(error, _NoSuchJob):
            self.exit_code = ExitCode.BAD_ASSIGNMENT
            return Raised("assignment", message=str(error))
        if isinstance(error, InputError):
            self.exit_code = ExitCode.BAD_PAYLOAD
            faults = [{name: text[:FAULT_CHARS_MAX] for name, text in each.items()} for each in error.facts]
            return Raised("payload", type(error).__name__, _message(error), faults=faults[:FAULTS_MAX])
        if isinstance(error, Unserializable):
            cause = "too_large" if isinstance(error, TooLarge) else "unserializable"
            return Raised(cause, error.type_name, _message(error))
        if isinstance(error, SystemExit):
            self.exit_code = _system_exit_code(error)
            return Raised("exit", message=_words_of(error), exit_code=self.exit_code)
        self._rlimits.restore()  # a traceback takes memory and reads files
        cause = "exception"
        if isinstance(error, OperationTimedOut):
            cause = "operation"
        elif self._limits.get("memory_bytes") is not None and _lacks_memory(error):
            cause = "memory"  # without a memory limit it is an ordinary exception
        elif isinstance(error, OSError) and error.errno == errno.EMFILE:
            cause = "files"
        is_transient, after_s = _asks_again(error, self._retried)
        return Raised(
            cause,
            _qualified_name(type(error)),
            _message(error),
            self._traceback(error),
            pickled=binascii.b2a_base64(self._codec.encode_exception(error), newline=False).decode(),
            is_transient=is_transient,
            after_s=after_s,
            errno=_name_of_errno(error),
        )

    def _traceback(self, error: BaseException) -> str:
        """Format the traceback without the leading frames of this project."""
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_globals.get("__name__") in _OWN_MODULES:
            frames = frames.tb_next
        try:
            text = "".join(traceback.format_exception(type(error), error, frames))
        except Exception as broken:  # a hostile __str__ or __repr__
            text = f"{_qualified_name(type(error))}: <its traceback raised {type(broken).__name__}>\n"
        return text[-TRACEBACK_CHARS_MAX:]


def _name_of_errno(error: BaseException) -> str:
    """Return the name of an OSError's number (errno(3)); empty: it has none, or one that is not known."""
    number = error.errno if isinstance(error, OSError) else None
    return errno.errorcode.get(number, "") if type(number) is int else ""


def _asks_again(error: BaseException, retried: tuple[type[Exception], ...]) -> tuple[bool, float | None]:
    """Return whether the author wants another attempt after an exception, and after how many seconds."""
    retry = sys.modules.get(_RETRY_MODULE)  # whoever raises a Retry has imported it
    if retry is not None and isinstance(error, retry.Retry):
        return True, error.after_s
    return isinstance(error, retried), None


def _lacks_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


_has_correlation_id = CORRELATION_VARIABLE in os.environ
"""Whether an earlier job had one. To look for the variable each time would take 2 µs."""


def _set_correlation_id(correlation_id: str) -> None:
    """Set the correlation id in the environment of the job's children, or remove that of an earlier job."""
    global _has_correlation_id
    if correlation_id:
        os.environ[CORRELATION_VARIABLE] = correlation_id
    elif _has_correlation_id:
        os.environ.pop(CORRELATION_VARIABLE, None)
    _has_correlation_id = bool(correlation_id)


def _forget(stop_signal: StopSignal) -> None:
    """Call `forget` until it completes: an operation timeout or a stop may be raised inside it."""
    while True:
        try:
            stop_signal.forget()
            return
        except (Stopping, OperationTimedOut):
            pass


def _closing(raised: Raised) -> Closing:
    return Kind.RAISED, raised.encode()


def _system_exit_code(error: SystemExit) -> int:
    """Return the exit code as the interpreter does: None is 0, an int is itself, anything else is printed and is 1."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    with contextlib.suppress(Exception):  # the job may have closed stderr
        print(error.code, file=sys.stderr)
    return 1


def _words_of(error: SystemExit) -> str:
    """Return what a command's own failure says (`CommandFailed`); empty for any other exit."""
    words = getattr(error, "message", "")
    return words[:4096] if isinstance(words, str) else ""


def _qualified_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error)[:EXCEPTION_CHARS_MAX]
    except Exception as broken:
        return f"<its __str__ raised {type(broken).__name__}>"
