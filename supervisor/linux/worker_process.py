"""The process of one worker: its socket and pipes, its pidfd, signals to it, and the proof that it is gone.

Runs in: supervisor. Behind `ports`: only this package touches pids and signals. Every signal goes through the pidfd
that was opened at the fork, so it can never hit a foreign process.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from killable.supervisor import clock, event_loops
from killable.supervisor.linux import autogroup, procfs, saved_files, tmp_size, tree_usage
from killable.supervisor.linux.call_socket import CallSocket
from killable.supervisor.linux.cgroup import Cgroup
from killable.supervisor.linux.frame_reader import FrameReader
from killable.supervisor.linux.oom_counter import OomCounter, own_limit_struck
from killable.supervisor.linux.pipe_io import PipeReader, PipeWriter
from killable.supervisor.linux.stack_file import StackFile
from killable.supervisor.linux.tree_usage import LastLook
from killable.supervisor.linux.worker_cleanup import WorkerCleanup
from killable.supervisor.models import Verdict
from killable.supervisor.ports import FenceError, Gone, ProcessListener, ProcessorUse, Sample
from killable.workers.protocol.zygote_messages import ProcessEnding
from killable.workers.runtime.dump_signal import DUMP_SIGNAL

CGROUP_LOOK_S = 0.01
"""While calls run through, the cgroup is looked at so often at most: each look takes 4 µs, a tenth of a short call."""
NOTIFICATIONS_MAX = 256
"""The latest ones of a read; earlier ones are dropped. A worker never has so many unread, but a job can write any
number, and each takes time of the event loop, in which no other job is killed.
"""


class WorkerProcess:
    """Implements `ports.Process`. Owns its descriptors and its cgroup until it is gone.

    A thread in `kill_now` holds the lock of the lanes, for which a finalizer of the program may wait. So the loop's own
    thread only sets values while it has the lock of the process.
    """

    _used: tuple[Sample | None, Sample | None] = None, None
    """What a look for a limit had measured, and what readers are told for as long as it holds."""
    _base_of = math.nan, False
    """The processor time that the worker had used when its base was measured, and whether that was measured, too."""
    _readers_look: LastLook | None = None
    """What was measured for readers alone."""
    _looked_at, _is_shared = -math.inf, False
    """When `shares_cgroup` last looked, in monotonic seconds, and what it found."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: ProcessListener,
        ours: tuple[int, int, int, int, int, int, int],
        line: tuple[int, int],
        cgroup: Cgroup | None,
        folders: tuple[str, str],
        oom: OomCounter,
        on_ending: Callable[[], None],
        *,
        since: float,
        is_program: bool = False,
    ) -> None:
        """Take over the descriptors and the cgroup, even on failure. `since`: when they were made, CLOCK_REALTIME
        seconds. `folders`: its temporary one, and that for files that jobs save (empty: none). Raise OSError.
        """
        orders, frames, output, stderr, notifications, stack, tokens = ours
        self._loop = loop
        self._listener = listener
        self._cgroup = cgroup
        self._tmp, self._staging = folders
        self._cleanup = WorkerCleanup(folders, since, is_program=is_program)
        self._oom = oom
        self._oom_before = self._group_before = b""
        self._group_bytes: int | None = None
        self._is_bounded = self._was_used = False
        self.base: Sample | None = None
        self._last_look = LastLook()
        self._on_ending = on_ending
        self._orders = PipeWriter(loop, orders)
        self.line = CallSocket(*line)
        self._frames = FrameReader(loop, frames, tokens, listener, may_be_wide=is_program)
        self._output = [PipeReader(loop, output, listener.on_output, listener.reading_output)]
        if stderr >= 0:
            on_stderr = partial(listener.on_output, stream="stderr")
            self._output.append(PipeReader(loop, stderr, on_stderr, listener.reading_output))
        self._has_printed = select.poll()
        for descriptor in (output, stderr):
            if descriptor >= 0:
                self._has_printed.register(descriptor, select.POLLIN)
        self._notifications = PipeReader(loop, notifications, self._on_notifications)
        self._readers = (self._notifications, *self._output, self._frames)
        self._pidfd = -1
        self._fence: int | None = None
        self._lock = threading.RLock()  # reentrant: a finalizer of the host program may run inside, and cancel
        """Guards `kill_now` in another thread against the end of the attempt and the close of the descriptors."""
        self.killed_for: Verdict | None = None
        self._kill_wanted = self._was_killed = self._closed = self._exit_reported = False
        self._stack = StackFile(stack)
        self.gone = asyncio.Event()  # set when its descriptors are closed: it was reported as gone, or abandoned
        self.pid: int | None = None
        self.proof = "descendants" if cgroup is None else "cgroup+descendants"
        try:
            for reader in self._readers:
                reader.start()
        except OSError:
            self._close()
            raise

    # ── events from the spawner ──

    def forked(self, pid: int, pidfd: int) -> None:
        """Note that the zygote has forked it, and take over the pidfd."""
        self.pid, self._pidfd = pid, pidfd
        try:
            self._loop.add_reader(pidfd, self._on_pidfd)
        except OSError:
            pass  # its exit is then reported when it is swept
        if self._kill_wanted:
            self.kill()
        if self._has_exited():
            self._on_pidfd()  # before it can be taken for a usable worker
        self._listener.on_forked(pid)

    def fork_failed(self, errno: int, why: str) -> None:
        self._close()
        self._let_go().on_fork_failed(errno, why)

    def look_for_exit(self) -> bool:
        """Report its exit if it has ended; return whether it has."""
        exited = self._has_exited()
        if exited:
            self._on_pidfd()
        return exited

    def swept(
        self, ending: ProcessEnding | None, swept: int, orphans: Sequence[int] = (), *, zygote_lost: bool = False
    ) -> None:
        """Note that it is reaped and has no descendants left. It is gone when its cgroup is empty too."""
        gone = partial(self._on_processes_gone, ending, swept, orphans, zygote_lost)
        self._cleanup.when_gone(self._loop, self._is_closed_or_gone, self.kill, gone)

    def _is_closed_or_gone(self) -> bool:
        if self._closed:
            return True
        populated = self._cgroup is not None and not self._cgroup.is_empty()
        return self.look_for_exit() and not populated

    def _on_processes_gone(
        self, ending: ProcessEnding | None, swept: int, orphans: Sequence[int], zygote_lost: bool
    ) -> None:
        if self._closed:
            return
        # Not watched meanwhile: `_exit_reported` holds from here on.
        creators = [*orphans] if self.pid is None else [self.pid, *orphans]
        self._cleanup.remove(self._loop, creators, partial(self._on_memory_removed, ending, swept, zygote_lost))

    def _on_memory_removed(self, ending: ProcessEnding | None, swept: int, zygote_lost: bool, removed: int) -> None:
        if self._closed:
            return
        self.read_ready()
        killed = ending is not None and ending.signal == signal.SIGKILL and not self._was_killed
        oom = self._oom.evidence(self._oom_before, claims=killed)
        struck = own_limit_struck(self._group_before, self._cgroup.out_of_memory() if self._cgroup else b"")
        self._close()
        self._let_go().on_gone(Gone(ending, swept, self.proof, zygote_lost, self._frames.torn, oom, struck, removed))

    def _let_go(self) -> ProcessListener:
        """Return the listener, which hears one call more. It has this process, and would only be found as garbage."""
        listener = self._listener
        del self._listener
        return listener

    def without_cgroup(self) -> None:
        """Drop the cgroup, which the worker could not join: only the sweep of its descendants proves its end."""
        if self._cgroup is not None:
            self._cgroup.remove()
            self._cgroup = None
        self.proof = "descendants"

    def drop_descendants_proof(self) -> None:
        """Drop the descendants as proof: with the guard gone they went to init, and are found, if at all, by cgroup or
        environment marker.
        """
        self.proof = "" if self._cgroup is None else "cgroup"

    @property
    def is_held(self) -> bool:
        """Whether it holds an attempt."""
        return self._fence is not None

    def has_empty_group(self) -> bool:
        """Return whether it has a cgroup, and that is empty."""
        return self._cgroup is not None and self._cgroup.is_empty()

    def give_up(self) -> None:
        """Report it as gone without a proof: it holds no attempt, and its zygote is lost."""
        if not self._closed:
            self._close()
            self._let_go().on_gone(Gone(None, 0, "", zygote_lost=True))

    # ── requests of the worker's owner ──

    def hold(self, fence: int | None) -> None:
        with self._lock:
            self._fence = fence

    def note_before(self) -> None:
        self._stack.begin()
        self._oom_before = self._oom.read()
        self._group_before = b"" if self._cgroup is None else self._cgroup.out_of_memory()

    def note_base(self, *, cpu: bool = True) -> None:
        used_s = None if self.pid is None else clock.process_cpu_s(self.pid)
        of_s, has_cpu = self._base_of
        if used_s != of_s or (cpu and not has_cpu):
            sample = self._measure_alone(cpu=cpu)
            self.base = sample or (None if self._was_used else self.base)
            self._base_of = math.nan if sample is None or used_s is None else used_s, cpu
        if self.base is not None:
            self.base = self.base._replace(newest_pid=self._newest_pid_when_alone())
        self._group_bytes = None if self._cgroup is None else self._cgroup.memory_bytes()

    def _measure_alone(self, *, cpu: bool) -> Sample | None:
        sample = None if self.pid is None else tree_usage.measure(self.pid, self._cgroup, cpu=cpu, at_most=1)
        return sample if self._alive() else None

    def _newest_pid_when_alone(self) -> int:
        """Return the number that the machine had given last when the worker was known to have started no process."""
        last = self._last_look.sample
        if last is not None and last.processes == 1 and last.newest_pid:
            return last.newest_pid
        return self.pid or 0  # it has started none before it was there

    def shares_cgroup(self) -> bool:
        now = clock.monotonic()
        if now - self._looked_at > CGROUP_LOOK_S:
            self._looked_at = now
            self._is_shared = self._has_others_in_cgroup()
        return self._is_shared

    def _has_others_in_cgroup(self) -> bool:
        return self._cgroup is not None and any(pid != self.pid for pid in self._cgroup.processes(2))

    def release(self) -> bool:
        if not self._frames.is_settled:
            return False  # the next one would get the tokens of this one
        if self._has_others_in_cgroup():
            return False  # its end kills what it has left
        with self._lock:
            if self.killed_for is not None:
                return False
            self._fence = None
        self._was_used = True
        if self._is_bounded:
            self.bound(None, None)  # the next one may be a task that this loop sees only when it is over
        return True

    def send(self, order: bytes, passed: Sequence[int] = ()) -> None:
        self._orders.write(order, passed)

    def terminate(self, fence: int) -> None:
        self._check(fence)
        self._signal_and_continue(signal.SIGTERM)

    def rouse(self, fence: int) -> None:
        self._check(fence)
        self._continue()

    def _continue(self) -> None:
        """Continue it if it is stopped, or if that cannot be known."""
        if self.pid is not None and procfs.is_stopped(self.pid) is not False and self._alive():
            self._signal(signal.SIGCONT)

    def dump(self, fence: int) -> None:
        self._check(fence)
        self._stack.ask(again=True)
        self._signal_and_continue(DUMP_SIGNAL)

    def _signal_and_continue(self, number: int) -> None:
        """Send a signal to which a stopped process has to react too."""
        self._stack.ask()
        # Not the other way round: a job could run in between, stop itself again and sit out its grace.
        self._signal(number)
        self._continue()

    def kill(self) -> None:
        if self._pidfd < 0:
            self._kill_wanted = True  # the fork is not reported yet
            return
        session = autogroup.open_session(self.pid)
        try:
            is_sent = self._kill()
            if is_sent and session >= 0:
                autogroup.raise_session(session)
        finally:
            if session >= 0:
                os.close(session)
        self._kill_group()
        if is_sent:
            self._on_ending()
            # The pipes are read when it is gone: reacting to the end of each one now would delay its death.
            for reader in self._readers:
                reader.pause()

    def _kill(self) -> bool:
        self._was_killed = self._was_killed or not self._exit_reported
        return self._signal(signal.SIGKILL)

    def _kill_group(self) -> None:
        """Kill what else is in the cgroup, in a thread: the kernel holds the write up while a process joins any group
        of the machine, mostly for 15 ms, in which this loop could neither see the end nor kill another worker.
        """
        if self._cgroup is not None:
            try:
                event_loops.in_order(self._loop, self._cgroup.kill)
            except RuntimeError:  # no thread can be started
                self._cgroup.kill()

    def kill_now(self, fence: int, verdict: Verdict) -> bool:
        with self._lock:
            if self._fence != fence or self._pidfd < 0:
                return False
            self.killed_for = self.killed_for or verdict
            self._kill()
            if self._cgroup is not None:
                self._cgroup.kill()
        return True

    def retire(self) -> None:
        self._orders.close()

    def read_output(self) -> None:
        if self._has_printed.poll(0):  # mostly not: one call for both pipes, and cheaper than a read that fails
            for reader in self._output:
                reader.drain()

    def hold_output(self, *, held: bool) -> None:
        for reader in self._output:
            if held:
                reader.pause()
            elif not (self._was_killed or self._exit_reported or self._closed):
                reader.start()

    def read_frames(self) -> None:
        self._frames.drain()

    def read_ready(self, bytes_max: int = 1 << 20) -> None:
        for reader in self._readers:
            reader.drain(bytes_max)

    def processor_use(self) -> ProcessorUse | None:
        used = None if self.pid is None else clock.processor_use(self.pid)
        return used if self._alive() else None

    def bound(self, memory_bytes: int | None, tasks_max: int | None) -> None:
        if self._cgroup is not None:
            used = self._group_bytes  # None: not known, and then it cannot be bounded
            memory_max = None if memory_bytes is None or used is None else used + memory_bytes
            self._cgroup.bound(memory_max, tasks_max)
            self._is_bounded = (memory_bytes, tasks_max) != (None, None)

    def sample(self, *, cpu: bool, at_most: int) -> Sample | None:
        if self.pid is None:
            return None
        before = self._last_look.sample
        sample = self._last_look.measure(self.pid, self._cgroup, cpu=cpu, at_most=at_most)
        if sample is not None and sample is before:  # no other process would have the same clock
            return sample
        if not self._alive():
            self._last_look = LastLook()  # it may be of another process
            return None
        return sample

    def has_started_none_since(self, sample: Sample) -> bool:
        return tree_usage.has_started_none_since(sample)

    def use(self) -> Sample | None:
        if self.pid is None:
            return None
        known, cpu_s = self._last_look.sample, None
        is_fresh = known is not None and clock.monotonic() - self._last_look.at < tree_usage.FRESH_S
        if is_fresh:
            of, used = self._used
            if of is known:  # nothing had run when a limit last looked
                return used if self._alive() else None
            cpu_s = tree_usage.cpu_s(self.pid, self._cgroup)
        if known is None or cpu_s is None:
            look = self._readers_look = self._readers_look or LastLook()
            used = look.measure(self.pid, self._cgroup, cpu=True, at_most=tree_usage.PROCESSES_MAX)
        else:
            used = known._replace(cpu_s=cpu_s)
        if not self._alive():
            return None
        if is_fresh:
            self._used = known, used
        return used

    def prove(self, sample: Sample, told: Callable[[Sample], None]) -> None:
        def tell(exact: asyncio.Future[Sample]) -> None:
            if not exact.cancelled() and self._alive():
                told(exact.result())

        try:
            measuring = event_loops.in_thread(self._loop, partial(self._measure_exactly, sample))
        except RuntimeError:  # no thread can be started: for a job at its limit the loop may block for a moment
            measuring = self._loop.create_future()
            measuring.set_result(self._measure_exactly(sample))
        measuring.add_done_callback(tell)

    def _with_alone(self) -> Sample | None:
        sample = None if self.pid is None else tree_usage.measure_with_alone(self.pid, self._cgroup)
        return sample if self._alive() else None

    def _measure_exactly(self, sample: Sample) -> Sample:
        return tree_usage.measure_exactly(self.pid, self._cgroup, sample)

    def keep_file(self, number: int, kept: str) -> int:
        self._frames.slow_down()
        size, replaced = saved_files.keep(os.path.join(self._staging, str(number)), kept)
        if replaced:
            try:
                event_loops.in_bounded_threads(self._loop, partial(saved_files.remove, replaced))
            except RuntimeError:  # no thread can be started
                saved_files.remove(replaced)
        return size

    def kept_sizes(self, folder: str, names: Iterable[str]) -> dict[str, int]:
        return saved_files.sizes(folder, names)

    def measure_tmp(self, kept: str, at_most: int, told: Callable[[int, float], None]) -> bool:
        def tell(measured: asyncio.Future[tuple[int, float]]) -> None:
            if not measured.cancelled() and self._alive():
                told(*measured.result())

        folders = [each for each in (self._tmp, self._staging, kept) if os.path.isdir(each)]
        if not folders:  # as mostly
            return False
        try:
            measuring = event_loops.in_bounded_threads(self._loop, partial(tmp_size.measure, folders, at_most))
        except RuntimeError:
            return False  # no thread can be started: it is looked at again
        measuring.add_done_callback(tell)
        return True

    def stack(self) -> str | None:
        return self._stack.text()

    def has_whole_stack(self) -> bool:
        return self._stack.is_whole()

    async def measured(self, *, alone: bool) -> Sample | None:
        try:
            return await event_loops.in_bounded_threads(self._loop, self._with_alone if alone else self.use)
        except RuntimeError:
            return None  # no thread can be started

    def abandon(self) -> None:
        self._close()

    # ── inside ──

    def _check(self, fence: int) -> None:
        if self._fence != fence:
            raise FenceError(f"pid {self.pid} holds attempt {self._fence}, not {fence}: no signal is sent")

    def _signal(self, number: int) -> bool:
        """Send a signal through the pidfd; return whether it was sent."""
        if self._pidfd < 0:
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except (ProcessLookupError, PermissionError):
            return False  # reaped; or not permitted: its deadline ends it, by its cgroup or as unkillable
        return True

    def _alive(self) -> bool:
        """Return whether the pid still names this process, zombie or not: then what was just read by pid was valid."""
        if self._pidfd < 0:
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it exists
        return True

    def _has_exited(self) -> bool:
        """Return whether it has ended. If its guard is lost it may still be dying, and only the pidfd shows that."""
        if self._pidfd < 0:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def _on_notifications(self, notifications: bytes) -> None:
        self._listener.on_notifications(notifications[-NOTIFICATIONS_MAX:])

    def _on_pidfd(self) -> None:
        if self._pidfd < 0 or self._exit_reported:
            return
        self._exit_reported = True
        self._loop.remove_reader(self._pidfd)
        self._notifications.drain()  # before the exit is reported: a delivery has to come first
        self._listener.on_exited()
        self._on_ending()

    @property
    def awaits_report(self) -> bool:
        """Whether the zygote has yet to report its fork, or its exit, which the pidfd has shown."""
        return self.pid is None or self._exit_reported

    @property
    def is_ending(self) -> bool:
        """Whether it was killed, or the pidfd has shown its exit, and the zygote has yet to report that."""
        return self.pid is not None and (self._was_killed or self._exit_reported)

    def close_in_child(self) -> None:
        """Close the descriptors in a fork of this process: a copy of the orders socket would keep the worker alive."""
        self._closed = True
        self._orders.close_in_child()
        self.line.close()
        for reader in self._readers:
            reader.close_in_child()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._stack.close()
        if self._cgroup is not None:
            self._cgroup.close_in_child()

    def _close(self) -> None:
        self._closed = True
        self.gone.set()
        self._orders.close()
        self.line.close()
        for reader in self._readers:
            reader.close()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            with self._lock:
                pidfd, self._pidfd = self._pidfd, -1
            os.close(pidfd)
        self._stack.close()
        cgroup, self._cgroup = self._cgroup, None
        try:
            if cgroup is not None:
                event_loops.in_order(self._loop, cgroup.remove)  # behind the kill; the kernel holds it up, too
                cgroup = None
            if os.path.isdir(self._tmp) or os.path.isdir(self._staging):
                # In a thread: a job may leave a million files, and killing other workers must never wait.
                event_loops.start_in_order(self._loop, self._cleanup.clear_folder)
        except RuntimeError:  # no thread can be started: the folder is removed with the supervisor's own
            if cgroup is not None:
                cgroup.remove()
