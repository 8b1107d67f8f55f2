"""What a job has laid down, and when its next attempt is due, survive the supervisor where there is a journal."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import processes
from support.supervisor_fixture import StartSupervisor
from support.waiting import Pending, until_async

from killable.supervisor.dispatch import dispatcher
from killable.supervisor.journal.journal_file import CheckpointNote, JournalFile
from killable.supervisor.models import Submission
from killable.supervisor.settings import PoolSpec
from killable.supervisor.supervisor import Supervisor

SUPPORT = Path(processes.__file__).parent
TESTS = str(SUPPORT.parent)
POOL = PoolSpec("p", (str(SUPPORT / "retried_jobs.py"),), 2, env={"PYTHONPATH": TESTS})


async def until_on_disk(journal: Path, folder: Path, what: Any) -> Path:
    """Copy a journal that a supervisor has open until what is in it satisfies `what`; return the copy."""
    tries = 0

    async def is_there() -> bool | Pending:
        nonlocal tries
        tries += 1
        copy = folder / f"{journal.name}-{tries}"
        for suffix in ("", "-wal"):
            # Not in this process, which would lose the lock by closing the file (fcntl(2)).
            subprocess.run(["cp", f"{journal}{suffix}", f"{copy}{suffix}"], check=True)
        file = JournalFile.open(str(copy), needs_end=False)
        try:
            rows = file.scan()[0]
        finally:
            file.close()
        return (bool(rows) and what(rows[0])) or Pending(rows)

    await until_async(is_there, "the journal has it")
    return folder / f"{journal.name}-{tries}"


async def read_until(server: Supervisor, job_id: str, name: str, number: int = 1) -> None:
    async for batch in server.events(job_id):
        number -= sum(event.name == name for event in batch)
        if number <= 0:
            return


@pytest.mark.row("D25", "B16")
@pytest.mark.parametrize("journal_output", [False, True])
async def test_a_job_that_is_run_again_finds_its_checkpoint(
    supervisor: StartSupervisor, tmp_path: Path, journal_output: bool
) -> None:
    gate, journal = tmp_path / "gate", tmp_path / "journal"
    server = await supervisor(POOL, journal=str(journal), journal_output=journal_output)
    body = json.dumps({"gate": str(gate)}).encode()
    job_id = (await server.submit(Submission("goes_on", body))).job_id
    for number in (1, 2):
        await read_until(server, job_id, "token", number if journal_output else 1)
        laid = json.dumps(list(range(1, number + 1)), separators=(",", ":")).encode()
        journal = await until_on_disk(
            journal, tmp_path, lambda row, laid=laid: row.pieces.get("checkpoint") == laid and bool(row.started)
        )
        await server.close(grace_s=0)
        server = await supervisor(POOL, journal=str(journal), journal_output=journal_output)
    await read_until(server, job_id, "token", 3 if journal_output else 1)
    assert (await server.get(job_id)).partial == b"[1,2,3]"
    gate.touch()
    record = await server.wait(job_id)
    assert (record.state, record.result, record.attempts, record.tokens) == ("completed", b"[1,2]", 3, 1)


@pytest.mark.row("D25", "B16")
async def test_a_retry_that_was_waited_for_is_due_when_it_was(
    supervisor: StartSupervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal"
    server = await supervisor(POOL, journal=str(journal))
    job_id = (await server.submit(Submission("waits_long", b"{}"))).job_id
    await read_until(server, job_id, "retrying")
    copy = await until_on_disk(journal, tmp_path, lambda row: bool(row.started and row.started.get("waits")))
    await server.close(grace_s=0)
    early, late = tmp_path / "early", tmp_path / "late"
    for path in (early, late):
        shutil.copy(copy, path)  # all of it: whoever opened it last has closed it
    server = await supervisor(POOL, journal=str(early))
    record = await server.get(job_id)
    assert (record.state, record.attempts, record.partial) == ("queued", 1, b'{"done":1}')
    assert record.queue is not None and record.queue["position"] is None, "it does not wait for a worker"
    assert (await server.cancel(job_id)).state == "cancelled"
    monkeypatch.setattr(dispatcher, "RETRY_AFTER_S_MAX", 0.01)  # as if the hour were over
    server = await supervisor(POOL, journal=str(late))
    record = await server.wait(job_id)
    assert (record.state, record.result) == ("completed", b'[2,{"done":1}]')


def test_a_checkpoint_is_replaced_and_goes_with_its_job(tmp_path: Path) -> None:
    from killable.supervisor.journal.journal_file import AcceptedNote, DroppedNote

    file = JournalFile.open(str(tmp_path / "journal"))
    try:
        file.write([AcceptedNote(1, "job-1", b"{}", b"input")])
        for value in (b"1", b"22"):
            file.write([CheckpointNote(1, value)])
        (row,) = file.read()
        assert row.pieces == {"input": b"input", "checkpoint": b"22"}
        file.write([DroppedNote(1)])
        assert file.read() == []
    finally:
        file.close()
