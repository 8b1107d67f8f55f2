"""The foreground of a terminal, as a shell hands it to its jobs (tcsetpgrp(3), "Job Control" in the glibc manual).

Runs in: supervisor (`killable run`). Behind `ports`.
"""

from __future__ import annotations

import os
import signal
import termios
from typing import Any

STOPS_OF_TERMINALS = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
"""The signals by which a terminal stops what runs in it. `killable run` stops with its command then."""


class Foreground:
    """The terminal of this process, if it has one in whose foreground it is."""

    def __init__(self) -> None:
        self.terminal = -1
        """A descriptor of it; -1: there is none, or another group has its foreground."""
        self._attributes: list[Any] = []
        for descriptor in range(3):
            try:
                if os.tcgetpgrp(descriptor) == os.getpgrp():
                    self._attributes = termios.tcgetattr(descriptor)
                    self.terminal = descriptor
                    return
            except (OSError, termios.error):
                continue  # not open, or not the terminal of this session

    def give_to(self, group: int) -> None:
        """Hand it to a process group, if this process has it."""
        if self._owner() == os.getpgrp():
            self._set(group)

    def take_from(self, group: int) -> None:
        """Take it back from a process group, if that has it."""
        if self._owner() == group:
            self._set(os.getpgrp())

    def reset(self) -> None:
        """Set the attributes that it had: a program that was killed could not do so."""
        if self.terminal >= 0 and self._owner() == os.getpgrp():
            try:
                termios.tcsetattr(self.terminal, termios.TCSADRAIN, self._attributes)
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
