"""The calls that one Executor has under way: given to its supervisor, stopped, counted until the last one is over.

Runs in: supervisor (what a method is said to do "in the thread" runs in its thread) | any thread of the program.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from killable.supervisor.executor.futures import JobFuture
from killable.supervisor.executor.hosting import Closed, Hosting
from killable.supervisor.inputs import announces, order_of
from killable.supervisor.job import JobType, Limits, Outcome, Submission, Verdict
from killable.supervisor.limits import limits_of_job
from killable.supervisor.loan import Loan
from killable.supervisor.settings import Settings
from killable.workers import pickles
from killable.workers.calls import CALL, STREAM
from killable.workers.errors import Refused
from killable.workers.messages import INLINE_BYTES_MAX
from killable.workers.pickles import Pickled
from killable.workers.sealed import SealedInput

if TYPE_CHECKING:
    from killable.supervisor.registry import Entry
    from killable.supervisor.service import Supervisor

_CLOSED = "cannot schedule new futures after shutdown"
LOANS_MAX = 100
"""Then those that have ended are sorted out."""
GIVEN_BYTES_MAX = 32 << 10
"""Below what a socket takes at once (net.core.wmem_default): a larger call goes through the supervisor's thread."""


class Calls:
    """It outlives the Executor as long as anything is under way."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.workers = settings.pools[0].workers
        self._lock = threading.RLock()  # a finalizer of the program's may come in the middle, and shut this down
        self._under_way: dict[JobFuture[Any], Entry | Loan | None] = {}
        self._stops: dict[JobFuture[Any], tuple[Verdict, float | None]] = {}
        self._shut_down = False
        self._prefix = f"job-{uuid.uuid4().hex[:8]}"
        self._numbers = itertools.count(1)
        self._loans: list[Loan] = []
        """The latest is taken first; those that have ended are passed over."""
        self._types: dict[str, JobType] = {}
        self.hosting = Hosting(settings, name, self._on_lent)

    def submit(self, type: str, call: tuple[Any, ...], limits: Mapping[str, Any], future: JobFuture[Any]) -> None:
        """Take a call; one that cannot be pickled is over at once. Raise Closed."""
        if self._shut_down:  # before the work of pickling it
            raise Closed(_CLOSED)
        function, args, kwargs = call
        try:
            packed = pickles.pickled({"function": function, "args": args, "kwargs": kwargs})
        except Exception as error:  # pickling runs the caller's __reduce__: anything can come
            future.fail(error)
            return
        submission = Submission(type, _where_it_lies(packed), limits=dict(limits))
        future.job_id = f"{self._prefix}-{next(self._numbers)}"
        with self._lock:
            if self._shut_down:
                raise Closed(_CLOSED)
            self._under_way[future] = None
        if packed.size > GIVEN_BYTES_MAX or not self._give(submission, future):
            self.hosting.call(lambda supervisor: self._accept(supervisor, submission, future))

    def _give(self, submission: Submission, future: JobFuture[Any]) -> bool:
        """Give the call to an idle worker in this very thread; return whether there was one."""
        while True:
            try:
                loan = self._loans.pop()
            except IndexError:
                return False
            job_type = self._types[submission.type]
            in_force = limits_of_job(job_type.limits, job_type.caps, submission.limits)
            announce = announces(in_force)
            order, passed = order_of(future.job_id, submission, in_force, 1, loan.fence, loan.outlet, announce=announce)
            if not future.set_running_or_notify_cancel():  # by a shutdown, before anyone has seen it
                self._loans.append(loan)
                return False
            self._under_way[future] = loan
            written = loan.give(order, passed, partial(self._adopt, loan, submission, in_force, future))
            if written < 0:
                future.take_back()
                self._under_way[future] = None
                continue
            # It may be long until the worker says a word: till then a spare takes its place, and time runs.
            with suppress(Closed):  # then it is over already
                self.hosting.call(partial(self._send_rest, loan, order[written:], () if written else passed))
            return True

    def stop(self, future: JobFuture[Any], grace_s: float | None, reason: str) -> None:
        """Have a call stopped; it is told of its end."""
        try:
            self.hosting.call(lambda supervisor: self._stop(supervisor, future, grace_s, reason))
        except Closed:
            pass  # then it is over

    def can_wait(self) -> bool:
        return self.hosting.can_wait()

    def shut_down(self, *, cancel_pending: bool) -> None:
        """Take nothing more; leave when the last call is over."""
        with self._lock:
            self._shut_down = True
            futures = list(self._under_way)
        pending = [future for future in futures if cancel_pending and not future.running()]
        for future in pending:
            future.cancel(reason="the executor is shutting down")
        try:
            self.hosting.call(lambda _: self._leave_if_done())
        except Closed:
            pass

    def stop_all(self, grace_s: float | None, reason: str) -> None:
        """Stop every call, waiting or running."""
        with self._lock:
            futures = list(self._under_way)
        for future in futures:
            future.cancel(grace_s=grace_s, reason=reason)

    def leave_to_parent(self) -> None:
        """In a fork of the program: nothing that is under way there will ever end here."""
        self._lock = threading.RLock()
        self._shut_down = True
        self.hosting.leave_to_parent()
        under_way, self._under_way = self._under_way, {}
        for future in under_way:
            future.leave_to_parent()

    # ── in the thread ──

    def _on_lent(self, supervisor: Supervisor, loan: Loan) -> None:
        if not self._types:
            self._types = {name: supervisor.type(name) for name in (CALL, STREAM)}
        self._supervisor = supervisor
        if len(self._loans) > LOANS_MAX:
            self._loans = [each for each in self._loans if each.worker.loan is each]
        self._loans.append(loan)

    def _adopt(self, loan: Loan, submission: Submission, in_force: Limits, future: JobFuture[Any]) -> None:
        listener = _Listener(self, future)
        job_type = self._types[submission.type]
        entry = self._supervisor.call(future.job_id, job_type, submission, in_force, listener, loan)
        self._on_entry(self._supervisor, entry, future)

    def _send_rest(self, loan: Loan, rest: bytes, passed: Sequence[int], _supervisor: Supervisor) -> None:
        """Make a call known that its caller has given away, and send what could not be written at once."""
        loan.come_home()
        if rest:
            loan.worker.process.send(rest, passed)

    def _accept(self, supervisor: Supervisor, submission: Submission, future: JobFuture[Any]) -> None:
        if future.cancelled():  # before anyone saw it
            self._end(future, Outcome("cancelled", "cancelled", facts={"by": "user"}))
            return
        if self.hosting.failure is not None:
            why = f"its processes cannot be started: {self.hosting.failure}"
            self._end(future, Outcome("failed", "spawn", why))
            return
        try:
            job_type = supervisor.type(submission.type)
        except Refused as refused:
            self._end(future, Outcome("failed", "spawn", supervisor.why_broken() or refused.message))
            return
        in_force = limits_of_job(job_type.limits, job_type.caps, submission.limits)
        entry = supervisor.call(future.job_id, job_type, submission, in_force, _Listener(self, future))
        if future in self._under_way:  # it may be over already
            self._on_entry(supervisor, entry, future)

    def _on_entry(self, supervisor: Supervisor, entry: Entry, future: JobFuture[Any]) -> None:
        self._under_way[future] = entry
        future.on_accepted(entry)
        if future in self._stops:  # asked for before there was anything to stop
            supervisor.stop(entry, *self._stops.pop(future))

    def _stop(self, supervisor: Supervisor, future: JobFuture[Any], grace_s: float | None, reason: str) -> None:
        from killable.supervisor.registry import Entry  # loaded by then, in this thread

        held = self._under_way.get(future)
        if isinstance(held, Loan):
            held.come_home()
            held = self._under_way.get(future)
        verdict = Verdict("cancelled", by="user", reason=reason)
        if isinstance(held, Entry):
            supervisor.stop(held, verdict, grace_s)
        elif future in self._under_way:
            self._stops[future] = verdict, grace_s

    def _end(self, future: JobFuture[Any], outcome: Outcome) -> None:
        future.finish(outcome)
        self.forget(future)

    def forget(self, future: JobFuture[Any]) -> None:
        """A call is over."""
        self._under_way.pop(future, None)
        self._stops.pop(future, None)
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        with self._lock:
            done = self._shut_down and not self._under_way
        if done:
            self.hosting.leave()


class _Listener:
    """Hears of one job, for its future."""

    __slots__ = ("_calls", "_future")

    def __init__(self, calls: Calls, future: JobFuture[Any]) -> None:
        self._calls = calls
        self._future = future

    def on_assigned(self, entry: Entry) -> bool:
        return self._future.on_assigned(entry)

    def on_changed(self, entry: Entry) -> None:
        self._future.on_changed(entry)
        if entry.is_over:
            self._calls.forget(self._future)


def _where_it_lies(packed: Pickled) -> bytes | SealedInput:
    if packed.size > INLINE_BYTES_MAX:
        try:
            return SealedInput.laid(packed.lay)
        except OSError:
            pass  # no memory or no descriptor for it: in pieces, through the socket
    return packed.joined()
