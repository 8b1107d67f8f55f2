"""The future of one task of an Executor. It is done only when no process of the job is alive.

Runs in: supervisor (its thread finishes them) | any thread of the program (reads and cancels them).

    PENDING ──assigned──► RUNNING ──ended──► FINISHED, or CANCELLED_AND_NOTIFIED when a cancel ended it
       └──cancel()──► CANCELLED ──finish──► CANCELLED_AND_NOTIFIED

A result is unpickled in the thread that reads it, and not in the supervisor's thread, which must be quick to kill.
"""

from __future__ import annotations

import json
import threading
from _thread import RLock  # what `threading.RLock` calls, for each future
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, LOGGER, PENDING, RUNNING
from mmap import mmap
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self, TypeVar

from killable.supervisor.executor import ctrl_c, ending_imports
from killable.supervisor.executor.progress import Progress, ProgressReports
from killable.supervisor.executor.task_results import (
    RAISED_CODES,
    UnpickleFailed,
    raised_error,
    read,
    unpickled,
)
from killable.supervisor.linux.program_signals import mask_of_program
from killable.supervisor.models import Outcome
from killable.workers.error_codes import CODES
from killable.workers.errors import JobCancelled, JobError, JobFailed
from killable.workers.protocol.shared_memory import MemoryFile

if TYPE_CHECKING:
    from killable.supervisor.executor.program_output import ProgramOutput
    from killable.supervisor.jobs.event_log import EventLog
    from killable.supervisor.jobs.job import Job

T = TypeVar("T")

_DONE = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})


class FutureOwner(Protocol):
    """What a future uses of its Executor."""

    output: ProgramOutput

    def withdraw(self, future: JobFuture[Any], reason: str) -> bool:
        """Take a task out of the queue, or back from its worker's line, and end it (`begin_cancelled`); return False if
        it has begun, or is over, or this cannot be done here: only `stop` ends it then.
        """
        ...

    def is_begun(self, future: JobFuture[Any]) -> bool:
        """Return whether a worker has the task."""
        ...

    def stop(self, future: JobFuture[Any], grace_s: float | None, reason: str, *, is_finalizer: bool = False) -> None:
        """Stop the job of a future. May be called again. `is_finalizer`: without taking a lock."""
        ...

    def can_wait(self) -> bool:
        """Return whether the calling thread may wait for the end of a job."""
        ...


