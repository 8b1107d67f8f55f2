"""Run a command in this terminal and wait until nothing of it is left: what `killable run` does.

Runs in: supervisor (`killable run`), main thread, without other threads and without asyncio.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from killable.supervisor.linux.caught_signals import CaughtSignals
from killable.supervisor.linux.command_process import CommandProcess
from killable.supervisor.linux.foreground import STOPS_OF_TERMINALS, Foreground
from killable.supervisor.linux.own_signals import stop_own_group
from killable.supervisor.linux.poll_loop import PollLoop
from killable.supervisor.ports import Gone

if TYPE_CHECKING:
    from killable.supervisor.commands.command_ending import CommandEnd, CommandRun
    from killable.workers.authoring.limits_and_caps import Limits

SIGCONT, SIGTSTP = 18, 20
INTERRUPTS = frozenset({2, 3})
"""SIGINT and SIGQUIT, which a terminal sends for Ctrl-C and Ctrl-\\."""


class CommandNotStarted(Exception):
    """The command did not run."""

    def __init__(self, errno: int, *, of_program: bool) -> None:
        """`of_program`: its program cannot be executed; else no process could be made."""
        self.errno = errno
        self.of_program = of_program


class CommandRunner:
    """Implements `CommandListener`; has the terminal while the command does not."""

    def __init__(self, argv: Sequence[str], limits: Limits, signal: int) -> None:
        self._argv = argv
        self._limits = limits
        self._signal = signal
        self._loop = PollLoop()
        self._foreground = Foreground()
        self._process = CommandProcess(self._loop, self)
        self._run: CommandRun
        self._pid = 0
        self._not_started: CommandNotStarted | None = None
        self._early: list[int] = []
        """Signals that came before the command ran."""
        self.was_interrupted_by_terminal = False
        """It died of what the terminal sends for Ctrl-C, which went to it alone."""

    def run(self) -> CommandEnd:
        """Return how it ended. Raise CommandNotStarted; OSError if its keeper cannot be made."""
        caught = CaughtSignals()
        try:
            terminal = self._foreground.terminal if self._foreground.is_lent else -1
            self._process.start(self._argv, caught, terminal=terminal, files_max=self._limits["files_max"])
            self._run = self._make_run()
            self._loop.add_reader(caught.readable, lambda: caught.read(self._on_signal))
            self._loop.run_until(lambda: self._run.end is not None or self._not_started is not None)
        finally:
            self._foreground.take_from(self._pid)
            caught.close()
        if self._not_started is not None:
            raise self._not_started
        end = self._run.end
        assert end is not None
        if end.status.signal is not None:
            self._foreground.reset()
            self.was_interrupted_by_terminal = (
                self._foreground.is_lent and end.outcome.code != "cancelled" and end.status.signal in INTERRUPTS
            )
        return end

    def _make_run(self) -> CommandRun:
        """Import what decides about the command while its keeper starts it."""
        from killable.supervisor.clock import Clock
        from killable.supervisor.commands.command_ending import CommandRun

        return CommandRun(self._process, self._limits, Clock(self._loop), self._process.cores, self._signal)

    def _on_signal(self, number: int) -> None:
        if not self._pid:
            self._early.append(number)
            self._process.wake_keeper()
            return
        if number == SIGCONT and self._foreground.is_lent:
            self._foreground.lend_to(self._pid)
        self._run.on_signal(number)

    # ── CommandListener ──

    def on_started(self, pid: int, at: float) -> None:
        self._pid = pid
        self._run.begin(at)
        for number in self._early:
            self._on_signal(number)

    def on_not_started(self, errno: int, *, of_program: bool) -> None:
        self._not_started = CommandNotStarted(errno, of_program=of_program)

    def on_paused(self, number: int) -> None:
        """Stop with the command if the terminal has stopped it, so that the shell has the terminal again. Lend it to
        one that was stopped because it has asked for it, as soon as there is something to lend.
        """
        if self._foreground.terminal < 0 or number not in STOPS_OF_TERMINALS:
            return
        self._foreground.take_from(self._pid)
        is_asked_for = number != SIGTSTP
        was_continued = False
        if not (is_asked_for and self._foreground.is_own):
            was_continued = stop_own_group()
        if is_asked_for:
            self._foreground.lend_to(self._pid)
            if not (was_continued or self._foreground.is_of(self._pid)):
                return  # it would only ask again, and nothing would stop it from doing so without end
        self._on_signal(SIGCONT)  # also if nothing could stop this group, which no shell then looks after

    def on_ended(self) -> None:
        self._run.on_ended()

    def on_gone(self, gone: Gone) -> None:
        self._run.on_gone(gone)
