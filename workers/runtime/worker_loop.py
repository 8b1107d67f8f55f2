"""The main loop of a worker: report ready, run one attempt after another, exit.

Runs in: worker. Orders come through the orders socket; a signal only makes the worker read it at once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import signal
import struct
import sys
import termios
import time
from collections.abc import Mapping
from typing import Any, NoReturn, TextIO

from killable.workers.authoring.preloads import has_preloads, run_preloads
from killable.workers.authoring.registered_types import registered
from killable.workers.exit_codes import ExitCode
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol import named_memory_log
from killable.workers.protocol.call_message import CallMessage, decode_call
from killable.workers.protocol.codec import CODECS
from killable.workers.protocol.frames import Frame, FrameError, encode
from killable.workers.protocol.messages import RAN_SECONDS, Broken, Idle, Kind, Ready, Run, parsed_limits
from killable.workers.protocol.shared_memory import SealedInput, SharedPart
from killable.workers.protocol.token_ring import TokenRingWriter
from killable.workers.protocol.zygote_messages import Configure
from killable.workers.runtime import named_memory_hooks, process_setup, program_logging
from killable.workers.runtime.call_reader import CallReader
from killable.workers.runtime.crash_stack import CrashStack
from killable.workers.runtime.dump_signal import DUMP_SIGNAL
from killable.workers.runtime.execution import Execution
from killable.workers.runtime.frame_writer import FrameWriter
from killable.workers.runtime.leftover_memory import segments_of
from killable.workers.runtime.order_reader import OrderReader
from killable.workers.runtime.process_setup import flush_c_streams
from killable.workers.runtime.reuse_check import Baseline, TaskFolder
from killable.workers.runtime.rlimits import ResourceLimits, measure_data_bytes
from killable.workers.runtime.sigterm_handler import StopSignal
from killable.workers.runtime.warmup import call_message, warm_up

pack_seconds = struct.Struct(RAN_SECONDS).pack
SHORT_ID_CHARS = len("job-3f2a91c0")
"""Of a job's id in the title of its process: enough to find it, and too few to read it by."""
_NO_BYTES = struct.pack("i", 0)
"""What ioctl(FIONREAD) returns for an empty pipe (ioctl_tty(2))."""


class WorkerEnds(NamedTuple):
    """A worker's descriptors: orders and calls in (sockets), frames out, notifications out, the stacks' memory file."""

    orders: int
    line: int
    frames: int
    notifications: int
    stack: int
    tokens: int


def run_worker(pipes: WorkerEnds, configure: Configure, tmp: str, move: process_setup.CgroupMove) -> NoReturn:
    """Run orders until they end; never returns. Attempts make their private directories in `tmp`."""
    code: int = ExitCode.HARNESS_BUG
    try:
        code = _serve(pipes, configure, tmp, move)
    except BrokenPipeError:
        code = ExitCode.PIPE_GONE
    except FrameError:
        code = ExitCode.PROTOCOL
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _flush()
        os._exit(code)  # runs no finalizers of the zygote and waits for no threads


def report_broken(frames: int, why: str, errno: int | None = None) -> None:
    """Report through the frames pipe that this worker cannot become ready. `why` is a sentence or a traceback."""
    os.write(frames, encode(Kind.BROKEN, 0, 0, Broken(why, errno).encode()))


