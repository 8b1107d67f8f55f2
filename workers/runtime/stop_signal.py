"""SIGTERM as a doorbell: the order is in the pipe, and only one that names the attempt on the stack is heard.

Runs in: worker. `Stopping` is raised once, in the main thread, only while the job is on the stack, and never inside
a frame write. Whether anyone heard the bell is told by bytes: the C-level handler writes the signal's number at
delivery, even while C code holds the GIL (signal.set_wakeup_fd); this module writes BELL_ACKNOWLEDGED when Python
runs again.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType, GeneratorType
from typing import TYPE_CHECKING, Any

from killable.workers.authoring.context import Stopping
from killable.workers.protocol.frames import Frame
from killable.workers.protocol.messages import (
    NOTIFY_ACKNOWLEDGED,
    NOTIFY_EXPIRED,
    NOTIFY_REPLACED,
    NOTIFY_RESTORED,
    NOTIFY_SWALLOWED,
    Expire,
    Kind,
    Stop,
)
from killable.workers.runtime import deferred_raise

if TYPE_CHECKING:
    from killable.workers.authoring.operations import Operations, OperationTimedOut
    from killable.workers.runtime.frame_writer import FrameWriter


class StopSignal:
    """The SIGTERM handler's state for the attempt on the stack."""

    channel: FrameWriter

    def __init__(self, notifications: int, stack: int, read_word: Callable[[int], Frame | None]) -> None:
        self._notifications = notifications
        self._stack = stack
        self._read_word = read_word
        self._fence: int | None = None
        self._reading = False
        self._rang_while_reading = False
        self._missed = False
        """It rang while no attempt was expected: perhaps for one whose order was not read yet."""
        self._raised = False
        self.generator: GeneratorType[Any, Any, Any] | None = None
        """The job, if it is one: between two yields it is not on the stack."""
        self.stopping: Stopping | None = None
        self.operations: Operations | None = None
        self.shields = 0
        self._expired: set[int] = set()
        """The operations whose ends are still to be raised, by number."""
        self._told: tuple[int, OperationTimedOut] | None = None
        """The one that was raised last."""

    def hang(self) -> None:
        """Install the handler, the wakeup descriptor and the hook for swallowed exceptions; main thread only."""
        os.set_blocking(self._notifications, False)
        signal.set_wakeup_fd(self._notifications, warn_on_full_buffer=False)
        self._set_handler = partial(sys.modules["_signal"].signal, signal.SIGTERM, self._on_term)
        self.take_signal()
        _note_replacement(signal.SIGTERM, self._on_term, self._tell)
        self._next_hook = sys.unraisablehook
        sys.unraisablehook = self._on_unraisable

    def take_signal(self) -> None:
        """Set the handler for the next job: what C code of the last one has done to it, no look of ours tells."""
        self._set_handler()

    def expect(self, fence: int) -> None:
        """From here on the handler may raise: the caller is inside a try."""
        self.stopping = None
        self._raised = False
        self.shields = 0
        self._expired, self._told = set(), None
        self._fence = fence

    def forget(self) -> None:
        """From here on the handler does nothing."""
        self._fence = None
        self.generator = None
        self.operations = None

    def answer(self) -> None:
        """Look for an order in the pipe and obey it: raise `Stopping`. Called by the handler and after a frame
        write.
        """
        self._ring(sys._getframe(1))

    def answer_missed(self) -> None:
        """Do so if the bell rang before the attempt was expected."""
        if self._missed:
            self._missed = False
            self._ring(sys._getframe(1))

    def _on_term(self, _signum: int, frame: FrameType | None) -> None:
        interrupted = _outside(frame)
        if not deferred_raise.put_off(interrupted, lambda: self._ring(interrupted)):
            self._ring(frame)

    def _ring(self, frame: FrameType | None) -> None:
        if self._fence is None:
            self._missed = True
            return
        if self._raised:
            return
        if self.channel.busy:
            self.channel.rang = True  # the write comes first; it calls answer()
            return
        if self._reading:
            self._rang_while_reading = True
            return
        self.channel.rang = False
        self._listen(frame)
        self._deliver(frame)

    def _listen(self, frame: FrameType | None) -> None:
        """Take what the supervisor has to say to this attempt. After a stop it says nothing more.

        A bell meanwhile is only noted: whose code was interrupted cannot be told from in here.
        """
        try:
            while self.stopping is None:
                word = self._hear()
                if word is None:
                    return
                if word.kind == Kind.STOP:
                    self._take_stop(Stop.decode(word.payload), frame)
                else:
                    number = Expire.decode(word.payload).number
                    self._tell(NOTIFY_EXPIRED)
                    self._expired.add(number)
        finally:
            self._reading = False

    def _take_stop(self, stop: Stop, frame: FrameType | None) -> None:
        """Known only once it is acknowledged: the signal may come again right here, and be raised right here."""
        deadline = time.monotonic() + stop.grace_s
        stopping = Stopping(stop.cause, by=stop.by, grace_s=stop.grace_s, deadline=deadline, reason=stop.reason)
        write_stack(self._stack, _suspended_frame(self.generator) or frame)
        self._tell(NOTIFY_ACKNOWLEDGED)
        self.stopping = stopping

    def _deliver(self, frame: FrameType | None) -> None:
        """Raise what there is to raise."""
        if self.stopping is None and not self._expired:
            return
        if _is_in_hook(frame):
            self._tell(NOTIFY_SWALLOWED)  # swallowed here, nobody would be told: another bell
        elif self.stopping is not None:
            if not (_is_event_loops(frame) and self._ask_event_loop()):
                self._raise()
        elif _runs_the_loop(frame):
            # No callback can raise it in a task: another bell, until one finds another place.
            self._tell(NOTIFY_SWALLOWED)
        else:
            self._raise_expired(frame)

    def _raise(self) -> None:
        if self._fence is not None and not self._raised and not self.shields and self.stopping is not None:
            self._raised = True
            raise self.stopping

    def _raise_expired(self, frame: FrameType | None) -> None:
        """Raise the end of the outermost one: those inside it are left with it."""
        if self.shields or self.operations is None:
            return
        expired, self._expired = sorted(self._expired), set()
        for number in expired:
            error = self.operations.expired(number, frame)
            if error is not None:
                self._told = number, error
                raise error

    def raise_deferred(self) -> None:
        """The last shield may be down: raise what came meanwhile."""
        if not self.shields and self._fence is not None:
            self._deliver(sys._getframe(1))

    def _ask_event_loop(self) -> bool:
        """Have the job's event loop raise it between two callbacks; return whether it can.

        Inside its own code, what had just been taken from its queue would be lost with the exception, and closing
        the loop would wait for that task for ever (hence the SIGINT handler of `asyncio.Runner`). The callback that
        comes next may compute for long, so another bell is asked for too: whichever finds the job's own code is first.
        """
        running = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)  # it may be half imported
        loop = None if running is None else running()
        if loop is None or loop.is_closed():
            return False
        loop.call_soon_threadsafe(self._raise)
        self._tell(NOTIFY_SWALLOWED)
        return True

    def _hear(self) -> Frame | None:
        """Read the pipe until no bell rings any more while it is read."""
        fence = self._fence
        assert fence is not None
        while True:
            self._rang_while_reading = False
            self._reading = True
            word = self._read_word(fence)
            if word is not None:
                return word  # and the next one is looked for, unless it is the last
            self._reading = False  # before the look below: a bell between the two is answered by its own handler
            if not self._rang_while_reading:
                return None

    def _on_unraisable(self, unraisable: Any) -> None:
        if unraisable.exc_value is not None and unraisable.exc_value is self.stopping:
            # A __del__, a gc or C callback swallowed it. Raising here would be swallowed again: ask for another bell.
            self._raised = False
            self._tell(NOTIFY_SWALLOWED)
        elif self._told is not None and unraisable.exc_value is self._told[1]:
            self._expired.add(self._told[0])
            self._tell(NOTIFY_SWALLOWED)
        else:
            self._next_hook(unraisable)

    def _tell(self, notification: int) -> None:
        try:
            os.write(self._notifications, bytes([notification]))
        except OSError:
            pass  # full of signals' bytes, or closed by the job: the supervisor then counts on time alone


