"""What its program does to every Executor: it forks, and it ends while calls are pending.

Runs in: supervisor, in the user's program. At the end of the program pending calls are waited for, as with
ProcessPoolExecutor. On a terminal it says so, and Ctrl-C stops the calls (`ctrl_c` has all of it).
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import weakref
from collections.abc import Sequence

from killable.supervisor.clock import monotonic
from killable.supervisor.executor import ctrl_c, output_relay
from killable.supervisor.executor.pending_tasks import PendingTasks
from killable.supervisor.linux import program_forks

logger = logging.getLogger("killable.executor")

LOOK_S = 0.2
"""Interval at which running streams are checked for a reader at the end of the program."""
SAY_S = 1.0
"""Time after which the program says what it waits for: people notice a wait of a second."""

_open: weakref.WeakSet[PendingTasks] = weakref.WeakSet()


def look_after(tasks: PendingTasks) -> None:
    """Wait for these tasks at the end of the program, and give them up in its forks."""
    _open.add(tasks)


class LastWait:
    """The wait of a program that ends for the tasks of all its Executors."""

    def __init__(self, executors: Sequence[PendingTasks], *, was_interrupted: bool) -> None:
        self._executors = executors
        self._interrupts = int(was_interrupted)
        self._say_at = monotonic() + SAY_S

    def until_over(self) -> bool:
        """Wait until no process is left; return whether it was interrupted. The first Ctrl-C stops the tasks, a second
        one kills them.
        """
        while True:
            try:
                self._wait()
                return self._interrupts > 0
            except KeyboardInterrupt:
                self._interrupts += 1
                self._say_at = monotonic() + SAY_S

    def _wait(self) -> None:
        if self._interrupts:
            for each in self._executors:
                each.stop_all(ctrl_c.grace_s(self._interrupts), ctrl_c.OF_PROGRAM)
        for each in self._executors:
            while not each.supervisor_thread.join(0):
                for one in self._executors:
                    one.stop_unread()
                output_relay.work_off_all()
                if self._say_at <= monotonic():
                    self._say_at = float("inf")
                    self._say()
                each.supervisor_thread.join(LOOK_S)  # other threads may still be readers

    def _say(self) -> None:
        """Say on a terminal what is waited for, and in the log of the program."""
        count = sum(each.under_way for each in self._executors)
        logger.info("waiting_at_exit", extra={"tasks": count, "interrupts": self._interrupts})
        with contextlib.suppress(Exception):  # stderr may be closed, or none
            if count and sys.stderr.isatty():
                print(f"killable: {_what_happens(count, self._interrupts)}", file=sys.stderr, flush=True)


def _what_happens(count: int, times: int) -> str:
    calls, them = ("1 call", "it") if count == 1 else (f"{count} calls", "them")
    match times:
        case 0:
            return f"waiting for {calls} to end; press Ctrl-C to stop {them}"
        case 1:
            return f"waiting for {calls} to stop; press Ctrl-C again to kill {them}"
        case _:
            return f"waiting for {calls} to die"


def _at_exit() -> None:
    """Let pending tasks finish at exit, as ProcessPoolExecutor does, but no streams without a reader. After a Ctrl-C
    stop all: workers run in sessions of their own and did not get the SIGINT.
    """
    for each in list(_open):
        each.shut_down(cancel_pending=False)
        if ctrl_c.ends_program():
            each.stop_all(ctrl_c.grace_s(1), ctrl_c.OF_PROGRAM)


def _after_library_pools() -> None:
    """Wait, after the library has joined its pools: their idle threads pass for readers of streams."""
    was_interrupted = LastWait(list(_open), was_interrupted=ctrl_c.ends_program()).until_over()
    output_relay.join_all(is_patient=not was_interrupted)
    if ctrl_c.ends_program():
        ctrl_c.end_by_sigint()


def _in_child() -> None:
    with contextlib.ExitStack() as leaving:  # calls all of them, even if one raises
        for each in list(_open):
            leaving.callback(each.close_in_child)


program_forks.in_each_child(_in_child)
# Called before threads are joined, as in the library: the callback that was registered last runs first. RuntimeError:
# the main thread has ended already. Another thread that makes an Executor then waits for its tasks itself.
with contextlib.suppress(RuntimeError):
    threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
threading._threading_atexits.insert(0, _after_library_pools)  # type: ignore[attr-defined]