def _serve(pipes: WorkerEnds, configure: Configure, tmp: str, move: process_setup.CgroupMove) -> int:
    sys.stdout, sys.stderr = _open_stream(1), _open_stream(2)
    named_memory_hooks.names.install(os.path.join(tmp, named_memory_log.LOG_NAME))
    if configure.setup:
        from killable.workers.runtime.worker_identity import take_name

        take_name(os.path.basename(tmp))
    name = os.path.basename(tmp).removesuffix(configure.tmp_suffix)
    process_setup.title.set(f"killable: worker {name} {configure.pool}")
    process_setup.set_name(f"killable-{name}")
    if has_preloads(each_worker=True):
        move.make()
    try:
        run_preloads(each_worker=True)
    except BaseException as error:
        from killable.workers.runtime.job_type_catalogue import traceback_of

        report_broken(pipes.frames, traceback_of(error))
        return ExitCode.NOT_IMPORTABLE
    worker = Harness(pipes, configure, tmp, name)
    warm_up(tmp, CODECS[configure.codec])
    if (
        configure.codec == "pickle" and not named_memory_hooks.names.left()
    ):  # its end would hand over what a preload has made
        worker.rehearse(call_message())
    os.write(pipes.frames, encode(Kind.READY, 0, 0, Ready(move.make()).encode()))  # the kernel got ready meanwhile
    return worker.serve()


