"""The tasks that one Executor has under way: queues them, gives them to leased workers, stops and counts them.

Runs in: supervisor (the methods under "in the thread" run in its thread) | any thread of the program.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from killable.supervisor.clock import monotonic
from killable.supervisor.executor import pickling_errors
from killable.supervisor.executor.futures import JobFuture
from killable.supervisor.executor.supervisor_thread import SupervisorThread, ThreadClosed
from killable.supervisor.executor.task import Task
from killable.supervisor.models import JobType, Submission, Verdict
from killable.supervisor.pools.lease import Lease
from killable.supervisor.settings import Settings
from killable.workers.protocol import pickling
from killable.workers.protocol.frames import FRAME_BYTES_MAX
from killable.workers.protocol.messages import INLINE_BYTES_MAX
from killable.workers.protocol.pickling import Pickled
from killable.workers.protocol.shared_memory import SealedInput
from killable.workers.runtime.executor_setup import CALL, STREAM, is_in_pool

if TYPE_CHECKING:
    from killable.supervisor.linux.early_guard import EarlyGuard
    from killable.supervisor.supervisor import Supervisor

_CLOSED = "cannot schedule new futures after shutdown"
LEASES_MAX = 100
"""Number of known leases above which those that are over are removed."""


TASK_BYTES_MAX = FRAME_BYTES_MAX - 4096
"""Limit of a task that is written into a socket; a larger one goes into a memory file."""


class PendingTasks:
    """Outlives its Executor as long as a task is under way."""

    supervisor: Supervisor

    def __init__(self, settings: Settings, name: str, early_guard: EarlyGuard | None = None) -> None:
        self.workers = settings.pools[0].workers
        self._settings = settings
        self._name = name
        self._closed_reason = ""
        """Why no more tasks are accepted; empty: they are."""
        self._begin(early_guard)
        if not is_in_pool():  # a worker may have imported a module that creates an Executor: start at the first task
            self._start_thread()

    def _begin(self, early_guard: EarlyGuard | None = None) -> None:
        """Set the initial state: no task is under way, and there is no supervisor yet."""
        self._lock = threading.RLock()  # reentrant: a finalizer of the program may run while it is held, and shut down
        self._under_way: dict[JobFuture[Any], Task] = {}
        self._waiting: OrderedDict[JobFuture[Any], Task] = OrderedDict()
        """The tasks under way that no worker has and that are not jobs, in order."""
        self._leases: list[Lease] = []
        """Taken from the end: the latest `quiet` lease first, others last. Leases that are over are skipped."""
        self._prefix = f"job-{uuid.uuid4().hex[:8]}"
        self._numbers = itertools.count(1)
        self.types: dict[str, JobType] = {}
        """The Executor's job types; known as soon as a worker is leased."""
        self.supervisor_thread = SupervisorThread(self._settings, self._name, self, early_guard)
        self._is_started = self._look_scheduled = False

    def _start_thread(self) -> None:
        self.supervisor_thread.start()
        self._is_started = True

    # ── in any thread ──

    @property
    def detail(self) -> str:
        """How the pool differs from what was asked for, or why it is broken; empty: neither."""
        return self.supervisor_thread.fault or (
            self.supervisor.pool_details() if self.supervisor_thread.has_started else ""
        )

    def submit(self, type: str, call: tuple[Any, ...], limits: Mapping[str, Any], future: JobFuture[Any]) -> None:
        """Accept a task. If it cannot be pickled, it fails at once. Raise RuntimeError after the shutdown."""
        if self._closed_reason:  # before the work of pickling
            raise RuntimeError(self._closed_reason)
        function, args, kwargs = call
        try:
            input = _inline_or_sealed(pickling.pickled({"function": function, "args": args, "kwargs": kwargs}))
        except Exception as error:  # pickling runs the caller's __reduce__, which may raise anything
            pickling_errors.name_it(error, function, args, kwargs)
            future.fail(error)
            return
        taken = Task(self, Submission(type, input, limits=dict(limits)), future)
        future.job_id = f"{self._prefix}-{next(self._numbers)}"
        try:
            with self._lock:
                is_first, why_closed = not self._waiting, self._closed_reason
                if not (why_closed or self._is_started):
                    self._start_thread()
                if not why_closed:
                    self._under_way[future] = self._waiting[future] = taken
            if not why_closed:
                self._match()
                if taken.is_timed or (is_first and self._waiting):
                    self._call(self._serve_waiting)
        except BaseException:  # Ctrl-C, or a signal handler of the program raised: the caller does not get the future
            self._call(partial(self._give_up, taken, ""))
            raise
        if why_closed:
            raise RuntimeError(why_closed)

    def _match(self) -> None:
        """Give waiting tasks to leased workers as long as there are both.

        An interrupt (Ctrl-C) loses neither a worker nor a task: each is in a variable before it leaves its queue.
        """
        lease: Lease | None = None
        call: Task | None = None
        try:
            while True:
                with self._lock:
                    lease = call = None
                    if not self._leases or not self._waiting:
                        return
                    lease = self._leases[-1]
                    del self._leases[-1]
                    if lease.is_over:
                        continue
                    call = next(iter(self._waiting.values()))
                    del self._waiting[call.future]
                try:
                    given = call.give(lease)
                except Exception as error:
                    self._put_back(lease, call, f"it cannot be sent to a worker: {error!r}")
                else:
                    if not given:
                        self._put_back(lease, call)
        except BaseException:
            if lease is not None:
                self._put_back(lease, call)
            raise

    def _put_back(self, lease: Lease, call: Task | None, fault: str = "") -> None:
        """Keep a lease and a task that were not matched, unless the task was cancelled or has a fault."""
        act: Callable[[Supervisor], None]
        with self._lock:
            if not lease.is_given and not lease.is_over and lease not in self._leases:
                self._leases.append(lease)
            if call is None or call.future not in self._under_way:
                return
            # True also if the task is an attempt by now, and the lease over.
            is_given = lease.has(call) or lease.given_at or call.is_job
            if not (is_given or fault or call.is_stopped or call.future.cancelled()):
                if call.future not in self._waiting:
                    call.take_back()
                    self._waiting[call.future] = call
                    self._waiting.move_to_end(call.future, last=False)
                act = self._serve_waiting  # a look may have missed it while it was in no queue
            elif lease.is_written and not fault:  # perhaps by another thread; the supervisor only has to know of it
                act = _promoting(lease)
            else:
                act = partial(self._give_up, call, fault)
        self._call(act)

    def _call(self, act: Callable[[Supervisor], None]) -> None:
        try:
            self.supervisor_thread.call(act)
        except ThreadClosed:
            pass  # every task has ended already

    def stop(self, future: JobFuture[Any], grace_s: float | None, reason: str) -> None:
        """Stop a task; its future reports the end. With a grace of 0 it is killed in the calling thread."""
        verdict = Verdict("cancelled", by="user", reason=reason, requested_at=monotonic())
        call = self._under_way.get(future)
        if call is not None:
            call.kill_now(verdict, grace_s)
            self._call(partial(self._stop, future, verdict, grace_s))

    def can_wait(self) -> bool:
        return self.supervisor_thread.can_wait()

    def shut_down(self, *, cancel_pending: bool) -> None:
        """Accept no more tasks; end the thread when the last one is over. May be called again."""
        with self._lock:
            self._closed_reason = self._closed_reason or _CLOSED
            futures = list(self._under_way) if cancel_pending else ()
        for future in futures:
            future.cancel_pending("the executor is shutting down")
        self._call(lambda _: self._leave_if_done())

    def stop_all(self, grace_s: float | None, reason: str) -> None:
        """Stop every task, waiting or running."""
        with self._lock:
            futures = list(self._under_way)
        for future in futures:
            future.cancel(grace_s=grace_s, reason=reason)

    def stop_unread(self) -> None:
        """Stop the streams that no thread will read: the main thread has ended."""
        with self._lock:
            futures = list(self._under_way)
        for future in futures:
            if not future.is_wanted():
                future.cancel(reason="the program is exiting, and nothing reads the stream")

    def close_in_child(self) -> None:
        """Fail the parent's tasks in a fork of the program. The next task gets a thread and workers of the child."""
        self.supervisor_thread.close_in_child()
        under_way = self._under_way
        self._begin()
        for future in under_way:
            future.close_in_child()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    # ── in the thread ──

    def on_supervisor_created(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    def on_started(self) -> None:
        self._serve_waiting(self.supervisor)

    def on_thread_ending(self, failure: BaseException | None) -> None:
        why = f"the executor's thread has ended: {failure!r}"
        with self._lock:
            self._closed_reason = self._closed_reason or why
            calls = list(self._under_way.values())
        for call in calls:
            call.fail_lost(why)

    def on_leased(self, lease: Lease) -> None:
        if not self.types:
            self.types = {name: self.supervisor.type(name) for name in (CALL, STREAM)}
        with self._lock:
            if len(self._leases) > LEASES_MAX:
                self._leases = [each for each in self._leases if not each.is_over]
            self._leases.insert(len(self._leases) if lease.quiet else 0, lease)
        self._match()

    def on_pool_broken(self) -> None:
        self._enter_waiting()

    def _serve_waiting(self, supervisor: Supervisor) -> None:
        """Make the waiting tasks jobs if a time limit runs for one or no worker will come; else lease idle workers."""
        if not self.supervisor_thread.has_started:
            return
        with self._lock:
            are_jobs = any(call.is_timed for call in self._waiting.values())
        if are_jobs or self.supervisor_thread.fault or supervisor.why_broken():
            self._enter_waiting()
        else:
            supervisor.jobs.lease_idle_workers()

    def _enter_waiting(self) -> None:
        """Make all waiting tasks jobs, in order, or end them if no worker will come."""
        with self._lock:
            calls, self._waiting = list(self._waiting.values()), OrderedDict()
        for call in calls:
            call.enter()

    def _stop(self, future: JobFuture[Any], verdict: Verdict, grace_s: float | None, _supervisor: Supervisor) -> None:
        call = self._under_way.get(future)
        if call is None:
            return
        with self._lock:
            waits = self._waiting.pop(future, None) is not None
            call.ask(verdict, grace_s)
        if not call.is_job and (waits or future.cancelled()):  # no thread will give it to a worker
            call.drop()
        else:
            call.stop()

    def _give_up(self, call: Task, fault: str, _supervisor: Supervisor) -> None:
        """End a task after an interrupt or a fault: it may be in no queue, or its order written in part."""
        with self._lock:
            self._waiting.pop(call.future, None)
        if call.future in self._under_way:
            call.give_up(fault)
        self._match()  # the interrupted thread may have put back a lease that another thread did not see
        if not self._look_scheduled:  # one look handles all waiting tasks
            self._look_scheduled = True
            self._call(self._serve_waiting_once)

    def _serve_waiting_once(self, supervisor: Supervisor) -> None:
        self._look_scheduled = False
        self._serve_waiting(supervisor)

    def forget(self, call: Task) -> None:
        """Remove a task that is over."""
        self._under_way.pop(call.future, None)
        if self._closed_reason:
            self._leave_if_done()

    def _leave_if_done(self) -> None:
        with self._lock:
            done = bool(self._closed_reason) and not self._under_way
        if done:
            self.supervisor_thread.leave()


def _promoting(lease: Lease) -> Callable[[Supervisor], None]:
    return lambda _: lease.promote()


def _inline_or_sealed(packed: Pickled) -> bytes | SealedInput:
    if packed.size > INLINE_BYTES_MAX:
        try:
            return SealedInput.laid(packed.lay)
        except OSError:  # no memory or no descriptor for a memory file: send it through the socket
            if packed.size > TASK_BYTES_MAX:
                raise
    return packed.to_bytes()
