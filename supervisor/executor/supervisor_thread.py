"""Runs a supervisor in a thread of the user's program: starts it, runs calls from any thread in it, closes it.

Runs in: supervisor. The program is left alone: no signal handler, no signal taken from its threads, no subreaper, no
wait for children of the program, no change of its environment, directory or umask.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from killable.supervisor import event_loops
from killable.supervisor.executor import ending_imports, program_handlers
from killable.supervisor.linux import program_signals
from killable.supervisor.linux.early_guard import EarlyGuard
from killable.supervisor.linux.program_forks import leave_loop_to_parent
from killable.supervisor.models import Verdict
from killable.supervisor.pools.lane import LaneHolder
from killable.supervisor.settings import Settings
from killable.supervisor.supervisor import Supervisor
from killable.supervisor.telemetry.observer import Unobserved

logger = logging.getLogger("killable.executor")

CALLS_PER_TURN = 64
"""Maximum number of calls run in one turn of the loop, so that frames, exits and deadlines are not delayed."""


class ThreadCallbacks(LaneHolder, Protocol):
    """Owns a supervisor thread. Its methods are called in that thread."""

    supervisor: Supervisor
    """Set when it is about to start."""

    def on_started(self) -> None:
        """Note that the supervisor has started, or failed to (`failure`)."""
        ...

    def on_thread_failed(self) -> None:
        """Make jobs of the calls that workers have: the supervisor is about to end those by `loss`."""
        ...

    def on_thread_ending(self) -> None:
        """Note that the thread is about to end. What is under way ends by its `loss`."""
        ...


class SupervisorThread:
    """A thread with an event loop and a supervisor. After `leave` it ends when no process of the supervisor is left."""

    def __init__(
        self, settings: Settings, name: str, callbacks: ThreadCallbacks, early_guard: EarlyGuard | None = None
    ) -> None:
        """`early_guard`: the pool's first guard, if it is started already. It ends with this thread at the latest."""
        self._settings = settings
        self._early_guard = early_guard
        self._callbacks = callbacks
        self._inbox: deque[Callable[[], None]] = deque()
        self._reads = self._scheduled = 0
        """How often the inbox was read to its end, and what that was when a read of it was scheduled last. While they
        are equal, the inbox is about to be read: the first time when the supervisor has begun to start.
        """
        self._closed = self._is_started = False
        self._loop: asyncio.SelectorEventLoop | None = None
        self._supervisor: Supervisor | None = None
        self._end: asyncio.Future[None] | None = None
        """Done when the thread is to end; with an exception, when it must."""
        self._running: asyncio.Task[None] | None = None
        """Runs the supervisor until then."""
        self.has_started = False
        """Whether the start has finished, or a worker is there, which is some turns earlier. Until then tasks wait, or
        are stopped.
        """
        self.failure: BaseException | None = None
        """Why the supervisor did not start, or what ended the thread early; None: neither happened."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._ended = threading.Event()
        """Set when the thread is about to end. `Thread.join` alone would not do: in CPython 3.11 and 3.12 one that is
        interrupted takes the thread for ended, and the next returns at once.
        """

    @property
    def fault(self) -> str:
        """Return `failure` as text; empty: there is none."""
        return "" if self.failure is None else f"its processes cannot be started: {self.failure}"

    @property
    def loss(self) -> Verdict:
        """Return why tasks end that end because this thread does: none had begun before the supervisor started."""
        message = f"the executor's thread has ended: {self.failure!r}"
        return Verdict("supervisor_lost" if self.has_started else "spawn", facts={"message": message})

    def start(self) -> None:
        """Start the thread, unless it was started. Raise RuntimeError when it cannot be."""
        if not self._is_started:
            self._is_started = True  # first: a signal handler of the program may come here meanwhile
            try:
                self._thread.start()
            except BaseException:
                self._is_started = self._thread.ident is not None  # it was interrupted
                raise

    def call(self, act: Callable[[], None]) -> None:
        """Run `act` in the thread, in the order of the calls, once the thread runs. Does nothing after its end: every
        task is over then.

        Takes no lock: a finalizer of the program may run in here, and waits for a lock whose holder may be about to
        call.
        """
        if self._closed:
            return
        self._inbox.append(act)
        reads = self._reads  # not read earlier: a read that ends behind the append has seen it
        if self._scheduled != reads:
            assert self._loop is not None
            event_loops.tell(self._loop, self._read_inbox)
            self._scheduled = reads  # last: otherwise an interrupted caller would leave the inbox unread

    def call_later(self, delay_s: float, act: Callable[[], None]) -> asyncio.TimerHandle:
        """Run `act` after so many seconds. Call it only in the thread itself."""
        assert self._loop is not None
        return self._loop.call_later(delay_s, act)

    def leave(self) -> None:
        """Begin to end the thread. Call it only in the thread itself."""
        if self._end is not None and not self._end.done():
            self._end.set_result(None)

    def fail(self, error: BaseException) -> None:
        """End the thread with every process of its supervisor: a task cannot be followed any more. Call it only in the
        thread itself.
        """
        if self._end is not None and not self._end.done():
            self._end.set_exception(error)

    def report(self, error: BaseException) -> None:
        """Have an error logged behind which work goes on. Call it only in the thread itself."""
        assert self._loop is not None
        with contextlib.suppress(BaseException):  # it may be of a handler of the program, which raises again
            self._loop.call_exception_handler({"message": "a task has ended, but with an error", "exception": error})

    def close_in_child(self) -> None:
        """Give everything up in a fork of the program: it belongs to the parent, and the thread does not exist here."""
        self._closed = True
        if self._supervisor is not None:
            self._supervisor.close_in_child()
        if self._loop is not None:
            leave_loop_to_parent(self._loop)

    def can_wait(self) -> bool:
        """Return whether the calling thread may wait for the supervisor thread: it is another one."""
        return threading.current_thread() is not self._thread

    def join(self, at_most_s: float | None = None) -> bool:
        """Wait until the thread has ended; return whether it has. Return True at once in the thread itself."""
        if self.can_wait() and self._thread.ident is not None:
            if not self._ended.wait(at_most_s):
                return False
            self._thread.join()
        return True

    def _run(self) -> None:
        try:
            program_signals.leave_to_program()
            program_handlers.guard()
            ending_imports.reserve()
            # Not asyncio.run: the program may have set an event loop policy.
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                loop = runner.get_loop()
                assert isinstance(loop, asyncio.SelectorEventLoop)
                self._loop = loop
                try:
                    runner.run(self._run_supervisor())
                except BaseException as error:  # a bug: even so no process may outlive the thread
                    self.failure = error
                    self._closed = True
                    logger.exception("executor_lost")
                    if self._supervisor is not None:
                        assert self._running is not None
                        # Before any step of the loop: it may be in the middle of the start, and would note it.
                        self._running.cancel()
                        runner.run(self._end_lost(self._supervisor))
        except OSError as error:  # no descriptor is left for the start
            self.failure = error
        finally:
            self._closed = True
            if self._early_guard is not None:
                self._early_guard.close()  # if it was not taken over: the supervisor did not start
            try:
                self._callbacks.on_thread_ending()
            finally:
                ending_imports.release()  # what ends behind it is the caller's, who has descriptors or not
                self._ended.set()

    async def _run_supervisor(self) -> None:
        self._end = asyncio.get_running_loop().create_future()
        self._running = asyncio.current_task()
        self._supervisor = Supervisor(
            self._settings, observer=Unobserved(), lane_holder=self._callbacks, early_guard=self._early_guard
        )
        self._callbacks.supervisor = self._supervisor
        starting = asyncio.ensure_future(self._supervisor.start())
        asyncio.get_running_loop().call_soon(self._read_inbox)  # after the first step of the start
        await asyncio.wait((starting, self._end), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            self.failure = starting.exception()
            if self.failure is not None:
                self._supervisor.jobs.close()  # a supervisor that has started in part begins no job
            self.has_started = True
            self._callbacks.on_started()
            self.call_later(ending_imports.LOAD_AFTER_S, self._load_endings)
            await asyncio.wait((self._end,))
        starting.cancel()  # a preload may take long
        self._end.result()
        self._closed = True
        await self._supervisor.close()  # also after an incomplete start

    async def _end_lost(self, supervisor: Supervisor) -> None:
        supervisor.jobs.close()
        try:
            self._callbacks.on_thread_failed()
        except Exception:  # the same bug, perhaps: what is no job ends when the thread does
            logger.exception("executor_lost")
        await supervisor.close(0.0, self.loss)

    def _load_endings(self) -> None:
        try:
            ending_imports.load()
        except OSError:  # another thread has taken the last descriptor
            self.call_later(ending_imports.LOAD_AFTER_S, self._load_endings)

    def _read_inbox(self) -> None:
        assert self._loop is not None
        for _ in range(CALLS_PER_TURN):
            if not self._inbox:
                self._reads += 1  # who calls from here on schedules a read
                if not self._inbox:
                    return
            act = self._inbox.popleft()
            try:
                act()
            except BaseException:
                self._loop.call_soon(self._read_inbox)  # the inbox may hold more
                raise
        self._loop.call_soon(self._read_inbox)
