"""A supervisor in a thread of a program that is not ours: started, spoken to from any thread, closed.

Runs in: supervisor. The program is left alone: no signal handler, no subreaper, no child that is not ours is waited
for; nothing of its environment, directory or umask is changed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from killable.supervisor.linux.host_forks import leave_loop_to_parent
from killable.supervisor.pools.lease import LeaseHolder
from killable.supervisor.settings import Settings
from killable.supervisor.supervisor import Supervisor
from killable.supervisor.telemetry.observer import Unobserved

logger = logging.getLogger("killable.executor")

ACTS_PER_TURN = 64
"""What is read of the inbox in one turn of the loop: then frames, exits and deadlines have theirs."""


class ThreadClosed(RuntimeError):
    """It takes nothing any more."""


class ThreadCallbacks(LeaseHolder, Protocol):
    """Whose supervisor it is."""

    def on_hosted(self, supervisor: Supervisor) -> None:
        """There is a supervisor now, in this thread, and it is about to start."""
        ...

    def on_started(self) -> None:
        """It has started, or failed to."""
        ...

    def on_left(self, failure: BaseException | None) -> None:
        """The thread is about to end: nothing will be done in it any more. `failure` is why, if it was not told to."""
        ...


class SupervisorThread:
    """Its thread ends when it was told to leave and nothing of it is left."""

    def __init__(self, settings: Settings, name: str, callbacks: ThreadCallbacks) -> None:
        """`callbacks` is told of everything in its thread."""
        self._settings = settings
        self._callbacks = callbacks
        self._inbox: deque[Callable[[Supervisor], None]] = deque()
        self._lock = threading.RLock()  # a finalizer of the program's may come in the middle, and call
        self._will_read = True
        """The inbox is going to be read, without our saying so."""
        self._closed = False
        self._loop: asyncio.SelectorEventLoop | None = None
        self._supervisor: Supervisor | None = None
        self._told_to_leave: asyncio.Event | None = None
        self.has_started = False
        """Whether it is known what the supervisor can do: before that calls only wait, or are stopped."""
        self.failure: BaseException | None = None
        """Why its supervisor did not start, or what has ended its thread before its time."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def fault(self) -> str:
        """Return the same in words; empty: there is none."""
        return "" if self.failure is None else f"its processes cannot be started: {self.failure}"

    def start(self) -> None:
        """Begin. Raise RuntimeError when there can be no thread."""
        self._thread.start()

    def call(self, act: Callable[[Supervisor], None]) -> None:
        """Have something done in its thread, in the order of the calls, once it has started. Raise Closed."""
        with self._lock:
            if self._closed:
                raise ThreadClosed("it has been shut down")
            self._inbox.append(act)
            if self._will_read:
                return
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._read_inbox)
            self._will_read = True  # not before: an interrupted caller would leave the inbox unread

    def leave(self) -> None:
        """End everything; only in its own thread."""
        if self._told_to_leave is not None:
            self._told_to_leave.set()

    def close_in_child(self) -> None:
        """In a fork of the program: this is the parent's, and its thread did not come along."""
        self._lock = threading.RLock()  # another thread may have held it
        self._closed = True
        if self._supervisor is not None:
            self._supervisor.close_in_child()
        if self._loop is not None:
            leave_loop_to_parent(self._loop)

    def can_wait(self) -> bool:
        """Whether this thread may wait for what is done in the other one: it is not that itself."""
        return threading.current_thread() is not self._thread

    def join(self, at_most_s: float | None = None) -> bool:
        """Wait until nothing of it is left, and tell whether that is so; in its own thread nobody can."""
        if self.can_wait() and self._thread.ident is not None:
            self._thread.join(at_most_s)
            return not self._thread.is_alive()
        return True

    def _run(self) -> None:
        try:
            # Not asyncio.run: the program may have a policy for loops of its own.
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                loop = runner.get_loop()
                assert isinstance(loop, asyncio.SelectorEventLoop)
                self._loop = loop
                try:
                    runner.run(self._live())
                except BaseException as error:  # a defect of ours: nothing of it may outlive its thread
                    self.failure = error
                    with self._lock:
                        self._closed = True  # before the loop is: nobody may tell it anything then
                    logger.exception("executor_lost")
                    if self._supervisor is not None:
                        runner.run(self._supervisor.close(0.0))
        except OSError as error:  # no descriptor is left for the loop
            self.failure = error
        finally:
            with self._lock:
                self._closed = True
            self._callbacks.on_left(self.failure)

    async def _live(self) -> None:
        self._told_to_leave = asyncio.Event()
        self._supervisor = Supervisor(self._settings, observer=Unobserved(), lease_holder=self._callbacks)
        self._callbacks.on_hosted(self._supervisor)
        starting = asyncio.ensure_future(self._supervisor.start())
        leaving = asyncio.ensure_future(self._told_to_leave.wait())
        asyncio.get_running_loop().call_soon(self._read_inbox)  # behind the first step of the start
        await asyncio.wait((starting, leaving), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            self.failure = starting.exception()
            if self.failure is not None:
                self._supervisor.jobs.close()  # nothing is begun by what has started in part
            self.has_started = True
            self._callbacks.on_started()
            await leaving
        starting.cancel()  # a preload may take its time
        with self._lock:
            self._closed = True
        await self._supervisor.close()  # also what did not start whole

    def _read_inbox(self) -> None:
        assert self._supervisor is not None and self._loop is not None
        for _ in range(ACTS_PER_TURN):
            try:
                act = self._inbox.popleft()
            except IndexError:
                with self._lock:
                    if not self._inbox:
                        self._will_read = False
                        return
            else:
                try:
                    act(self._supervisor)
                except BaseException:
                    self._loop.call_soon(self._read_inbox)  # there may be more
                    raise
        self._loop.call_soon(self._read_inbox)
