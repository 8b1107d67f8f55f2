"""The mark beside a journal that tells whether its end was lost: the number of its last transaction.

Runs in: the journal's thread. The command.
"""

from __future__ import annotations

import os

from killable.supervisor.journal.file_permissions import MARK, MODE, WAL
from killable.supervisor.journal.start_refusals import JournalRefused


class GenerationMark:
    """The number of the last transaction in a file beside the journal: a journal behind it has lost its end.

    It is not synced: after a loss of power it may be older than the journal, and never newer.
    """

    def __init__(self, path: str, file_id: str) -> None:
        """Raise OSError when it cannot be opened."""
        self._path = path
        self._file_id = file_id
        self._descriptor = os.open(path + MARK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)

    def lost(self, generation: int) -> int:
        """Return how many transactions after this one the journal once had."""
        file_id, _, number = os.pread(self._descriptor, 100, 0).partition(b" ")
        if file_id != self._file_id.encode() or not number.strip().isdigit():
            return 0
        return max(0, int(number) - generation)

    def check(self, generation: int) -> None:
        """Raise JournalRefused if the journal has lost its end."""
        if lost := self.lost(generation):
            raise JournalRefused(
                f"the journal {self._path} has lost its last {lost} transactions: {self._path}{WAL} was cut, removed "
                "or not copied with it. Jobs that wait in it may have run, and ends may be missing. `killable journal "
                f"salvage {self._path} NEW` writes a journal in which such jobs are lost instead of run again",
                journal=self._path,
            )

    def write(self, generation: int) -> None:
        """Note that this transaction is on disk. Nothing happens if that fails: less is noticed then."""
        try:
            os.pwrite(self._descriptor, b"%b %020d\n" % (self._file_id.encode(), generation), 0)
        except OSError:
            pass

    def close(self) -> None:
        """Close it. May be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