class Harness:
    """Waits for orders, runs attempts, and reports after each whether this worker can take another."""

    def __init__(self, pipes: WorkerEnds, configure: Configure, tmp: str, name: str) -> None:
        self._pipes = pipes
        self._jobs_max = configure.jobs_per_worker_max
        self._tmp = tmp
        self._title = f"killable: worker {name}"
        self._idle_title = f"{self._title} {configure.pool}"
        self._staging = configure.staging(tmp)
        self._codec = CODECS[configure.codec]
        self._line = CallReader(pipes.line)
        self._orders = OrderReader(pipes.orders, pipes.line)
        self._stop_signal = StopSignal(pipes.notifications, pipes.stack, self._orders.order_for)
        self._channel = FrameWriter(pipes.frames, self._codec, self._stop_signal.answer, TokenRingWriter(pipes.tokens))
        os.close(pipes.tokens)
        self._stop_signal.channel = self._channel
        program_logging.connect(self._channel)
        self._registered = registered()
        faulthandler.register(DUMP_SIGNAL, file=pipes.stack, all_threads=True, chain=False)
        self._faults = CrashStack(pipes.stack)
        self._stop_signal.install()
        os.register_at_fork(after_in_child=self._close_in_child)
        self._baseline = Baseline.take()
        self._tasks = TaskFolder()
        self._rlimits = ResourceLimits(own_user=configure.uid is not None)
        self._data_bytes: int | None = measure_data_bytes()
        self._result_buffer = -1
        self._call_type: type[Execution] | None = None
        """None: this worker has had no call yet."""
        self._outputs = () if self._jobs_max == 1 else (os.dup(1), os.dup(2))
        """Its output pipes, whatever a job puts in their place; none in a worker that takes but one job."""
        self._checkpoint: Frame | None = None
        """What came before the next order: the last checkpoint of an earlier attempt of its job."""
        self._since = time.time()
        self._served = 0
        self._last = 0
        """The fence of the last call or order; negative: it ended with IDLE. A call that was sent after another one is
        passed over.
        """

    def serve(self) -> int:
        """Run orders and calls until the last one; return the exit code of this process."""
        code: int | None = None
        while code is None:
            message = self._line.receive()
            if message is not None:
                code = self._run_call(message)
            elif not self._orders.wait():
                return ExitCode.RETIRED
            elif (order := self._orders.next()) is None:
                continue
            elif order.kind == Kind.CHECKPOINT_BEFORE:
                self._checkpoint = order
            elif order.kind == Kind.RUN:
                code = self._run_order(order)  # any other order is a stop for an attempt that is over
        return code

    def rehearse(self, message: bytes) -> None:
        """Run a call whose frames go nowhere. What the first call touches has then been copied from the zygote's."""
        channel, null = self._channel, os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._channel = self._stop_signal.channel = FrameWriter(null, self._codec, self._stop_signal.answer)
        self._run_call(message)
        self._channel = self._stop_signal.channel = channel
        self._served = self._last = 0
        os.close(null)

    def _run_order(self, order: Frame) -> int | None:
        """Run a job; return the exit code if it is the last one."""
        try:
            run = Run.decode(order.payload)
            limits = parsed_limits(run.limits)
        except (ValueError, TypeError):
            return ExitCode.BAD_ASSIGNMENT
        before, self._checkpoint = self._checkpoint, None
        checkpoint = before.payload if before is not None and before.fence == order.fence else None
        attempt = self._attempt(Execution, run, run, limits, self._orders, checkpoint)
        process_setup.title.set(f"{self._title} {run.type} {run.job_id[:SHORT_ID_CHARS]}")
        try:
            return self._run(attempt, order.fence, limits, is_call=False)
        finally:
            process_setup.title.set(self._idle_title)

    def _run_call(self, message: bytes) -> int | None:
        """Run a call of an Executor, unless it is given again; return the exit code if it is the last one."""
        try:
            call = decode_call(message)
            limits = parsed_limits(call.limits)
        except (ValueError, TypeError):
            return ExitCode.BAD_ASSIGNMENT
        if call.after != self._last:
            self._line.drop_descriptors()
            return None
        self._last = call.fence
        if self._call_type is None:
            from killable.workers.runtime import call_execution  # here: it declares job types, which only its pool has

            self._call_type, self._order_of = call_execution.CallExecution, call_execution.order_of
        order = None if not (call.flags or call.shared) else self._order_of(call)
        attempt = self._attempt(self._call_type, call, order, limits, self._line)
        return self._run(attempt, call.fence, limits, is_call=True)

    def _attempt(
        self,
        kind: type[Execution],
        run: Run | CallMessage,
        order: Run | None,
        limits: Mapping[str, Any],
        source: OrderReader | CallReader,
        checkpoint: bytes | None = None,
    ) -> Execution:
        """Make an attempt. `order` says which descriptors came with it from `source`; None: no descriptor."""
        return kind(
            run,
            limits,
            self._registered,
            self._codec,
            self._channel,
            self._tmp,
            self._rlimits,
            self._data_bytes,
            self._take_sealed(source) if order is not None and order.sealed else None,
            self._take_shared(source, order.shared) if order is not None and order.shared else (),
            self._hold_result_buffer(source) if order is not None and order.result_buffer else self._result_buffer,
            self._staging,
            checkpoint,
        )

    def _run(self, attempt: Execution, fence: int, limits: Mapping[str, Any], *, is_call: bool) -> int | None:
        """Run an attempt and report its end; return the exit code if this worker takes no other one."""
        self._served += 1
        began = time.perf_counter()
        self._channel.begin(fence)
        closing = attempt.outcome(self._stop_signal, fence)
        self._rlimits.restore()
        is_output_lost = self._flush_and_restore_output()
        closing_frames = [closing]
        is_last = self._stop_signal.stopping is not None or self._served == self._jobs_max
        change = "" if is_last else is_output_lost or self._baseline.changed(self._tasks, self._stop_signal)
        if is_call and closing[0] in (Kind.RESULT, Kind.RESULT_SHM):
            named_memory_hooks.names.hand_over()
        elif not (is_last or change):
            change = _memory_left(self._since)
        if not (is_last or change):
            if attempt.has_tmp:
                self._channel.close(closing_frames)  # first: removing the directory may outlast the job's time
                closing_frames = []
                attempt.remove_tmp()
            change = self._prepare_for_next(limits)  # before IDLE: the next order may come at once
        is_reusable = not (is_last or change)
        if is_call and is_reusable and closing[0] == Kind.RESULT and self._has_said_nothing():
            duration, value = pack_seconds(time.perf_counter() - began), closing[1]
            self._channel.close([(Kind.RAN, duration + value if type(value) is bytes else [duration, *value])])
            return None
        if closing[0] == Kind.RESULT_SHM:
            self._drop_result_buffer()
        self._last = -fence  # before IDLE: the next call may come at once
        self._channel.close([*closing_frames, (Kind.IDLE, Idle(is_reusable, change).encode())])
        return None if is_reusable else attempt.exit_code

    def _flush_and_restore_output(self) -> str:
        """Flush what the job has printed, and undo what it did to stdout and stderr: the next output would be lost.

        Return that it cannot be undone, or an empty string. It is done always: to look first takes longer.
        """
        is_flushed = _flush()
        try:
            if self._outputs:
                os.dup2(self._outputs[0], 1)
                os.dup2(self._outputs[1], 2)
        except OSError as error:
            return f"its output is closed ({error.strerror})"
        if not is_flushed:
            for number, name in enumerate(("stdout", "stderr"), 1):
                if _is_closed(getattr(sys, name)):
                    setattr(sys, name, _open_stream(number))
            _flush()
        return ""

    def _has_said_nothing(self) -> bool:
        """Return whether no frame of the attempt was written and no output waits to be read: its end is all."""
        if self._channel.sequence:
            return False
        try:
            for each in self._outputs:
                if fcntl.ioctl(each, termios.FIONREAD, _NO_BYTES) != _NO_BYTES:
                    return False
        except OSError:  # the job has closed the descriptor
            return False
        return True

    def _take_sealed(self, source: OrderReader | CallReader) -> SealedInput | None:
        descriptor = source.take_descriptor()
        return None if descriptor is None else SealedInput(descriptor)

    def _take_shared(self, source: OrderReader | CallReader, count: int) -> list[SharedPart]:
        descriptors = [source.take_descriptor() for _ in range(count)]
        return [SharedPart(each) for each in descriptors if each is not None]

    def _hold_result_buffer(self, source: OrderReader | CallReader) -> int:
        """Return the result buffer that came with this order, or an earlier one if this one was not received."""
        descriptor = source.take_descriptor()
        if descriptor is not None:
            self._drop_result_buffer()
            self._result_buffer = descriptor
        return self._result_buffer

    def _drop_result_buffer(self) -> None:
        if self._result_buffer >= 0:
            os.close(self._result_buffer)
            self._result_buffer = -1

    def _prepare_for_next(self, last: Mapping[str, Any]) -> str:
        """Install the signal handler and measure memory for the next job. Return why there can be none, or "".

        Memory is measured only if the last job had a `memory_bytes`: the next one mostly has the same limits. If it has
        the limit after all, memory is measured then.
        """
        self._stop_signal.install_handler()
        try:
            os.close(os.dup(self._pipes.frames))
            self._data_bytes = None if last.get("memory_bytes") is None else measure_data_bytes()
        except OSError as error:  # the job left no free descriptor
            return f"no more files can be opened ({error.strerror})"
        return ""

    def _close_in_child(self) -> None:
        """Detach a process that the job has forked: it takes no order and writes no notification and no frame."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._faults.close_in_child()
        self._stop_signal.forget()
        self._channel.detach_in_child()
        self._orders.close()
        self._line.close()
        self._drop_result_buffer()
        for descriptor in (*self._pipes[2:5], *self._outputs, self._tasks.descriptor):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _memory_left(since: float) -> str:
    """Return that a job has left memory that outlives it, or an empty string. It is removed with this worker, which
    exists since then (CLOCK_REALTIME seconds): a segment that is older was made by another process with its pid.
    """
    names = named_memory_hooks.names.left()
    try:
        has_segments = bool(segments_of([os.getpid()], since))
    except OSError as error:
        return f"it is not known whether shared memory is left ({error.strerror})"
    if names or has_segments:
        return "shared memory is left" + (f" ({names[0].name})" if names else "")
    return ""


def _open_stream(descriptor: int) -> TextIO:
    """Open stdout or stderr again: the zygote's object may have been opened for a file; it is a pipe now."""
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _is_closed(stream: object) -> bool:
    """Return whether nothing can be printed to a stream any more: it is closed, or has given its descriptor away."""
    try:
        return bool(getattr(stream, "closed", False))
    except ValueError:  # detached
        return True


def _flush() -> bool:
    """Flush what was printed; return whether it worked."""
    is_flushed = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            is_flushed = False  # the job closed it, or replaced it
    flush_c_streams()
    return is_flushed
