"""A program that kills itself while it writes to its journal.

Run it as `python journal_crash_program.py JOURNAL MODULE FOLDER MOMENT`. The moments:

    uncommitted   acceptance and start of the second job are written, and their transaction is still open
    unanswered    they are on disk; its submission is not answered yet, and no worker was told of it
    begins        the second job waited in the queue; its start is written, and the transaction is still open
    begun         this start is on disk, and no worker was told of the job yet
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
from functools import partial
from pathlib import Path
from typing import Any

from support.waiting import Pending, until_async

from killable.supervisor.journal import journal_thread
from killable.supervisor.journal.journal_file import AcceptedNote, EndedNote, JournalFile, Note, StartedNote
from killable.supervisor.models import Submission
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor

MOMENT = sys.argv[4]
answered = threading.Event()
"""The second job's submission, where its client hears of it."""


def is_due(group: Sequence[Note]) -> bool:
    """Tell whether the moment comes with these notes."""
    note = group[-1]
    if note.number != 2:
        return False
    match MOMENT:
        case "uncommitted" | "unanswered":
            return isinstance(group[0], AcceptedNote)
        case "begins" | "begun":
            return isinstance(note, StartedNote)
        case "is to wait" | "waits":
            return isinstance(note, StartedNote) and json.loads(note.members).get("waits", False)
        case _:
            return isinstance(note, EndedNote)


def groups_of(notes: Sequence[Note]) -> list[list[Note]]:
    """Return one group for each note: what comes together is chance, but for an acceptance and a start."""
    groups: list[list[Note]] = []
    for note in notes:
        if groups and isinstance(note, StartedNote) and isinstance(groups[-1][-1], AcceptedNote):
            groups[-1].append(note)
        else:
            groups.append([note])
    return groups


class Dying(JournalFile):
    """The real one, but for the moment at which it dies."""

    def write(self, notes: Sequence[Note]) -> None:
        for group in groups_of(notes):
            if group[0].number == 2 and not isinstance(group[0], AcceptedNote):
                answered.wait()
            if is_due(group) and MOMENT not in ("unanswered", "begun", "waits"):
                self._connection.execute("BEGIN IMMEDIATE")
                for note in group:
                    self._put(note)
                os.kill(os.getpid(), signal.SIGKILL)
            super().write(group)
            if is_due(group):
                os.kill(os.getpid(), signal.SIGKILL)


async def has_idle(supervisor: Supervisor) -> bool | Pending:
    (pool,) = await supervisor.pools()
    return pool.idle > 0 or Pending(pool)


async def main(path: str, module: str, folder: str) -> None:
    logging.getLogger("killable").addHandler(logging.NullHandler())
    journal_thread.JournalFile = Dying  # type: ignore[misc]
    pool = PoolSpec("hostile", (module,), workers=1, folder=folder)
    supervisor = Supervisor(Settings(pools=(pool,), journal=path))
    await supervisor.start()
    first_waits = MOMENT in ("begins", "begun")
    gate = f"{path}-gate"
    first: tuple[str, dict[str, Any]] = ("gated", {"gates": [gate]}) if first_waits else ("echo", {})
    for number, (type, input) in enumerate((first, ("killed", {"times": int("wait" in MOMENT)})), 1):
        key = f"key-{number}"
        limits = {"attempts_max": 2, "backoff_s": 1000}
        record = await supervisor.submit(
            Submission(type, json.dumps(input).encode(), limits=limits, idempotency_key=key, body_digest="d")
        )
        print(record.job_id, flush=True)
        if number == 2:
            answered.set()
            Path(gate).touch()
        if number == 2 or not first_waits:
            await supervisor.wait(record.job_id)
            # The second job's start is written with its acceptance if a worker is free: the first job has used one up.
            await until_async(partial(has_idle, supervisor), "a worker is free")
    await asyncio.Event().wait()  # the last note may still be on its way


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
