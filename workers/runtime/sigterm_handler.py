"""The SIGTERM handler: a signal makes it read the orders, and it obeys only those that name the attempt on the stack.

Runs in: worker. `Stopping` is raised once, in the main thread, only while the job is on the stack, and never inside
a frame write. The supervisor follows the signal through bytes in a pipe: the C-level handler writes the signal's number
at delivery, even while C code holds the GIL (signal.set_wakeup_fd); this module writes NOTIFY_ACKNOWLEDGED when Python
runs again.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from threading import get_ident
from types import FrameType, GeneratorType
from typing import TYPE_CHECKING, Any

from killable.workers.authoring.context import Stopping
from killable.workers.protocol.frames import Frame
from killable.workers.protocol.messages import (
    NOTIFY_ACKNOWLEDGED,
    NOTIFY_EXPIRED,
    NOTIFY_REPLACED,
    NOTIFY_RESTORED,
    NOTIFY_SEEN,
    NOTIFY_SWALLOWED,
    NOTIFY_UNSEEN,
    Expire,
    Kind,
    Stop,
)
from killable.workers.runtime import backward_jump
from killable.workers.runtime.dump_signal import AT_SIGNAL
from killable.workers.runtime.interrupted_code import (
    interrupted_frame,
    is_event_loops,
    is_in_hook,
    runs_the_loop,
    suspended_frame,
)

if TYPE_CHECKING:
    from killable.workers.authoring.operations import Operations, OperationTimedOut
    from killable.workers.runtime.frame_writer import FrameWriter


class StopSignal:
    """The SIGTERM handler's state for the attempt on the stack."""

    channel: FrameWriter

    def __init__(self, notifications: int, stack: int, read_word: Callable[[int], Frame | None]) -> None:
        self._notifications = notifications
        self._stack = stack
        self._read_order = read_word
        self._fence: int | None = None
        self._reading = False
        self._signalled_while_reading = False
        self._signalled_early = False
        """A signal came while no attempt was expected, perhaps for one whose order had not been read yet."""
        self._raised = False
        self.generator: GeneratorType[Any, Any, Any] | None = None
        """The job, if it is a generator: between two yields it is not on the stack."""
        self.stopping: Stopping | None = None
        self.operations: Operations | None = None
        self.shields = 0
        self._expired: set[int] = set()
        """Numbers of the operations whose `OperationTimedOut` is still to be raised."""
        self._last_raised: tuple[int, OperationTimedOut] | None = None
        """The operation and the exception that were raised last."""
        self.are_handlers_set = False
        """Whether a signal handler was set since somebody has found all as they were."""

    def install(self) -> None:
        """Install the handler, the wakeup descriptor and the hook for swallowed exceptions; main thread only."""
        os.set_blocking(self._notifications, False)
        signal.set_wakeup_fd(self._notifications, warn_on_full_buffer=False)
        self._set_handler = partial(sys.modules["_signal"].signal, signal.SIGTERM, self._on_term)
        self.install_handler()
        self._note_handlers()
        self._note_wakeup_descriptor()
        self._next_hook = sys.unraisablehook
        sys.unraisablehook = self._on_unraisable

    def install_handler(self) -> None:
        """Install the handler again for the next job: Python cannot see whether C code has replaced it."""
        self._set_handler()

    def _note_handlers(self) -> None:
        """Note when the job sets a signal handler, and report when it replaces or restores that of SIGTERM.

        It wraps the C function, which every `signal.signal` looks up at each call; there is no audit event for it. What
        that refuses, in another thread or as no handler, is not reported. A handler of the job's is told of before it
        is set: it may run at once, and for as long as it likes.
        """
        worker, main_thread = os.getpid(), get_ident()
        c_module: Any = sys.modules["_signal"]
        set_disposition = c_module.signal

        def signal_and_tell(signalnum: int, handler: Any, /) -> Any:
            self.are_handlers_set = True
            is_set = get_ident() == main_thread and (callable(handler) or handler in (signal.SIG_DFL, signal.SIG_IGN))
            if signalnum != signal.SIGTERM or not is_set or os.getpid() != worker:
                return set_disposition(signalnum, handler)
            if self._on_term != handler:
                self._notify(NOTIFY_REPLACED)
                return set_disposition(signalnum, handler)
            before = set_disposition(signalnum, handler)
            self._notify(NOTIFY_RESTORED)
            return before

        c_module.signal = signal_and_tell

    def _note_wakeup_descriptor(self) -> None:
        """Report when the job takes the wakeup descriptor, as asyncio does for its signal handlers, or gives it back.

        It wraps the function of the module `signal`: the worker's own checks use the C function.
        """
        worker, take = os.getpid(), signal.set_wakeup_fd

        def take_and_tell(fd: int, /, **options: bool) -> int:
            before = take(fd, **options)
            if os.getpid() == worker:
                self._notify(NOTIFY_SEEN if fd == self._notifications else NOTIFY_UNSEEN)
            return before

        signal.set_wakeup_fd = take_and_tell

    def expect(self, fence: int) -> None:
        """Let the handler raise in this attempt. The caller is inside the `try` that catches it."""
        self.stopping = None
        self._raised = False
        self.shields = 0
        self._expired, self._last_raised = set(), None
        self._fence = fence

    def forget(self) -> None:
        """End the attempt: the handler raises nothing until the next `expect`."""
        self._fence = None
        self.generator = None
        self.operations = None

    def answer(self) -> None:
        """Read the orders and obey them, which may raise. Called after a frame write that a signal interrupted."""
        self._on_signal(sys._getframe(1))

    def obey_missed_orders(self) -> None:
        """Read and obey the orders if a signal came before the attempt was expected."""
        if self._signalled_early:
            self._signalled_early = False
            self._on_signal(sys._getframe(1))

    def _on_term(self, _signum: int, frame: FrameType | None) -> None:
        interrupted = interrupted_frame(frame)
        if not backward_jump.defer(interrupted, lambda: self._on_signal(interrupted)):
            self._on_signal(frame)

    def _on_signal(self, frame: FrameType | None) -> None:
        if self._fence is None:
            self._signalled_early = True
            return
        if self._raised:
            return
        if self.channel.busy:
            self.channel.rang = True  # the write calls answer() when it is done
            return
        if self._reading:
            self._signalled_while_reading = True
            return
        self.channel.rang = False
        self._read_orders(frame)
        self._deliver(frame)

    def _read_orders(self, frame: FrameType | None) -> None:
        """Read the orders for this attempt. A stop is the last one.

        A signal that comes meanwhile is only recorded: from in here the interrupted code cannot be identified.
        """
        try:
            while self.stopping is None:
                word = self._next_order()
                if word is None:
                    return
                if word.kind == Kind.STOP:
                    self._take_stop(Stop.decode(word.payload), frame)
                else:
                    number = Expire.decode(word.payload).number
                    self._notify(NOTIFY_EXPIRED)
                    self._expired.add(number)
        finally:
            self._reading = False

    def _take_stop(self, stop: Stop, frame: FrameType | None) -> None:
        """Record the stop after acknowledging it: a second signal may arrive in here and raise it at once."""
        deadline = time.monotonic() + stop.grace_s
        stopping = Stopping(stop.cause, by=stop.by, grace_s=stop.grace_s, deadline=deadline, reason=stop.reason)
        write_stack(self._stack, suspended_frame(self.generator) or frame)
        self._notify(NOTIFY_ACKNOWLEDGED)
        self.stopping = stopping

    def _deliver(self, frame: FrameType | None) -> None:
        """Raise the stop or the operation timeout that is due, or ask for the signal to be sent again."""
        if self.stopping is None and not self._expired:
            return
        if is_in_hook(frame, StopSignal._on_unraisable.__code__):
            self._notify(NOTIFY_SWALLOWED)  # what is raised here is lost: ask for another signal
        elif self.stopping is not None:
            if not (is_event_loops(frame) and self._ask_event_loop()):
                self._raise()
        elif runs_the_loop(frame):
            # No callback can raise it in a task: ask for more signals until one interrupts other code.
            self._notify(NOTIFY_SWALLOWED)
        else:
            self._raise_expired(frame)

    def _raise(self) -> None:
        if self._fence is not None and not self._raised and not self.shields and self.stopping is not None:
            self._raised = True
            raise self.stopping

    def _raise_expired(self, frame: FrameType | None) -> None:
        """Raise `OperationTimedOut` of the outermost expired operation: it also leaves those inside."""
        if self.shields or self.operations is None:
            return
        expired, self._expired = sorted(self._expired), set()
        for number in expired:
            error = self.operations.expired(number, frame)
            if error is not None:
                self._last_raised = number, error
                raise error

    def raise_deferred(self) -> None:
        """Raise what was deferred, if no shield is left. Called when a shield ends."""
        if not self.shields and self._fence is not None:
            self._deliver(sys._getframe(1))

    def _ask_event_loop(self) -> bool:
        """Have the job's event loop raise the stop between two callbacks; return False if no loop runs.

        If it were raised in the loop's own code, the callback just taken from the queue would be lost, and closing the
        loop would wait for that task for ever (`asyncio.Runner` handles SIGINT in this way for the same reason). The
        next callback may compute for long. So another signal is requested too, and the first to reach job code raises.
        """
        running = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)  # asyncio may be half imported
        loop = None if running is None else running()
        if loop is None or loop.is_closed():
            return False
        loop.call_soon_threadsafe(self._raise)
        self._notify(NOTIFY_SWALLOWED)
        return True

    def _next_order(self) -> Frame | None:
        """Return the next order; None once a read finds nothing and no signal arrived during it."""
        fence = self._fence
        assert fence is not None
        while True:
            self._signalled_while_reading = False
            self._reading = True
            word = self._read_order(fence)
            if word is not None:
                return word  # the caller reads on, unless it is a stop
            self._reading = False  # before the check below: a signal between the two reads the orders itself
            if not self._signalled_while_reading:
                return None

    def _on_unraisable(self, unraisable: Any) -> None:
        if unraisable.exc_value is not None and unraisable.exc_value is self.stopping:
            # A __del__, a gc or C callback swallowed it. Raising here would be swallowed again: ask for another signal.
            self._raised = False
            self._notify(NOTIFY_SWALLOWED)
        elif self._last_raised is not None and unraisable.exc_value is self._last_raised[1]:
            self._expired.add(self._last_raised[0])
            self._notify(NOTIFY_SWALLOWED)
        else:
            self._next_hook(unraisable)

    def _notify(self, notification: int) -> None:
        try:
            os.write(self._notifications, bytes([notification]))
        except OSError:
            pass  # the pipe is full of signal numbers, or closed by the job: the supervisor relies on its timers


def write_stack(descriptor: int, frame: FrameType | None) -> None:
    """Write a stack in faulthandler's form, most recent call first. It has no source lines: no file is read here."""
    lines = [AT_SIGNAL]
    while frame is not None:
        code = frame.f_code
        lines.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}')
        frame = frame.f_back
    try:
        os.write(descriptor, ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # the job closed the descriptor
