"""A program that kills itself while it writes to its journal.

Run it as `python journal_crash_program.py JOURNAL MODULE FOLDER MOMENT`. The moments:

    uncommitted   the second job is written, and its transaction is still open
    unanswered    the second job is on disk, and its submission is not answered yet
    begins        the note that a worker has the job is written, and its transaction is still open
    is to wait    the worker was killed; the note about the retry is written, and its transaction is still open
    waits         that note is on disk: the job is in its backoff
    ends          the job has completed; the note about it is written, and its transaction is still open

It prints the id of each job whose submission was answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

from killable.supervisor.journal import journal
from killable.supervisor.journal.journal_file import AcceptedNote, EndedNote, JournalFile, Note, StartedNote
from killable.supervisor.models import Submission
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor

MOMENT = sys.argv[4]
answered = threading.Event()
"""The second job's submission, where its client hears of it."""


def is_due(note: Note) -> bool:
    """Tell whether the moment comes with this note."""
    if note.number != 2:
        return False
    match MOMENT:
        case "uncommitted" | "unanswered":
            return isinstance(note, AcceptedNote)
        case "begins":
            return isinstance(note, StartedNote)
        case "is to wait" | "waits":
            return isinstance(note, StartedNote) and json.loads(note.members).get("waits", False)
        case _:
            return isinstance(note, EndedNote)


class Dying(JournalFile):
    """The real one, but for the moment at which it dies. One note after the other: what comes together is chance."""

    def write(self, notes: Sequence[Note]) -> None:
        for note in notes:
            if note.number == 2 and not isinstance(note, AcceptedNote):
                answered.wait()
            if is_due(note) and MOMENT not in ("unanswered", "waits"):
                self._connection.execute("BEGIN IMMEDIATE")
                self._put(note)
                os.kill(os.getpid(), signal.SIGKILL)
            super().write([note])
            if is_due(note):
                os.kill(os.getpid(), signal.SIGKILL)


async def main(path: str, module: str, folder: str) -> None:
    logging.getLogger("killable").addHandler(logging.NullHandler())
    journal.JournalFile = Dying  # type: ignore[misc]
    pool = PoolSpec("hostile", (module,), workers=1, folder=folder)
    supervisor = Supervisor(Settings(pools=(pool,), journal=path))
    await supervisor.start()
    killed = {"times": int("wait" in MOMENT)}
    for number, type, input in ((1, "echo", {}), (2, "killed", killed)):
        key = f"key-{number}"
        limits = {"attempts_max": 2, "backoff_s": 1000}
        record = await supervisor.submit(
            Submission(type, json.dumps(input).encode(), limits=limits, idempotency_key=key, body_digest="d")
        )
        print(record.job_id, flush=True)
        if number == 2:
            answered.set()
        await supervisor.wait(record.job_id)
    await asyncio.Event().wait()  # the last note may still be on its way


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