_LOCKS = frozenset({"_acquireLock", "_releaseLock", "_prepareFork", "_afterFork"})
"""Of logging, up to 3.12 and from 3.13 on: what it registers with `os.register_at_fork`."""


def _is_in_hook(frame: FrameType | None) -> bool:
    """Tell whether a hook was interrupted, which would swallow what is raised in it: `sys.unraisablehook`, the job's
    own around ours, or ours, in which a worker that gets no processor may be for longer than the supervisor waits; or
    logging's for forks, the first code of Python's behind each `os.fork`, whose lock would be held for ever.
    """
    hooks = (StopSignal._on_unraisable.__code__, getattr(sys.unraisablehook, "__code__", None))
    while frame is not None and frame.f_code not in hooks:
        if frame.f_code.co_name in _LOCKS and frame.f_globals.get("__name__") == "logging":
            return True
        frame = frame.f_back
    return frame is not None


def _is_event_loops(frame: FrameType | None) -> bool:
    """Tell whether asyncio's own code was interrupted, or what that has called of the library, not the job's."""
    while frame is not None and _is_seen_through(frame):
        if _package(frame) == "asyncio":
            return True
        frame = frame.f_back
    return False


def _runs_the_loop(frame: FrameType | None) -> bool:
    """Tell whether asyncio was interrupted with a step in its hand: not while it waits, nor in what the job has called
    of it (`asyncio.sleep`), from where an exception goes on into the job.
    """
    while frame is not None and _is_seen_through(frame):
        if _package(frame) == "selectors":
            return False
        if _package(frame) == "asyncio" and frame.f_code.co_name == "_run_once":
            return True
        frame = frame.f_back
    return False