class JobFuture(Future[T]):
    """A `concurrent.futures.Future` whose running job can be stopped.

    `done()` is true when the process tree of the job is proven gone, or its worker is idle and will be reused.
    """

    # Of the class until a future has its own: a call that does nothing sets three of them.
    _is_unpickled = False
    _value: Any = None
    _error: BaseException | None = None
    _payload: bytes | memoryview | mmap | MemoryFile | None = None
    _raised = b""
    _partial: bytes | MemoryFile | None = None
    _log: EventLog | None = None
    _ending: JobError | None = None
    _reports: ProgressReports | None = None
    """None: there is no report, and no callback."""
    job_id = ""
    """The id in the logs; empty until the task was accepted."""
    pid: int | None = None
    """The process id of the worker, once the job runs. For people and logs."""
    _certificate: Mapping[str, Any] | None = None
    _has_run_through = False
    """It ran undisturbed: what is known of its end is made when somebody asks."""

    def __init__(self, owner: FutureOwner) -> None:
        super().__init__()
        self._owner = owner
        self._unpickle_lock = RLock()  # reentrant: unpickling runs the program's code, and signal handlers

    # ── for the caller ──

    def cancel(self, *, grace_s: float | None = None, reason: str = "") -> bool:
        """Stop the job, even while it runs. Return False if it has finished already.

        True means accepted: `done()` and `cancelled()` follow when the processes are gone. A job that finishes first
        keeps its result. `grace_s` shortens the grace; 0 kills at once. Another call can only shorten it further.
        """
        try:
            if not self.cancel_pending(reason) and self.done():
                return self._state != FINISHED
        finally:  # also after an interrupt
            if not self.done():
                self._owner.stop(self, grace_s, reason)
        return True

    def cancel_in_finalizer(self, reason: str) -> None:
        """Do as `cancel`, without taking a lock: who holds one may be waiting, perhaps further up the same stack."""
        if not self.done():
            self._owner.stop(self, None, reason, is_finalizer=True)

    def done(self) -> bool:
        """Return whether the job has ended, in any way."""
        return self._state in _DONE  # without the condition, as in `cancelled`: who holds it may wait for who asks

    def cancelled(self) -> bool:
        """Return whether a cancel has ended the job."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def running(self) -> bool:
        """Return whether a worker has the task. True of one behind another only once that one's end is known."""
        # In this order: a task that leaves its line as a job is marked as running first.
        return self._state not in _DONE and (self._owner.is_begun(self) or super().running())

    def cancel_pending(self, reason: str) -> bool:
        """Cancel the task if it has not begun; return whether it had not."""
        if self._state != PENDING or not self._owner.withdraw(self, reason):
            return False
        with self._condition:
            self._condition.notify_all()
        self._invoke_callbacks()
        return True

    def result(self, timeout: float | None = None) -> T:
        """Return the job's result, or raise its error: its own exception, with the worker's traceback as the cause, or
        a JobError: JobCancelled (a CancelledError), JobTimedOut (a TimeoutError), WorkerCrashed (a BrokenProcessPool),
        JobFailed.

        Raise TimeoutError if it is not done after `timeout` seconds; the job continues. A Ctrl-C stops the job.
        """
        error = self.exception(timeout)
        if error is not None:
            try:
                raise error
            finally:
                del error, self  # no reference cycle through the traceback
        return self._value  # type: ignore[no-any-return]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what `result` would raise, or None. Raise JobCancelled and TimeoutError as `result` does."""
        if self._state != FINISHED:
            try:
                super().exception(timeout)
            except CancelledError:
                raise self._ending or JobCancelled() from None
            except KeyboardInterrupt:
                self.cancel(reason=ctrl_c.OF_CALLER)
                raise
        if not self._is_unpickled:
            with self._unpickle_lock:
                if not self._is_unpickled:
                    self._open()
        return self._error

    def _get_snapshot(self) -> tuple[bool, bool, T | None, BaseException | None]:
        """Return done, cancelled, result and exception. asyncio calls this from CPython 3.15 on."""
        if not self.done():
            return False, False, None, None
        if self.cancelled():
            return True, True, None, None
        error = self.exception()
        return True, False, self._value, error

    def is_wanted(self) -> bool:
        """Return whether the task is still useful after the main thread has ended. It is: it may have side effects."""
        return True

    def wait_until_done(self) -> None:
        """Wait until the future is done, with any outcome. Return at once in the supervisor's thread, which ends it."""
        if self._owner.can_wait():
            with self._condition:
                self._condition.wait_for(lambda: self._state in _DONE)

    @property
    def certificate(self) -> Mapping[str, Any] | Any:  # `Any`: who knows that it is done need not check for None
        """The timed record of the end; None until the future is done."""
        if self._has_run_through and self._certificate is None:
            from killable.supervisor.attempts.certificate import undisturbed_certificate

            self._certificate = undisturbed_certificate()
        return self._certificate

    @property
    def error(self) -> JobError | None:
        """The end as a JobError with code and facts, also if the function raised; None if it completed or is not done.
        Unpickles the result, as `result` does, because a result that cannot be unpickled is an error.
        """
        if self._ending is None and self._state == FINISHED and self._owner.can_wait():
            self.exception()
        return self._ending

    @property
    def partial(self) -> Any:
        """What the job returned in its grace, else its last `ctx.checkpoint`, else None. A new object each time.

        Raise JobFailed (`result.unserializable`) when it cannot be unpickled here.
        """
        try:
            return read(self._partial_result)
        except UnpickleFailed as why:
            raise self._unpickle_error("partial result", why) from why.__cause__

    def _partial_result(self) -> Any:
        with self._unpickle_lock:
            if isinstance(self._partial, MemoryFile):
                laid = self._partial
                with laid.mapped() as content:
                    self._partial = bytes(content)
                laid.close()  # free the descriptor: the future may be kept for long
        return unpickled(self._partial)

    if TYPE_CHECKING:  # the library's own says nothing of what its subclasses hand to the callback

        def add_done_callback(self, fn: Callable[[Self], object]) -> None: ...

    @property
    def progress(self) -> Progress | None:
        """What the task has reported last with `ctx.progress`; None: nothing."""
        return None if self._reports is None else self._reports.latest

    def add_progress_callback(self, fn: Callable[[Progress], object]) -> None:
        """Call `fn(progress)` for what the task reports with `ctx.progress`: the latest, if several come at once.

        It runs in a thread of the Executor, one callback at a time; an exception is logged. The last report comes
        before the future is done, unless a callback takes more than half a second.
        """
        self._progress_reports().add_callback(fn)

    def _progress_reports(self) -> ProgressReports:
        with self._condition:
            if self._reports is None:
                self._reports = ProgressReports(self, self._owner.output.relay.put)
            return self._reports

    @property
    def stdout(self) -> str:
        """The lines that the job has written to stdout and stderr so far, each with its line end. At most
        `output_bytes` are kept.
        """
        return self._printed(("stdout", "stderr"))

    @property
    def stderr(self) -> str:
        """Of `stdout` the lines that were written to stderr."""
        return self._printed(("stderr",))

    def _printed(self, streams: Sequence[str]) -> str:
        if self._log is None:
            return ""
        lines = (json.loads(event.data) for event in self._log.read(-1, len(self._log)) if event.name == "log")
        return "".join(line["text"] + "\n" for line in lines if line.get("stream", "stdout") in streams)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a future cannot be sent to a worker or pickled: send its result")

    def __repr__(self) -> str:
        words = [self.job_id, self._state.lower().partition("_")[0]]
        if self._ending is not None and self._ending.code not in words:
            words.append(self._ending.code)
        if self.pid is not None:
            words.append(f"pid={self.pid}")
        return f"<{type(self).__name__} {' '.join(words)}>"

    # ── for the supervisor's thread ──

    def fail(self, error: Exception) -> None:
        """Finish a task that cannot be pickled."""
        facts = {"type": type(error).__name__, "job_id": self.job_id, "certificate": None}
        self._ending = JobFailed(f"the call cannot be pickled: {error}", code="input.invalid", **facts)
        self._error, self._is_unpickled = error, True
        self.set_running_or_notify_cancel()
        self.set_exception(error)

    def begin(self) -> bool:
        """Mark the task as running. Return False if it is not pending any more."""
        with self._condition:
            return self.begin_in_lane()

    def begin_in_lane(self) -> bool:
        """Do as `begin` for a task that its worker has: no other thread can end it as one that has not begun.

        The lock of the owner is held, so the condition is not taken: a thread in `concurrent.futures.wait` holds those
        of all its futures, and a finalizer that runs there may cancel another one, which takes that lock.
        """
        if self._state != PENDING:
            return False
        self._state = RUNNING
        return True

    def begin_cancelled(self, reason: str) -> None:
        """Mark a task as cancelled that its owner has just taken out of the queue, whose lock is held: see above.
        `finish` follows.
        """
        self.note_cancelled(reason)
        self._ending = JobCancelled(by="user", reason=reason, job_id=self.job_id, certificate=self.certificate)
        self._state = CANCELLED

    def note_cancelled(self, reason: str) -> None:
        """Set the certificate of a task that was cancelled before it began: it has no phase times."""
        if self._certificate is None:
            self._certificate = {"requested": 0.0, "cause": "cancelled", "by": "user", "reason": reason}

    def on_accepted(self, job: Job) -> None:
        self.pid, self._log = job.pid, job.log

    def on_changed(self, job: Job) -> None:
        self.pid, self._log = job.pid, job.log
        if job.is_over:
            self._on_over(job)

    def note_progress(self, reported: Mapping[str, Any] | None) -> None:
        if reported is not None:
            self._progress_reports().take(reported)

    def _on_over(self, job: Job) -> None:
        outcome = job.outcome
        assert outcome is not None
        self._certificate = self._certificate or job.certificate  # `note_cancelled` may have set it
        self._raised = job.exception
        self._partial = job.partial
        if outcome.state == "completed":
            self._payload = job.result if job.shared_result is None else job.shared_result.without_descriptor()
        elif job.shared_result is not None:
            self._partial = job.shared_result
        self.finish(outcome)

    def complete(self, result: bytes | memoryview) -> None:
        """Finish a task that ran undisturbed and never became a job; its worker is free. Does nothing if the task was
        given up meanwhile, because its caller was interrupted.
        """
        condition = self._condition  # what `set_result` does, of which a call that does nothing would take a tenth
        condition.acquire()  # no signal handler runs in this thread: `with` would be two calls in Python
        try:
            if self._state in _DONE:
                return
            self._payload, self._has_run_through, self._state = result, True, FINISHED
            for waiter in self._waiters:
                waiter.add_result(self)
            condition.notify_all()
        finally:
            condition.release()
        if self._done_callbacks:
            self._invoke_callbacks()

    def finish(self, outcome: Outcome) -> None:
        """Finish the future: no process of the job is alive, or it never began. Does nothing if it has finished."""
        if self._state in (CANCELLED_AND_NOTIFIED, FINISHED):
            return
        self.begin()  # from here on a cancel changes nothing
        if self._state == CANCELLED:  # before it began: `_ending` is set already
            self.set_running_or_notify_cancel()
            with self._condition:
                self._condition.notify_all()  # who has cancelled it may have been interrupted
            return
        if outcome.code is not None:
            self._ending = self._ending_of(outcome, outcome.code)
        if isinstance(self._ending, JobCancelled):
            self._finish_cancelled()
        elif self._ending is not None:
            self.set_exception(self._ending)  # `exception` returns the job's own, once it is unpickled
        else:
            self.set_result(None)  # type: ignore[arg-type]  # `result` returns the unpickled value

    def _ending_of(self, outcome: Outcome, code: str) -> JobError:
        try:
            ending_imports.load()
        except OSError:  # no descriptor: the error has no class of its own then, but its code
            return JobError(outcome.message, code=code, job_id=self.job_id, **outcome.facts)
        from killable.supervisor.executor.exception_notes import add_notes
        from killable.workers.error_classes import WorkerCrashed, error_class

        facts = {"job_id": self.job_id, "certificate": self.certificate, **outcome.facts}
        ending = error_class(code)(outcome.message, code=code, **facts)
        assert isinstance(ending, JobError), CODES[code]
        add_notes(ending, self.certificate, self.stderr if isinstance(ending, WorkerCrashed) else "")
        return ending

    def close_in_child(self) -> None:
        """Fail the future in a fork of the program: its job belongs to the parent."""
        self._condition = threading.Condition()  # another thread may have held the locks at the fork
        self._unpickle_lock = RLock()
        self._done_callbacks: list[Callable[[JobFuture[T]], object]] = []  # they and the waiters are the parent's
        self._waiters: list[Any] = []
        if not self.done():
            self.finish(
                Outcome("failed", "supervisor_lost", "its executor belongs to the process that forked this one")
            )

    def _finish_cancelled(self) -> None:
        with self._condition:
            self._state = CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._invoke_callbacks()

    def _invoke_callbacks(self) -> None:
        """Call the callbacks as the library does. No exception of a callback ends the supervisor's thread."""
        for callback in self._done_callbacks:
            try:
                with mask_of_program():
                    callback(self)
            except BaseException as error:
                if not isinstance(error, Exception) and self._owner.can_wait():
                    raise
                LOGGER.exception("exception calling callback for %r", self)

    # ── the result ──

    def _open(self) -> None:
        """Unpickle the result or the exception. If that fails, only this future fails."""
        ending, payload, value = self._ending, self._payload, None
        if ending is None:
            try:
                value = read(unpickled, payload)
            except UnpickleFailed as why:
                self._error = self._ending = self._unpickle_error("result", why)
            self._payload, self._value, self._is_unpickled = None, value, True  # before an interrupt can come
            if isinstance(payload, MemoryFile):
                payload.close()
            return
        self._error = ending
        if ending.code in RAISED_CODES and self._raised:
            try:
                self._error = raised_error(self._raised, ending.facts["traceback"])
            except UnpickleFailed as why:
                ending.__cause__ = why.__cause__
        self._is_unpickled = True

    def _unpickle_error(self, what: str, why: UnpickleFailed) -> JobError:
        """Return the error for bytes of this task that cannot be unpickled here."""
        error = why.__cause__
        told = JobFailed(
            f"the job's {what} cannot be unpickled here: {type(error).__name__}: {error}",
            code="result.unserializable",
            type=type(error).__name__,
            job_id=self.job_id,
            certificate=self.certificate,
        )
        told.__cause__ = error
        return told
