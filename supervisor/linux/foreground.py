"""The foreground of a terminal, as a shell hands it to its jobs (tcsetpgrp(3), "Job Control" in the glibc manual).

Runs in: supervisor (`killable run`). Behind `ports`.
"""

from __future__ import annotations

import os
import signal
import stat
import termios
from typing import Any

STOPS_OF_TERMINALS = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
"""The signals by which a terminal stops what runs in it. `killable run` stops with its command then."""


class Foreground:
    """The terminal of this process, which lends it to its command as a shell does to a job."""

    def __init__(self) -> None:
        self.terminal = -1
        """A descriptor of it; -1: there is none."""
        self._attributes: list[Any] = []
        for descriptor in range(3):
            try:
                os.tcgetpgrp(descriptor)
            except OSError:
                continue  # not open, or not the terminal of this session
            self.terminal = descriptor
            break
        self.is_lent = self.is_own and not _is_pipe(1)
        """Whether the command has it as long as this process would. It does not have it in the background; nor in a
        pipeline before it asks for it: a pager behind it reads from the terminal, and has the group of this process.
        """
        if self.is_lent:
            self._note_attributes()

    @property
    def is_own(self) -> bool:
        """Whether this process is in its foreground."""
        return self.is_of(os.getpgrp())

    def is_of(self, group: int) -> bool:
        """Return whether a process group is in its foreground."""
        return self._owner() == group

    def lend_to(self, group: int) -> None:
        """Hand it to a process group, if this process has it."""
        if self.is_own:
            self.is_lent = True
            self._note_attributes()
            self._set(group)

    def take_from(self, group: int) -> None:
        """Take it back from a process group, if that has it."""
        if self.is_of(group):
            self._set(os.getpgrp())

    def reset(self) -> None:
        """Set the attributes that it had: a program that was killed could not do so."""
        if self._attributes and self.is_own:
            try:
                termios.tcsetattr(self.terminal, termios.TCSADRAIN, self._attributes)
            except termios.error:
                pass  # it has hung up

    def _note_attributes(self) -> None:
        """Note what it had before the command: in the background they may be those of another program."""
        if not self._attributes:
            try:
                self._attributes = termios.tcgetattr(self.terminal)
            except termios.error:
                pass  # it has hung up

    def _owner(self) -> int:
        try:
            return os.tcgetpgrp(self.terminal) if self.terminal >= 0 else -1
        except OSError:
            return -1

    def _set(self, group: int) -> None:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))  # else a background group would stop
        try:
            os.tcsetpgrp(self.terminal, group)
        except OSError:
            pass  # the group is gone, or the terminal has hung up
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False
