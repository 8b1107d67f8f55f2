"""One run of one job function inside the worker: bind, call or drive, and say how it ended.

Runs in: worker.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import sys
import time
import traceback
from collections.abc import Mapping
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from killable.workers.authoring.context import Context, Stopping
from killable.workers.authoring.job_functions import InputError, JobFunction
from killable.workers.authoring.operations import OperationTimedOut
from killable.workers.exit_codes import ExitCode
from killable.workers.protocol.codec import Codec, Unserializable
from killable.workers.protocol.frames import FRAME_BYTES_MAX
from killable.workers.protocol.messages import Entered, Kind, Raised, Run
from killable.workers.protocol.shared_memory import SealedInput
from killable.workers.runtime.frame_writer import FrameWriter
from killable.workers.runtime.removal import remove_tree
from killable.workers.runtime.rlimits import ResourceLimits

if TYPE_CHECKING:
    from killable.workers.runtime.stop_signal import StopSignal

Closing = tuple[Kind, bytes]

_OURS = (__name__, "killable.workers.runtime.executor_jobs", "killable.workers.runtime.executor_setup")
CORRELATION_VARIABLE = "KILLABLE_CORRELATION_ID"
_TRACEBACK_CHARS_MAX = 64 << 10
"""More than a hundred frames; it is in the record of the job, and in its last event."""
_FAULT_CHARS_MAX = 1000
"""Of a pointer or a message: either may have a text of the input in it."""
_FAULTS_MAX = 100
"""More than a person reads; a list of a million items may have as many."""


class Execution:
    """An order to run, and the exit code that the process is to end with after it."""

    def __init__(
        self,
        run: Run,
        limits: dict[str, Any],
        registered: Mapping[str, JobFunction],
        codec: Codec,
        channel: FrameWriter,
        tmp: str,
        rlimits: ResourceLimits,
        data_bytes: int | None,
        *,
        sealed: SealedInput | None = None,
        result_buffer: int = -1,
    ) -> None:
        """`data_bytes` is the worker's private memory before the job: `memory_bytes` limits the growth over it. None:
        it is measured when that is to be held.

        `sealed` is the input where the order has none; it is closed here. `result_buffer` is a file for a large result.
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
        self._result_buffer = result_buffer
        self._context: Context | None = None
        self.exit_code: int = ExitCode.RETIRED

    @property
    def has_tmp(self) -> bool:
        """Whether the job has asked for its private directory."""
        return self._context is not None and self._context.tmp_path_if_made is not None

    def remove_tmp(self) -> None:
        """Remove that, for a worker that lives on; else the supervisor does it."""
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
            # Between two lines of ours it may come after the job had returned.
            _forget(stop_signal)
            if closing is None and isinstance(error, Stopping):
                self.exit_code = ExitCode.TERMINATED
                closing = _closing(Raised("stopped"))
            elif closing is None:
                closing = _closing(self._told(error))
        return closing

    def _outcome(self, stop_signal: StopSignal) -> Closing:
        run = self._run
        job = self._registered.get(run.type)
        if job is None:
            self.exit_code = ExitCode.BAD_ASSIGNMENT
            return _closing(Raised("assignment", message=f"this pool has no job type {run.type!r}"))
        try:
            stop_signal.answer_missed()  # a stop that came right behind the order, its bell before anyone listened
            self._rlimits.hold(self._limits, self._data_bytes)
            _set_correlation_id(run.correlation_id)
            context = Context(
                self._channel,
                job_id=run.job_id,
                attempt=run.attempt,
                tags=run.tags,
                limits=self._limits,
                correlation_id=run.correlation_id,
                tmp=self._tmp,
                stop_signal=stop_signal,
            )
            self._context = context
            arguments = job.bind(self._input(), context)
            if run.announce:
                self._channel.send(Kind.ENTERED, Entered(time.monotonic()).encode())
            value = job.function(**arguments)
            if isinstance(value, GeneratorType):  # of a generator function, or of one that returns what another made
                stop_signal.generator = generator = value
                try:
                    value = self._drive(generator, stop_signal)
                finally:  # what it has begun is ended while a stop is still heard
                    with contextlib.suppress(Exception):  # why it is ended says more
                        generator.close()
            payload = self._codec.encode_result(value, self._result_buffer)
            if payload is not None and len(payload) > FRAME_BYTES_MAX:
                bound = f"it takes {len(payload)} bytes, and {FRAME_BYTES_MAX} at most go through a pipe"
                raise Unserializable("$", type(value).__qualname__, bound)
            return (Kind.RESULT_SHM, b"") if payload is None else (Kind.RESULT, payload)
        except Stopping:
            raise
        except BaseException as error:
            return _closing(self._told(error))

    def _told(self, error: BaseException) -> Raised:
        """Return what happened; it is told even where telling it fails."""
        try:
            return self._explain(error)
        except Stopping:
            raise
        except BaseException as broken:
            why = f"<telling of it raised {_qualified_name(type(broken))}>"
            return Raised("exception", _qualified_name(type(error)), why)

    def _input(self) -> Any:
        """Decode the input, out of the sealed memory itself if it came so; the job sees nothing of that."""
        if not self._run.sealed:
            return self._codec.decode_input(self._run.input)
        if self._sealed is None:
            raise OSError(errno.EMFILE, "no descriptor is left in this process for the job's input")
        try:
            with self._sealed.mapped() as content:
                return self._codec.decode_input(content)
        finally:
            self._sealed.close()

    def _drive(self, generator: GeneratorType[Any, Any, Any], stop_signal: StopSignal) -> Any:
        """Send each yield and return the generator's value; what is raised between two yields goes in by throw().

        Python runs signal handlers where a loop jumps back, too: the inner loop does that inside the `try`, and where
        the outer one does a shield is up. What was raised there would end the job behind its own back.
        """
        raised: Stopping | OperationTimedOut | None = None
        token = self._channel.token
        while True:
            try:
                if raised is not None:
                    stop_signal.shields -= 1
                    stop_signal.raise_deferred()  # replaces the earlier one: same or outer stop
                    token(generator.throw(raised))
                while True:
                    token(next(generator))
            except StopIteration as end:
                return end.value
            except (Stopping, OperationTimedOut) as error:
                if generator.gi_frame is None:
                    raise  # the generator has ended with it
                raised = error
                stop_signal.shields += 1

    def _explain(self, error: BaseException) -> Raised:
        """Return what happened in the job's own terms."""
        if isinstance(error, InputError):
            self.exit_code = ExitCode.BAD_PAYLOAD
            faults = [{name: text[:_FAULT_CHARS_MAX] for name, text in each.items()} for each in error.facts]
            return Raised("payload", type(error).__name__, _message(error), faults=faults[:_FAULTS_MAX])
        if isinstance(error, Unserializable):
            return Raised("unserializable", error.type_name, _message(error))
        if isinstance(error, SystemExit):
            self.exit_code = _system_exit_code(error)
            return Raised("exit", exit_code=self.exit_code)
        self._rlimits.lift()  # to tell what happened takes some memory, and files
        cause = "exception"
        if isinstance(error, OperationTimedOut):
            cause = "operation"
        elif self._limits.get("memory_bytes") is not None and _lacks_memory(error):
            cause = "memory"  # where nothing limits it, it is an exception like any other
        elif isinstance(error, OSError) and error.errno == errno.EMFILE:
            cause = "files"
        return Raised(
            cause,
            _qualified_name(type(error)),
            _message(error),
            self._traceback(error),
            pickled=base64.b64encode(self._codec.encode_exception(error)).decode(),
        )

    def _traceback(self, error: BaseException) -> str:
        """Format the job's part of the traceback: our own frames say nothing to its author."""
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_globals.get("__name__") in _OURS:
            frames = frames.tb_next
        try:
            text = "".join(traceback.format_exception(type(error), error, frames))
        except Exception as broken:  # a hostile __str__ or __repr__
            text = f"{_qualified_name(type(error))}: <its traceback raised {type(broken).__name__}>\n"
        return text[-_TRACEBACK_CHARS_MAX:]


def _lacks_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def _set_correlation_id(correlation_id: str) -> None:
    """For the job's own children; a reused worker must not pass on an earlier job's."""
    if correlation_id:
        os.environ[CORRELATION_VARIABLE] = correlation_id
    else:
        os.environ.pop(CORRELATION_VARIABLE, None)


def _forget(stop_signal: StopSignal) -> None:
    """Have nothing raised any more: the end of another operation, and a stop, may come right here."""
    while True:
        try:
            stop_signal.forget()
            return
        except (Stopping, OperationTimedOut):
            pass


def _closing(raised: Raised) -> Closing:
    return Kind.RAISED, raised.encode()


def _system_exit_code(error: SystemExit) -> int:
    """As the interpreter does it: None is 0, a number is itself, anything else is printed and 1."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    with contextlib.suppress(Exception):  # the job may have closed it
        print(error.code, file=sys.stderr)
    return 1


def _qualified_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error)[:4096]
    except Exception as broken:
        return f"<its __str__ raised {type(broken).__name__}>"
