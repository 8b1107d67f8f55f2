"""The main loop of a worker: report ready, run one attempt after another, exit.

Runs in: worker. Orders come through the orders socket; a signal only makes the worker read it at once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn, TextIO

from killable.workers.authoring.preloads import run_preloads
from killable.workers.authoring.registered import registered
from killable.workers.exit_codes import ExitCode
from killable.workers.protocol.codec import CODECS
from killable.workers.protocol.control import Configure
from killable.workers.protocol.frames import FrameError, encode
from killable.workers.protocol.messages import Broken, Idle, Kind, Ready, Run
from killable.workers.protocol.shared_memory import SealedInput
from killable.workers.runtime.crash_stack import CrashStack
from killable.workers.runtime.dump_signal import DUMP_SIGNAL
from killable.workers.runtime.execution import Execution
from killable.workers.runtime.frame_writer import FrameWriter
from killable.workers.runtime.order_reader import OrderReader
from killable.workers.runtime.process_setup import flush_c_streams
from killable.workers.runtime.reuse_check import Baseline
from killable.workers.runtime.rlimits import ResourceLimits, measure_data_bytes
from killable.workers.runtime.stop_signal import StopSignal
from killable.workers.runtime.warmup import warm_up


class WorkerEnds(NamedTuple):
    """A worker's descriptors: orders in (a socket), frames out, notifications out, the memory file for stacks."""

    orders: int
    frames: int
    notifications: int
    stack: int


def run_worker(pipes: WorkerEnds, configure: Configure, tmp: str, cgroup_errno: int) -> NoReturn:
    """Run orders until they end; never returns. Attempts make their private directories in `tmp`."""
    code: int = ExitCode.HARNESS_BUG
    try:
        code = _serve(pipes, configure, tmp, cgroup_errno)
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


def _serve(pipes: WorkerEnds, configure: Configure, tmp: str, cgroup_errno: int) -> int:
    sys.stdout, sys.stderr = _open_stream(1), _open_stream(2)
    try:
        run_preloads(each_worker=True)
    except BaseException as error:
        import traceback

        report_broken(pipes.frames, "".join(traceback.format_exception(error)))
        return ExitCode.NOT_IMPORTABLE
    worker = Harness(pipes, configure, tmp)
    warm_up(tmp, CODECS[configure.codec])
    os.write(pipes.frames, encode(Kind.READY, 0, 0, Ready(cgroup_errno).encode()))
    return worker.serve()


class Harness:
    """Waits for orders, runs attempts, and reports after each whether this worker can take another."""

    def __init__(self, pipes: WorkerEnds, configure: Configure, tmp: str) -> None:
        self._pipes = pipes
        self._jobs_max = configure.jobs_per_worker_max
        self._tmp = tmp
        self._codec = CODECS[configure.codec]
        self._orders = OrderReader(pipes.orders)
        self._stop_signal = StopSignal(pipes.notifications, pipes.stack, self._orders.order_for)
        self._channel = FrameWriter(pipes.frames, self._codec, self._stop_signal.answer)
        self._stop_signal.channel = self._channel
        self._registered = registered()
        faulthandler.register(DUMP_SIGNAL, file=pipes.stack, all_threads=True, chain=False)
        self._faults = CrashStack(pipes.stack)
        self._stop_signal.install()
        os.register_at_fork(after_in_child=self._close_in_child)
        self._baseline = Baseline.take()
        self._rlimits = ResourceLimits(own_user=configure.uid is not None)
        self._data_bytes: int | None = measure_data_bytes()
        self._result_buffer = -1

    def serve(self) -> int:
        """Run orders until the last one; return the exit code of this process."""
        served = 0
        while True:
            order = self._orders.next()
            if order is None:
                return ExitCode.RETIRED
            if order.kind != Kind.RUN:
                continue  # a stop for an attempt that is over
            served += 1
            try:
                run = Run.decode(order.payload)
                limits = run.limits_in_force()
            except (ValueError, TypeError):
                return ExitCode.BAD_ASSIGNMENT
            attempt = Execution(
                run,
                limits,
                self._registered,
                self._codec,
                self._channel,
                self._tmp,
                self._rlimits,
                self._data_bytes,
                sealed=self._take_sealed(run),
                result_buffer=self._hold_result_buffer(run),
            )
            self._channel.begin(order.fence)
            closing = attempt.outcome(self._stop_signal, order.fence)
            self._rlimits.restore()
            _flush()
            closing_frames = [closing]
            is_last = self._stop_signal.stopping is not None or served == self._jobs_max
            change = "" if is_last else self._baseline.changed()
            if not (is_last or change):
                if attempt.has_tmp:
                    self._channel.close(closing_frames)  # first: removing the directory may outlast the job's time
                    closing_frames = []
                    attempt.remove_tmp()
                change = self._prepare_for_next(limits)  # before IDLE: the next order may come at once
            if closing[0] == Kind.RESULT_SHM:
                self._drop_result_buffer()
            idle = Idle(reusable=not (is_last or change), why=change)
            self._channel.close([*closing_frames, (Kind.IDLE, idle.encode())])
            if not idle.reusable:
                return attempt.exit_code

    def _take_sealed(self, run: Run) -> SealedInput | None:
        descriptor = self._orders.take_descriptor() if run.sealed else None
        return None if descriptor is None else SealedInput(descriptor)

    def _hold_result_buffer(self, run: Run) -> int:
        """Return the result buffer that came with this order or an earlier one; -1: none."""
        descriptor = self._orders.take_descriptor() if run.result_buffer else None
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
        self._drop_result_buffer()
        for descriptor in self._pipes[1:]:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _open_stream(descriptor: int) -> TextIO:
    """Open stdout or stderr again: the zygote's object may have been opened for a file; it is a pipe now."""
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # the job closed it, or replaced it
    flush_c_streams()
