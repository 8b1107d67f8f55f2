"""The tasks that one Executor has under way: queues them, lines them up for workers, stops and counts them.

Runs in: supervisor (the methods under "in the thread" run in its thread) | any thread of the program.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from killable.supervisor.clock import monotonic
from killable.supervisor.executor import pickling_errors, task_input
from killable.supervisor.executor.futures import JobFuture
from killable.supervisor.executor.program_output import ProgramOutput
from killable.supervisor.executor.repeated_content import RepeatedContent
from killable.supervisor.executor.supervisor_thread import SupervisorThread
from killable.supervisor.executor.task import Task, TaskLimits
from killable.supervisor.executor.task_input import TaskInput
from killable.supervisor.linux.instance_id import random_id
from killable.supervisor.models import Verdict
from killable.supervisor.pools.lane import Lane, LaneCall
from killable.supervisor.settings import Settings
from killable.workers.runtime.executor_setup import is_in_pool

if TYPE_CHECKING:
    from killable.supervisor.linux.early_guard import EarlyGuard
    from killable.supervisor.supervisor import Supervisor

_CLOSED = "cannot schedule new futures after shutdown"
REPLACE_AFTER_S = 0.005
"""Seconds for which a call may run before the pool is told to replace its worker: most calls are over by then."""
VIEWS_MAX = 64
"""Views of an Executor whose limits are remembered."""


class PendingTasks:
    """Outlives its Executor as long as a task is under way. Implements `ThreadCallbacks`, `TaskOwner` and
    `FutureOwner`.

    A task that waits is in `_waiting`, one that a worker has or is about to get in a lane; each move between the two is
    made with the lock held. An interrupt (Ctrl-C) in the middle is repaired by whoever takes the lock next.

    A finalizer or a signal handler of the program may run where its thread holds the lock (`_is_reentered`), with a
    move half made. What it asks for there is done by the supervisor's thread, which is only told.

    While a thread holds the lock it takes no future's condition: who holds one may wait for the lock.
    """

    supervisor: Supervisor
    lock: threading.RLock

    def __init__(
        self, settings: Settings, name: str, *, is_captured: bool = False, early_guard: EarlyGuard | None = None
    ) -> None:
        """`is_captured`: what tasks print is only in their futures. `early_guard`: the pool's, if it runs."""
        self.workers = settings.pools[0].workers
        self._settings = settings
        self._name = name
        self._is_captured = is_captured
        self._closed_reason = ""
        """Why no more tasks are accepted; empty: they are."""
        self._begin(early_guard)
        if not is_in_pool():  # a worker may have imported a module that creates an Executor: start at the first task
            self.supervisor_thread.start()

    def _begin(self, early_guard: EarlyGuard | None = None) -> None:
        """Set the initial state: no task is under way, and there is no supervisor yet."""
        self.lock = threading.RLock()
        self._under_way: dict[JobFuture[Any], Task] = {}
        self._waiting: OrderedDict[JobFuture[Any], Task] = OrderedDict()
        """The tasks under way that are in no lane and are not jobs, in order."""
        self._lanes: list[Lane] = []
        """Those that are not `quiet` first: the last ones are used first."""
        self._doubt: tuple[Lane, Task] | None = None
        """A task that is being lined up: not known to be in the lane, nor to be in `_waiting`."""
        self._taking_back: Lane | None = None
        """Whose calls are not all known to be in its line, or in `_waiting`."""
        self._without_room = ""
        """The id of the first of the waiting tasks, if no lane had room for it: whoever makes room looks again."""
        self._limits: dict[tuple[str, int], TaskLimits] = {}
        """By type and identity of the limits that were asked for."""
        self._prefix = f"job-{random_id()[:8]}"
        self._numbers = itertools.count(1)
        self.supervisor_thread = SupervisorThread(self._settings, self._name, self, early_guard)
        self._repeated = RepeatedContent()
        self.output = ProgramOutput(self.supervisor_thread, self._name, is_captured=self._is_captured)

    # ── in any thread ──

    @property
    def _is_reentered(self) -> bool:
        """Whether the calling thread has the lock already: it runs a finalizer or a signal handler of the program."""
        return self.lock._is_owned()  # type: ignore[attr-defined,no-any-return]  # `threading.Condition` uses it, too

    def submit(self, type: str, call: tuple[Any, ...], limits: Mapping[str, Any], future: JobFuture[Any]) -> None:
        """Accept a task. If it cannot be pickled, it fails at once. Raise RuntimeError after the shutdown, and
        WorkerCrashed after the executor's thread has failed.
        """
        if self._closed_reason:  # before the work of pickling
            raise self._closed_error(self._closed_reason)
        try:
            input = self._packed(call)
        except Exception as error:  # pickling runs the caller's __reduce__, which may raise anything
            pickling_errors.name_it(error, *call)
            future.fail(error)
            return
        task = Task(self, type, input, limits, future)
        future.job_id = f"{self._prefix}-{next(self._numbers)}"
        try:
            why_closed = self._accept(task)
        except BaseException:  # Ctrl-C, or a signal handler of the program raised: the caller does not get the future
            self.supervisor_thread.call(partial(self._give_up, task, ""))
            raise
        if why_closed:
            raise self._closed_error(why_closed)

    def _accept(self, task: Task) -> str:
        """Take a task in, and give it to a worker if there is room; return why none is accepted, or nothing."""
        is_reentered = self._is_reentered
        with self.lock:
            is_first, why_closed = not self._waiting, self._closed_reason
            if why_closed:
                return why_closed
            self.supervisor_thread.start()
            self._under_way[task.future] = task
            if is_reentered:
                self.supervisor_thread.call(partial(self._queue, task))
                return ""
            self._waiting[task.future] = task
            if next(iter(self._waiting)).job_id != self._without_room:
                self._match()
        if task.waits_as_job or (is_first and self._waiting):
            self.supervisor_thread.call(self._serve_waiting)
        return ""

    def _packed(self, call: tuple[Any, ...]) -> TaskInput:
        return task_input.packed(self._repeated, *call)

    def _closed_error(self, why: str) -> RuntimeError:
        """Return the error of a call that comes after the shutdown, or after the thread has failed."""
        if self.supervisor_thread.failure is None:
            return RuntimeError(why)
        from killable.workers.error_classes import WorkerCrashed

        return WorkerCrashed(why, code=self.supervisor_thread.loss.code)

    def limits_of(self, type: str, asked: Mapping[str, Any]) -> TaskLimits:
        found = self._limits.get((type, id(asked)))
        if found is None or found.asked is not asked:
            if len(self._limits) >= VIEWS_MAX:
                self._limits.clear()
            found = self._limits[type, id(asked)] = TaskLimits.of(self.supervisor.type(type), asked)
        return found

    def _match(self) -> None:
        """Line up waiting tasks, as long as a lane has room. The lock is held."""
        self.repair()
        lane: Lane | None = None
        next_fewest = 0
        while self._waiting:
            task = next(iter(self._waiting.values()))
            if lane is None or len(lane) > next_fewest or not lane.has_room(task):
                lane, next_fewest = self._lane_for(task)
            if lane is None or task.waits_as_job:
                self._without_room = task.future.job_id
                return
            self._line_up(lane, task)
        self._without_room = ""

    def _lane_for(self, task: Task) -> tuple[Lane | None, int]:
        """Return the lane with the fewest calls that has room for a task (None: there is none), and how many the next
        one has.
        """
        best: Lane | None = None
        fewest = next_fewest = sys.maxsize
        for lane in reversed(self._lanes):
            if lane.has_room(task):
                if lane.is_idle:
                    return lane, 0  # of the others nobody knows yet, but none has fewer
                if len(lane) < fewest:
                    best, fewest, next_fewest = lane, len(lane), fewest
                else:
                    next_fewest = min(next_fewest, len(lane))
        return best, next_fewest

    def _line_up(self, lane: Lane, task: Task) -> None:
        """Move the first waiting task to a lane. If no message can be sent it becomes a job."""
        self._doubt = lane, task
        try:
            lane.line_up(task)
        except Exception as error:
            self.repair()
            self.supervisor_thread.call(partial(self._give_up, task, f"it cannot be sent to a worker: {error!r}"))
            self._waiting.pop(task.future, None)
            return
        if task.lane is None:
            self._doubt = None
            if not lane:  # not even one message can be sent
                task.waits_as_job = True
                self.supervisor_thread.call(self._serve_waiting)
            return
        self._leave_queue(lane, task)
        if lane.is_alone:
            self.supervisor_thread.call(partial(self._settle, lane))

    def _settle(self, lane: Lane) -> None:
        """Make an attempt of a lane's only call: at once, or soon if only the pool needs it, to replace the worker."""
        if lane.quiet:
            lane.settle()
        else:
            self.supervisor_thread.call_later(REPLACE_AFTER_S, lambda: lane.settle() if lane.is_alone else None)

    def repair(self) -> None:
        """Complete a move to a lane, or back, that was interrupted. The lock is held."""
        if self._taking_back is not None:
            self._take_back_from(self._taking_back)
        if self._doubt is not None:
            lane, task = self._doubt
            if lane.repair(task):
                self._leave_queue(lane, task)
            else:
                self._doubt = None

    def _leave_queue(self, lane: Lane, task: Task) -> None:
        """Complete a move to a lane."""
        task.future.pid = lane.process.pid
        self._waiting.pop(task.future, None)
        self._doubt = None  # last: until then an interrupt leaves it to be repaired

    def withdraw(self, future: JobFuture[Any], reason: str) -> bool:
        task = self._under_way.get(future)
        if task is None or self._is_reentered:
            return False
        with self._serving_after_interrupt(), self.lock:
            self._take_back(task)
            waits = future in self._waiting
            if waits:
                # First: an interrupt may follow, and then nobody else ends it. That thread waits for the lock.
                self.supervisor_thread.call(partial(self._stop, task, _cancel(reason), None))
                self._waiting.pop(future)
                future.begin_cancelled(reason)
            self._match()  # what stood behind it may be the next of an idle worker
        return waits

    @contextmanager
    def _serving_after_interrupt(self) -> Iterator[None]:
        """Have the supervisor's thread look at the tasks if what is done here is interrupted: nobody else may."""
        try:
            yield
        except BaseException:
            self.supervisor_thread.call(self.on_room)
            raise

    def _take_back(self, task: Task) -> None:
        """Let a task wait again, with all that its worker has not received. The lock is held."""
        self.repair()
        if task.lane is not None:
            self._take_back_from(task.lane)

    def _take_back_from(self, lane: Lane) -> None:
        self._taking_back = lane
        lane.take_back()
        self._taking_back = None

    def is_begun(self, future: JobFuture[Any]) -> bool:
        task = self._under_way.get(future)
        if task is None:
            return False
        is_reentered = self._is_reentered
        with self.lock:
            if not is_reentered:
                self.repair()
            return task.lane is not None and task.lane.has_begun(task)

    def stop(self, future: JobFuture[Any], grace_s: float | None, reason: str, *, is_finalizer: bool = False) -> None:
        """Stop a task; its future reports the end. Without grace it is killed in the calling thread, if it can be."""
        verdict, task = _cancel(reason), self._under_way.get(future)
        if task is not None:
            try:
                if not (is_finalizer or self._is_reentered):
                    with self._serving_after_interrupt(), self.lock:
                        self._take_back(task)
                        task.kill_now(verdict, grace_s)
                        self._match()
            finally:  # also after an interrupt
                self.supervisor_thread.call(partial(self._stop, task, verdict, grace_s))

    def can_wait(self) -> bool:
        return self.supervisor_thread.can_wait() and not self._is_reentered

    def shut_down(self, *, cancel_pending: bool) -> None:
        """Accept no more tasks; end the thread when the last one is over. May be called again."""
        self._closed_reason = self._closed_reason or _CLOSED  # no lock: the finalizer of an Executor may run anywhere
        if cancel_pending:
            if not self._is_reentered:
                self._cancel_pending()
            self.supervisor_thread.call(self._cancel_pending)  # also what it has yet to put into the queue
        self.supervisor_thread.call(self._leave_if_done)

    def _cancel_pending(self) -> None:
        for task in self._tasks():
            task.future.cancel_pending("the executor is shutting down")

    def _tasks(self) -> list[Task]:
        """Return the tasks that wait or run."""
        with self.lock:
            return list(self._under_way.values())

    def stop_all(self, grace_s: float | None, reason: str) -> None:
        """Stop every task, waiting or running."""
        for task in self._tasks():
            task.future.cancel(grace_s=grace_s, reason=reason)

    def stop_unread(self) -> None:
        """Stop the streams that no thread will read: the main thread has ended."""
        for task in self._tasks():
            if not task.future.is_wanted():
                task.future.cancel(reason="the program is exiting, and nothing reads the stream")

    def close_in_child(self) -> None:
        """Fail the parent's tasks in a fork of the program. The next task gets a thread and workers of the child."""
        self.supervisor_thread.close_in_child()
        self._repeated.close()
        self.output.relay.close_in_child()
        under_way = self._under_way
        self._begin()
        for future in under_way:
            future.close_in_child()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def under_way(self) -> int:
        """The number of tasks that wait or run."""
        return sum(not task.future.done() for task in self._tasks())

    # ── in the thread ──

    def on_started(self) -> None:
        self._serve_waiting()

    def on_thread_failed(self) -> None:
        with self.lock:
            lanes = list(self._lanes)
        for lane in lanes:
            lane.revoke()

    def on_thread_ending(self) -> None:
        loss = self.supervisor_thread.loss
        with self.lock:
            self._closed_reason = self._closed_reason or loss.facts["message"]
            self._waiting.clear()  # they end here, and nobody withdraws them
        for task in self._tasks():
            task.fail(loss.facts["message"], loss.code)
        self._repeated.close()
        self.output.relay.close()

    def on_lane(self, lane: Lane) -> None:
        self.supervisor_thread.has_started = True  # a call may begin now
        with self.lock:
            self._lanes = [each for each in self._lanes if not each.is_over]
            self._lanes.insert(len(self._lanes) if lane.quiet else 0, lane)
        self.on_room()

    def on_room(self) -> None:
        with self.lock:
            self._match()
            self._share_lines()

    def on_ran(self, lane: Lane, ran: Sequence[tuple[LaneCall, bytes | memoryview]]) -> None:
        try:
            self.on_room()  # first: a worker is not kept waiting for callbacks
        finally:  # in no line any more: nobody else would end them
            for call, result in ran:
                call.complete(result)

    def put_back(self, calls: Sequence[LaneCall]) -> None:
        self._without_room = ""
        for task in reversed(calls):
            assert isinstance(task, Task)
            if task.asked is not None:
                self.supervisor_thread.call(partial(self._stop, task, *task.asked))
            elif task.future in self._under_way:
                task.future.pid = None
                self._waiting[task.future] = task
                self._waiting.move_to_end(task.future, last=False)

    def _share_lines(self) -> None:
        """Let a lane without a call have half of the longest line. The lock is held."""
        if self._waiting:
            return
        longest: Lane | None = None
        most = 1
        has_idle = False
        for lane in self._lanes:  # a comprehension and `max` would take twice as long, after each call
            count = len(lane)
            if count > most:
                longest, most = lane, count
            has_idle = has_idle or lane.is_idle
        if longest is not None and has_idle:
            self._take_back_from(longest)
            self._match()

    def on_early_output(self, data: bytes, stream: str) -> None:
        self.output.show(data, stream)

    def on_pool_broken(self) -> None:
        self._enter_waiting()

    def _queue(self, task: Task) -> None:
        """Let a task wait whose submit could not take it in, unless it was stopped before."""
        with self.lock:
            if task.future in self._under_way:
                self._waiting[task.future] = task
                self._match()
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Make the waiting tasks jobs if a time limit runs for one or no worker will come; else open lanes."""
        if not self.supervisor_thread.has_started:
            return
        with self.lock:
            self.repair()
            are_jobs = any(call.waits_as_job for call in self._waiting.values())
        if are_jobs or self.supervisor_thread.fault or self.supervisor.why_broken():
            self._enter_waiting()
        else:
            self.supervisor.jobs.open_lanes()
            self.on_room()

    def _enter_waiting(self) -> None:
        """Make all waiting tasks jobs, in order, or end them if no worker will come. What no worker has received comes
        first: else the first job would take the worker from it.
        """
        with self.lock:
            self.repair()
            for lane in self._lanes:
                if not lane.is_alone:
                    self._take_back_from(lane)
            calls, self._waiting = list(self._waiting.values()), OrderedDict()
        for call in calls:
            call.enter()

    def _stop(self, task: Task, verdict: Verdict, grace_s: float | None, fault: str = "") -> None:
        """Begin a stop, unless the task is over. `fault`: why a task that has not begun ends as failed."""
        if task.future not in self._under_way:
            return
        with self.lock:
            self.repair()
            self._waiting.pop(task.future, None)
            task.asked = verdict, grace_s
        task.stop(fault)

    def _give_up(self, task: Task, fault: str) -> None:
        """End a task after an interrupt or a fault."""
        verdict = _cancel(fault or "its caller was interrupted")
        with self.lock:
            task.asked = verdict, 0.0  # first: from here on it is not given again
            self._take_back(task)
        self._stop(task, verdict, 0.0, fault)
        for lane in list(self._lanes):
            if lane.is_alone:  # the interrupted thread may not have asked for it
                lane.settle()
        self._serve_waiting()

    def forget(self, call: Task) -> None:
        self._under_way.pop(call.future, None)
        if self._closed_reason:
            self._leave_if_done()

    def _leave_if_done(self) -> None:
        with self.lock:
            done = bool(self._closed_reason) and not self._under_way
        if done:
            self.supervisor_thread.leave()


def _cancel(reason: str) -> Verdict:
    return Verdict("cancelled", by="user", reason=reason, requested_at=monotonic())
