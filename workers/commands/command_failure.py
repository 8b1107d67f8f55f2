"""How a command that runs as a job can fail: its exit code, and the end of its stderr as the message.

Runs in: worker.
"""

from __future__ import annotations

from collections.abc import Sequence

WORDS_CHARS_MAX = 500
"""The most characters of what stderr said last in the message of a failure."""


class ProgramNotExecuted(OSError):
    """The program could not be executed."""


class CommandFailed(SystemExit):
    """The command ended with an exit code that is none of its `ok_exit_codes`."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(exit_code)
        self.message = message


def failed_with(exit_code: int, error_lines: Sequence[str]) -> CommandFailed:
    """Return the failure with the last line of what stderr has said, if it has said anything."""
    words = f": {error_lines[-1].strip()[:WORDS_CHARS_MAX]}" if error_lines else ""
    return CommandFailed(exit_code, f"exit code {exit_code}{words}")