def _is_seen_through(frame: FrameType) -> bool:
    """Tell whether what counts is who has called it: the library's code, or this handler's, whose bell came again while
    it was at work.
    """
    return _is_handlers(frame) or _package(frame) in sys.stdlib_module_names


def _is_handlers(frame: FrameType) -> bool:
    return frame.f_globals is globals() or frame.f_globals is vars(deferred_raise)


def _outside(frame: FrameType | None) -> FrameType | None:
    """Return what this handler has interrupted, also when it is interrupted itself."""
    while frame is not None and _is_handlers(frame):
        frame = frame.f_back
    return frame


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _suspended_frame(generator: GeneratorType[Any, Any, Any] | None) -> FrameType | None:
    """Return where a job stands that waits for its next step; None when it runs, and so is on the stack itself."""
    if generator is None or generator.gi_running:
        return None
    return generator.gi_frame


def _note_replacement(number: int, ours: Callable[..., None], tell: Callable[[int], None]) -> None:
    """Tell when the job sets a handler of its own for this signal, or ours again, however it came by `signal.signal`.

    `signal.signal` looks its C function up at each call; there is no audit event for it.
    """
    worker = os.getpid()
    c_module: Any = sys.modules["_signal"]
    set_disposition = c_module.signal

    def signal_and_tell(signalnum: int, handler: Any, /) -> Any:
        if signalnum == number and os.getpid() == worker:
            tell(NOTIFY_RESTORED if ours == handler else NOTIFY_REPLACED)
        return set_disposition(signalnum, handler)

    c_module.signal = signal_and_tell


def write_stack(descriptor: int, frame: FrameType | None) -> None:
    """Write a stack, most recent call first, in faulthandler's form; without source lines: no file is read here."""
    lines = ["Stack at the signal (most recent call first):"]
    while frame is not None:
        code = frame.f_code
        lines.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}')
        frame = frame.f_back
    try:
        os.write(descriptor, ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # the job closed it
