"""A small program that is killed while it writes to its journal: `python dying.py JOURNAL MODULE FOLDER MOMENT`.

    uncommitted   the second job is written, and its transaction not closed yet
    unanswered    the second job is on disk, and nobody has heard of it yet

It prints the id of each job whose submission it had an answer to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from killable.supervisor import journal
from killable.supervisor.job import Submission
from killable.supervisor.journalfile import Accepted, JournalFile, Note
from killable.supervisor.service import Supervisor
from killable.supervisor.settings import PoolSpec, Settings

MOMENT = sys.argv[4]


class Dying(JournalFile):
    """The real one, but for the moment at which it dies."""

    def write(self, notes: Sequence[Note]) -> None:
        is_second = any(isinstance(note, Accepted) and note.number == 2 for note in notes)
        if is_second and MOMENT == "uncommitted":
            self._connection.execute("BEGIN IMMEDIATE")
            for note in notes:
                self._put(note)
            os.kill(os.getpid(), signal.SIGKILL)
        super().write(notes)
        if is_second:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(path: str, module: str, folder: str) -> None:
    logging.getLogger("killable").addHandler(logging.NullHandler())
    journal.JournalFile = Dying  # type: ignore[misc]
    pool = PoolSpec("hostile", (module,), workers=1, folder=folder)
    supervisor = Supervisor(Settings(pools=(pool,), journal=path))
    await supervisor.start()
    for number in (1, 2):
        submission = Submission("echoes", b"{}", idempotency_key=f"key-{number}", body_digest="d")
        record = await supervisor.submit(submission)
        print(record.job_id, flush=True)
        await supervisor.wait(record.job_id)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
