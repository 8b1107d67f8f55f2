"""Hands what tasks print, log, warn and report to the program, in order, in a thread of its own.

Runs in: supervisor, in the relay's thread (what is handed over) | the Executor's thread (`put`) | a thread of the
program (`join`).

The program's stdout may block, and its handlers and callbacks may take long: none of this may hold up a kill, or the
end of another task. So the Executor's thread only puts in, and never waits. What is put in is bounded: over ROOM_BYTES
the workers that print are left to wait in their write, as they would at a full pipe. Over QUEUE_BYTES_MAX it is dropped
and counted.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from killable.supervisor.clock import monotonic
from killable.supervisor.linux.program_signals import leave_to_program, mask_of_program

logger = logging.getLogger("killable.executor")

ROOM_BYTES = 1 << 20
"""Above this many bytes that wait, no more output is read from workers that print (`is_full`)."""
QUEUE_BYTES_MAX = 64 << 20
"""Tasks that end have their last output read in any case: above this it is not shown any more."""
STUCK_S = 0.5
"""After so many seconds in one act, the program's stdout or a callback blocks: nothing waits for the relay then. Less,
and a machine that stands still for a moment would pass for it.
"""

Act = Callable[[], None]

_relays: weakref.WeakSet[Relay] = weakref.WeakSet()


class Relay:
    """A queue of acts, and the thread that runs them. The thread is started for the first one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._acts: deque[tuple[int, Act]] = deque()
        self._bytes = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._works_off: threading.Thread | None = None
        """The thread of the program in `work_off`; the relay's own is not started meanwhile. Acts of one task never run
        in two threads: they run in its `contextvars.Context`, which only one can enter.
        """
        self._closed = False
        self._busy_since: float | None = None
        self._waiting_for_room: list[Act] = []
        _relays.add(self)

    @property
    def is_full(self) -> bool:
        return self._bytes > ROOM_BYTES

    @property
    def is_idle(self) -> bool:
        """Whether everything that was put in is done."""
        return not self._acts and self._busy_since is None

    @property
    def is_stuck(self) -> bool:
        """Whether the act under way blocks."""
        since = self._busy_since
        return since is not None and monotonic() - since > STUCK_S

    def put(self, act: Act, size: int = 0) -> None:
        """Run an act in the relay's thread, behind all others. An act with a `size` is dropped if there is no room."""
        with self._changed:
            if size and self._bytes > QUEUE_BYTES_MAX:
                self._dropped += size
                return
            self._acts.append((size, act))
            self._bytes += size
            self._start()
            self._changed.notify_all()

    def when_there_is_room(self, act: Act) -> None:
        """Run `act` in the relay's thread once half of ROOM_BYTES is free.

        The caller has seen it full, and it may be empty by now: only what is still put in makes the thread look again.
        """
        with self._changed:
            if self._has_room():
                self.put(act)
            else:
                self._waiting_for_room.append(act)

    def close(self) -> None:
        """End the thread once it has done what was put in. What is put in later is done too."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, *, is_patient: bool = True) -> None:
        """Wait until everything that was put in is done; not `is_patient`: no longer than the relay gets on with it."""
        thread = self._thread
        if threading.current_thread() in (thread, self._works_off):
            return
        self.work_off()
        with self._changed:
            while not self.is_idle and not (self.is_stuck and not is_patient):
                self._changed.wait(None if is_patient else STUCK_S)
        if thread is not None and self._closed and self.is_idle:
            thread.join()

    def work_off(self) -> None:
        """Do what was put in, in the calling thread, if the relay's could not be started: Python 3.12.0 and 3.12.1
        start none once the main thread has ended.
        """
        with self._changed:
            if self._thread is not None or self._works_off is not None:
                return
            self._works_off = threading.current_thread()
        try:
            self._run(waits=False)
        finally:
            with self._changed:
                if self._works_off is threading.current_thread():  # a Ctrl-C came between two acts
                    self._works_off = self._busy_since = None

    def close_in_child(self) -> None:
        """Give everything up in a fork of the program: it belongs to the parent."""
        self._changed = threading.Condition()  # another thread may have held it at the fork
        self._acts.clear()
        self._bytes, self._busy_since, self._thread, self._works_off = 0, None, None, None
        self._closed = True

    def _has_room(self) -> bool:
        return self._bytes <= ROOM_BYTES // 2

    def _start(self) -> None:
        """Start the thread if it does not run. Without one, what is put in waits for the next try."""
        if self._thread is None and self._works_off is None:
            thread = threading.Thread(target=self._serve, name=f"{self._name}-relay", daemon=True)
            try:
                with mask_of_program():
                    thread.start()
            except RuntimeError:  # no thread can be started
                return
            self._thread = thread

    def _serve(self) -> None:
        leave_to_program()
        self._run()

    def _run(self, *, waits: bool = True) -> None:
        while (act := self._next(waits=waits)) is not None:
            _run(act)
            del act  # it may hold the text of a task

    def _next(self, *, waits: bool) -> Act | None:
        """Return the next act once there is one. Return None when the relay is closed and empty, or empty if not
        `waits`: another thread may run what is put in from then on.
        """
        with self._changed:
            self._busy_since = None
            if self._waiting_for_room and self._has_room():
                rooms, self._waiting_for_room = self._waiting_for_room, []
                self._acts.extendleft((0, room) for room in rooms)
            if not self._acts and self._dropped:
                dropped, self._dropped = self._dropped, 0
                self._acts.append((0, partial(logger.warning, "output_dropped: %d bytes; nothing was read", dropped)))
            if not self._acts:
                self._changed.notify_all()  # `join`
            while not self._acts:
                if not waits:
                    self._works_off = None
                    return None
                if self._closed:
                    self._thread = None
                    return None
                self._changed.wait()
            self._busy_since = monotonic()  # first: `is_idle` reads without the lock
            size, act = self._acts.popleft()
            self._bytes -= size
            return act


def _run(act: Act) -> None:
    try:
        with mask_of_program():
            act()
    except BaseException:  # SystemExit of a callback, too: the thread serves others
        with suppress(BaseException):  # a handler of the program may raise for this record, too
            logger.exception("relay_failed")


def work_off_all() -> None:
    """Do, in the calling thread, what relays have whose thread could not be started."""
    for relay in list(_relays):
        relay.work_off()


def join_all(*, is_patient: bool) -> None:
    """Wait, at the exit of the program, until every relay has shown what it has (`Relay.join`)."""
    for relay in list(_relays):
        relay.join(is_patient=is_patient)
