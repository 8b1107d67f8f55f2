"""Jobs that outlive their supervisor: a machine that was started again, deaths at named moments, a slow disk."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from job_runs import HOSTILE_POOL, follow, follow_lost, hostile_pool, stop, wait_for_tokens
from support import processes
from support.engines import ENGINE, LOST, until_warm
from support.supervisor_fixture import StartSupervisor
from support.waiting import Pending, until_async, until_empty

from killable.supervisor.dispatch import dispatcher, recovery
from killable.supervisor.journal import failing_and_hanging_writes
from killable.supervisor.journal import journal_thread as module
from killable.supervisor.journal.journal_file import AcceptedNote, JournalFile, Note
from killable.supervisor.models import JobEvent, Submission
from killable.supervisor.records import JobRecord
from killable.supervisor.settings import Settings
from killable.supervisor.supervisor import Supervisor
from killable.workers.errors import Refused
from killable.workers.protocol.message_bounds import INLINE_BYTES_MAX

SUPPORT = Path(processes.__file__).parent
LOOP = Submission("loop_python", b"{}")
KEYED = Submission("echoes", b"{}", idempotency_key="key-2", body_digest="d")


def owner_that_dies(journal: Path, jobs: Sequence[Any], before: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Run the program of support/owner_program.py until its jobs have said what they are waited for, and kill it.

    Return the records of its jobs; nothing of it is there any more.
    """
    pools = {"hostile": {**HOSTILE_POOL, "workers": 1, "spares": 1}}
    arguments = {"settings": {"journal": str(journal)}, "pools": pools, "jobs": jobs}
    command = [*before, sys.executable, str(SUPPORT / "owner_program.py"), json.dumps(arguments)]
    others = {seen.pid for seen in processes.started_by_tests()}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        process.kill()

    def left() -> list[processes.ProcessInfo]:
        return [seen for seen in processes.started_by_tests() if seen.pid not in others and seen.state != "Z"]

    until_empty(left, "everything is gone")
    records: list[dict[str, Any]] = said["jobs"]
    return records


def copy_journal(journal: Path, copy: Path) -> None:
    """What is on disk at a moment is what a death would leave then."""
    for suffix in ("", "-wal"):
        # Not in this process, which would lose the lock by closing the file (fcntl(2)).
        subprocess.run(["cp", f"{journal}{suffix}", f"{copy}{suffix}"], check=True)


JOBS = [["loop_python", {}, 1], ["echoes", {}, 0], ["echoes", {}, 0], ["echoes", {}, 0]]


@pytest.mark.row("B16")
@pytest.mark.code("node_lost")
async def test_a_job_of_a_machine_that_was_started_again_is_lost_with_it(
    supervisor: StartSupervisor, tmp_path: Path
) -> None:
    """The first supervisor sees another boot's id where the kernel has that."""
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("01234567-89ab-cdef-0123-456789abcdef\n")
    mount = f'mount --bind {boot_id} /proc/sys/kernel/random/boot_id && exec "$0" "$@"'
    before = ("unshare", "-m", "sh", "-c", mount)
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("a mount namespace of one's own is not permitted here")
    running, *waiting = owner_that_dies(tmp_path / "journal", JOBS, before)
    # Fewer may wait now than did then: they were accepted, and stay so.
    server = await supervisor(hostile_pool(), journal=str(tmp_path / "journal"), queue_jobs_max=1)
    story = await follow_lost(server, running["job_id"])
    assert story.code == "node_lost" and story.error["boot_id"] == "0123456789abcdef0123456789abcdef"
    assert story.error["instance_id"] == running["instance_id"] and story.error["worker_id"] == running["worker_id"]
    assert running["instance_id"] in story.error["message"] and "swept" not in story.error["message"]
    for record in waiting:
        assert (await follow(server, record["job_id"])).state == "completed"


@pytest.mark.row("B16")
async def test_what_waited_has_its_order_also_where_a_worker_is_warm_before_all_of_it_is_back(
    supervisor: StartSupervisor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = hostile_pool(workers=1)
    first = await supervisor(pool, journal=str(tmp_path / "first"))
    await wait_for_tokens(first, (await first.submit(LOOP)).job_id)
    waiting = [await first.submit(Submission("echoes", b"{}", priority=priority)) for priority in (0, 0, 5)]
    copy_journal(tmp_path / "first", tmp_path / "second")
    await first.close(grace_s=0)
    second = Supervisor(Settings(pools=(pool,), journal=str(tmp_path / "second")))
    try:
        with caplog.at_level(logging.INFO, "killable.jobs"):
            await second.start(check=partial(until_warm, second))
            for record in waiting:
                assert (await follow(second, record.job_id)).state == "completed"
        started = [vars(record)["job_id"] for record in caplog.records if record.getMessage() == "started"]
        assert started == [waiting[number].job_id for number in (2, 0, 1)]
    finally:
        await second.close(grace_s=0)


@pytest.mark.row("B16", "D23")
async def test_no_id_is_given_out_twice_where_a_job_has_not_begun_again_before_the_next_death(
    supervisor: StartSupervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits behind one of a higher priority all the life of the second supervisor."""
    pool = hostile_pool(workers=1, spares=0)
    first = await supervisor(pool, journal=str(tmp_path / "first"))
    twice = {"attempts_max": 2, "backoff_s": 1000}
    job_id = (await first.submit(Submission("dies_of", b'{"number": 9}', limits=twice))).job_id
    seen = await events_until(first, job_id, "retrying")
    await wait_for_tokens(first, (await first.submit(LOOP)).job_id)
    before_it = await first.submit(LOOP._replace(priority=5))
    copy_journal(tmp_path / "first", tmp_path / "second")
    await first.close(grace_s=0)

    monkeypatch.setattr(dispatcher, "RETRY_AFTER_S_MAX", 0.0)  # as if its next attempt were due
    second = await supervisor(pool, journal=str(tmp_path / "second"))
    seen += await events_until(second, job_id, "restored", after=seen[-1].id)
    await wait_for_tokens(second, before_it.job_id)
    await second.submit(Submission("echoes", b"{}"))  # when this is on disk, so is what was said before
    copy_journal(tmp_path / "second", tmp_path / "third")
    assert (await second.get(job_id)).state == "queued"
    await second.close(grace_s=0)

    third = await supervisor(pool, journal=str(tmp_path / "third"))
    seen += await events_until(third, job_id, "failed", after=seen[-1].id)
    assert [event.name for event in seen] == ["started", "retrying", "restored", "restored", "started", "failed"]
    ids = [event.id for event in seen]
    assert ids == sorted(set(ids)), ids


async def events_until(server: Supervisor, job_id: str, name: str, after: int = -1) -> list[JobEvent]:
    """Return a job's events up to one of that name."""
    seen: list[JobEvent] = []
    async with asyncio.timeout(30):
        async for batch in server.events(job_id, after):
            for event in batch:
                seen.append(event)
                if event.name == name:
                    return seen
    raise AssertionError(f"it has ended: {seen}")


@pytest.mark.row("B16")
@pytest.mark.code("supervisor_lost")
async def test_of_leftovers_is_said_what_is_true(supervisor: StartSupervisor, tmp_path: Path) -> None:
    running, _ = owner_that_dies(tmp_path / "journal", JOBS[:2])  # with the second one the first one's start is on disk
    server = await supervisor(hostile_pool(), journal=str(tmp_path / "journal"), sweep=False)
    story = await follow_lost(server, running["job_id"])
    assert story.code == "supervisor_lost" and story.error["pid"] == running["pid"]
    assert "this start searched for no orphans" in story.error["message"]
    assert processes.read_process(running["pid"]) is None


def dies(journal: Path, moment: str) -> list[str]:
    """Run the program of support/journal_crash_program.py; return the ids of the jobs whose submission was answered."""
    command = [
        sys.executable,
        str(SUPPORT / "journal_crash_program.py"),
        str(journal),
        "support.simple_jobs",
        str(SUPPORT.parent),
        moment,
    ]
    environment = os.environ | {"PYTHONPATH": str(SUPPORT.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == -9, done.stderr
    return done.stdout.split()


SERVES_BOTH = hostile_pool(modules=(*HOSTILE_POOL["modules"], "support.simple_jobs"))


@pytest.mark.row("B16")
@pytest.mark.parametrize("moment", ["uncommitted", "unanswered"])
async def test_a_job_is_there_when_it_was_on_disk_and_otherwise_nobody_was_told_of_it(
    supervisor: StartSupervisor, tmp_path: Path, moment: str
) -> None:
    """A worker was free, so its start was on disk with its acceptance: it is not run, although it has not begun."""
    journal = tmp_path / "journal"
    (answered,) = dies(journal, moment)
    server = await supervisor(SERVES_BOTH, journal=str(journal))
    jobs, _ = await server.list()
    assert [job.job_id for job in jobs[-1:]] == [answered]
    assert len(jobs) == (1 if moment == "uncommitted" else 2)
    again = await server.submit(KEYED)  # what its client does
    assert again.replayed == (moment == "unanswered") == (again.job_id == jobs[0].job_id)
    record = await server.wait(again.job_id)
    assert (record.state, record.attempts) == ("failed" if moment == "unanswered" else "completed", 1)
    assert len((await server.list())[0]) == 2


@pytest.mark.row("B16", "D17")
@pytest.mark.parametrize(
    ("moment", "code", "attempts"),
    [
        ("begins", "", 1),
        ("begun", "supervisor_lost", 1),
        ("is to wait", "supervisor_lost", 1),
        ("waits", "", 2),
        ("ends", "supervisor_lost", 1),
    ],
)
async def test_of_a_job_that_was_answered_what_was_on_disk_counts(
    supervisor: StartSupervisor, tmp_path: Path, moment: str, code: str, attempts: int
) -> None:
    """A job whose start is not on disk has not begun, and is run; how far another had come nobody knows. A backoff that
    was on disk is over.
    """
    journal = tmp_path / "journal"
    others = {seen.pid for seen in processes.started_by_tests()}
    *_, job_id = dies(journal, moment)
    until_empty(
        lambda: [seen for seen in processes.started_by_tests() if seen.pid not in others], "nothing outlives it"
    )
    server = await supervisor(SERVES_BOTH, journal=str(journal))
    record = await server.wait(job_id)
    told = record.error["code"] if record.error else ""
    assert (record.state, told, record.attempts) == ("failed" if code else "completed", code, attempts)


@pytest.mark.row("B16", "D23")
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_job_that_may_run_twice_is_run_again_a_few_times_unless_it_was_cancelled(
    supervisor: StartSupervisor, tmp_path: Path, cancelled: bool
) -> None:
    gate = tmp_path / "gate"
    server = await supervisor(SERVES_BOTH, journal=str(tmp_path / "journal-0"))
    job_id = (await server.submit(Submission("repeatable", json.dumps({"gate": str(gate)}).encode()))).job_id
    seen = await events_until(server, job_id, "token")
    if cancelled:
        disk_has_it = Submission("echo", b"{}")
        await server.cancel(job_id, wait_s=0, grace_s=60)
        await server.submit(disk_has_it)
    for number in range(1, 2 if cancelled else recovery.RERUNS_MAX + 2):
        copy_journal(tmp_path / f"journal-{number - 1}", tmp_path / f"journal-{number}")
        await server.close(grace_s=0)
        server = await supervisor(SERVES_BOTH, journal=str(tmp_path / f"journal-{number}"))
        if cancelled or number > recovery.RERUNS_MAX:
            break
        seen += await events_until(server, job_id, "token", after=seen[-1].id)
        record = await server.get(job_id)
        assert (record.state, record.attempts, record.lost_attempts) == ("running", number + 1, number)
    story = await follow_lost(server, job_id)
    assert story.code == LOST
    record = await server.get(job_id)
    attempts = 1 if cancelled else recovery.RERUNS_MAX + 1
    assert (record.attempts, record.lost_attempts) == (attempts, attempts - 1)
    names = [event.name for event in seen]
    assert names == ["started", "token", *["restored", "started", "token"] * (attempts - 1)]
    ids = [event.id for event in seen]
    assert ids == sorted(set(ids))
    for event in seen:
        if event.name == "restored":
            assert json.loads(event.data)["error"]["code"] == LOST


@pytest.mark.row("B16")
async def test_a_row_that_cannot_be_used_costs_only_its_job(
    supervisor: StartSupervisor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One whose bits have changed, and one that says nothing that a job could be made of."""
    path = str(tmp_path / "journal")
    with closing(JournalFile.open(path)) as file:
        file.write([AcceptedNote(1, "job-1", b"{}", b"{}"), AcceptedNote(2, "job-2", b'{"n":1}', b"{}")])
        file._connection.execute("UPDATE jobs SET accepted = '{\"n\":2}' WHERE number = 2")
    server = await supervisor(SERVES_BOTH, journal=path)
    assert (await server.list())[0] == []
    record = await server.submit(Submission("echo", b"{}"))
    assert (await server.wait(record.job_id)).state == "completed"
    said = {vars(each)["job_id"]: vars(each)["detail"] for each in caplog.records if "set_aside" in each.getMessage()}
    assert set(said) == {"job-1", "job-2"} and "checksum" in said["job-2"] and "KeyError" in said["job-1"]


@pytest.mark.row("B16")
async def test_a_journal_that_is_removed_under_the_server_takes_no_job_and_starts_none(
    supervisor: StartSupervisor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal"
    server = await supervisor(hostile_pool(), journal=str(path))
    running = await server.submit(LOOP)
    await wait_for_tokens(server, running.job_id)
    path.unlink()
    for _ in range(2):
        with pytest.raises(Refused, match="was removed or replaced while the server had it open") as caught:
            await server.submit(LOOP)
        assert caught.value.code == "journal_failed"
    record = await server.cancel(running.job_id, grace_s=0)
    assert (record.state, record.durable) == ("cancelled", False)
    able, degraded = await server.ready()
    assert able and "was removed or replaced" in degraded[0]
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == ["journal_failed"]
    await server.close()


# ── while the disk is slow ──


class Disk(threading.Event):
    """Set: it writes, or refuses to if there is a reason. Not set: it takes its time."""

    why = ""


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    works, write = Disk(), JournalFile.write

    def write_when_it_works(file: JournalFile, notes: Sequence[Note]) -> None:
        assert works.wait(60)
        if works.why:
            raise sqlite3.OperationalError(works.why)
        write(file, notes)

    monkeypatch.setattr(JournalFile, "write", write_when_it_works)
    works.set()
    yield works
    works.set()


async def waiting_for_disk(server: Supervisor) -> JobRecord:
    """Return the job that is queued once it is seen."""

    async def is_there() -> Sequence[JobRecord]:
        return (await server.list(state="queued"))[0]

    (record,) = await until_async(is_there, "the job is seen")
    return record


@pytest.mark.row("B16")
async def test_two_requests_with_one_key_are_one_job_also_while_the_first_waits_for_the_disk(
    supervisor: StartSupervisor, tmp_path: Path, disk: Disk
) -> None:
    server = await supervisor(hostile_pool(), journal=str(tmp_path / "journal"), queue_jobs_max=1)
    disk.clear()
    asked = [asyncio.create_task(server.submit(KEYED)) for _ in range(2)]
    record = await waiting_for_disk(server)
    with pytest.raises(Refused) as caught:
        await server.submit(Submission("echoes", b"{}", idempotency_key="key-2", body_digest="another"))
    assert (caught.value.code, caught.value.job_id) == ("idempotency_conflict", record.job_id)
    with pytest.raises(Refused) as caught:
        await server.submit(Submission("echoes", b"{}"))
    assert caught.value.code == "queue_full"  # it holds its place
    assert not any(task.done() for task in asked)
    disk.set()
    first, second = await asyncio.gather(*asked)
    assert first.job_id == second.job_id == record.job_id and (first.replayed, second.replayed) == (False, True)
    assert (await follow(server, record.job_id)).state == "completed"
    assert len((await server.list())[0]) == 1


@pytest.mark.row("B16")
@pytest.mark.parametrize("by", ["user", "shutdown"])
async def test_a_job_that_is_cancelled_while_it_waits_for_the_disk_never_runs(
    supervisor: StartSupervisor, tmp_path: Path, disk: Disk, by: str
) -> None:
    server = await supervisor(hostile_pool(), journal=str(tmp_path / "journal"))
    await until_warm(server)  # were it queued, it would begin at once
    disk.clear()
    asked = asyncio.create_task(server.submit(KEYED))
    record = await waiting_for_disk(server)
    closing = asyncio.create_task(server.close()) if by == "shutdown" else None
    if closing is None:
        assert (await server.cancel(record.job_id)).state == "cancelled"
    else:
        assert (await server.wait(record.job_id)).state == "cancelled"
    disk.set()
    answered = await asked
    assert (answered.job_id, answered.state, answered.pid) == (record.job_id, "cancelled", None)
    assert (await server.submit(KEYED)).replayed
    await (closing or server.close())
    following = await supervisor(hostile_pool(), journal=str(tmp_path / "journal"))
    again = await following.get(record.job_id)
    assert again.state == "cancelled" and again.certificate is not None and again.certificate["by"] == by


@pytest.mark.row("B16")
async def test_a_job_runs_though_whoever_submitted_it_has_left_while_it_waited_for_the_disk(
    supervisor: StartSupervisor, tmp_path: Path, disk: Disk
) -> None:
    """Its input lies in sealed memory, which was not the submitter's to close any more."""
    server = await supervisor(hostile_pool(), journal=str(tmp_path / "journal"))
    disk.clear()
    large = json.dumps({"text": "x" * INLINE_BYTES_MAX}).encode()
    asked = asyncio.create_task(server.submit(Submission("echoes", large)))
    record = await waiting_for_disk(server)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    disk.set()
    story = await follow(server, record.job_id)
    assert story.state == "completed", story.error


@pytest.mark.row("B16")
async def test_no_job_begins_and_no_end_is_told_before_the_disk_has_it_and_a_kill_does_not_wait(
    supervisor: StartSupervisor, tmp_path: Path, disk: Disk
) -> None:
    server = await supervisor(hostile_pool(workers=1), journal=str(tmp_path / "journal"))
    gate = tmp_path / "gate"
    first = await server.submit(Submission("waits_for", json.dumps({"gate": str(gate)}).encode()))
    await events_until(server, first.job_id, "started")
    second, third = [await server.submit(Submission("echoes", b"{}")) for _ in range(2)]
    disk.clear()
    readers = [asyncio.create_task(follow(server, first.job_id)), asyncio.create_task(server.wait(first.job_id))]
    gate.touch()

    async def is_over() -> bool | Pending:
        counts = await server.scraping.counts()
        return counts["running"] == 0 or Pending(counts)

    await until_async(is_over, "its worker is free")
    assert not any(reader.done() for reader in readers)
    assert (await server.cancel(second.job_id)).durable is False  # whose start is on its way to the disk
    waiting, _ = await server.list(state="queued")
    assert [record.job_id for record in waiting] == [third.job_id]
    disk.set()
    story, record = await asyncio.gather(*readers)
    assert (story.state, record.state, record.durable) == ("completed", "completed", True)
    assert "durable" not in story.end
    assert (await follow(server, third.job_id)).state == "completed"
    assert (await server.get(second.job_id))[:3] == (second.job_id, "echoes", "cancelled")


@pytest.mark.row("B16")
async def test_a_full_disk_starts_nothing_until_it_has_room(
    supervisor: StartSupervisor, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    monkeypatch.setattr(JournalFile, "check", lambda file: file.write([]))
    server = await supervisor(hostile_pool(workers=1), journal=str(tmp_path / "journal"))
    running = await server.submit(LOOP)
    await wait_for_tokens(server, running.job_id)
    waiting = await server.submit(Submission("echoes", b"{}"))
    disk.why = "full"
    cancelled = await server.cancel(running.job_id, grace_s=0)
    assert (cancelled.state, cancelled.durable) == ("cancelled", False)

    async def is_refused() -> bool | Pending:
        able, degraded = await server.ready()
        return (able and degraded == ["journal: full"]) or Pending(degraded)

    await until_async(is_refused, "it says that nothing can be written")
    got = await server.get(running.job_id)  # told at once: when the disk has room again nobody knows
    assert (got.state, got.durable) == ("cancelled", False)
    assert (await server.get(waiting.job_id)).state == "queued"
    disk.why = ""
    assert (await follow(server, waiting.job_id)).state == "completed"
    assert (await server.get(running.job_id)).durable is True


@pytest.mark.row("A17", "B16")
async def test_a_shutdown_does_not_wait_for_a_job_that_the_disk_has_refused_in_the_end(
    supervisor: StartSupervisor, tmp_path: Path, disk: Disk
) -> None:
    server = await supervisor(hostile_pool(), journal=str(tmp_path / "journal"))
    disk.clear()
    asked = asyncio.create_task(server.submit(KEYED))
    await waiting_for_disk(server)
    await server.shutdown(deadline_s=1000)  # which it has for the only job that there is
    due = asyncio.create_task(server.until_shutdown())
    await asyncio.sleep(0)
    assert not due.done()
    disk.why = "full"
    disk.set()
    with pytest.raises(Refused) as caught:
        await asked
    assert caught.value.code == "journal_failed" and "full" in caught.value.message
    async with asyncio.timeout(30):
        await due


@pytest.mark.row("B16")
async def test_a_disk_that_hangs_holds_up_a_close_for_its_time_only(
    supervisor: StartSupervisor,
    tmp_path: Path,
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever waits for it is told that nobody knows; what runs goes on until then, and can be cancelled. Meanwhile the
    server says what is wrong, and takes no other job.
    """
    monkeypatch.setattr(module, "CLOSE_S", 0.1)
    path = str(tmp_path / "journal")
    server = await supervisor(hostile_pool(), journal=path)
    running = [(await server.submit(LOOP)).job_id for _ in range(2)]
    for job_id in running:
        await wait_for_tokens(server, job_id)
    disk.clear()
    asked = asyncio.create_task(server.submit(KEYED))
    record = await waiting_for_disk(server)
    monkeypatch.setattr(failing_and_hanging_writes, "HANGS_AFTER_S", 0.1)
    assert (await stop(server, running[0])).code == "cancelled"

    async def tells() -> bool | Pending:
        able, degraded = await server.ready()
        return (able and "has not finished after" in str(degraded)) or Pending(degraded)

    await until_async(tells, "it says that the disk hangs")
    with pytest.raises(Refused, match=r"not finished after \d+ s; no job is accepted until writing works"):
        await server.submit(LOOP)
    assert not asked.done()
    await server.close(grace_s=0)
    with pytest.raises(Refused) as caught:
        async with asyncio.timeout(30):
            await asked
    assert caught.value.code == "journal_failed" and "not known whether the job was written" in caught.value.message
    assert "journal_left" in caplog.text and f"{path}: no write finished within 0.1 s" in str(vars(caplog.records[-1]))
    disk.set()
    await until_async(lambda: "killable-journal" not in [each.name for each in threading.enumerate()], "it has ended")
    following = await supervisor(hostile_pool(), journal=path)
    assert [(await following.get(job_id)).state for job_id in running] == ["cancelled"] * 2
    again = await following.get(record.job_id)  # what hung was written after all: it is over, and never runs
    assert (again.state, again.pid) == ("cancelled", None)


async def test_a_job_that_a_close_gave_up_may_be_on_disk_and_run(
    supervisor: StartSupervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has the transaction, and its sync does not return: what a death leaves is run by the next server."""
    hangs, synced, write = threading.Event(), threading.Event(), JournalFile.write

    def write_and_hang(file: JournalFile, notes: Sequence[Note]) -> None:
        write(file, notes)
        hangs.set()
        assert synced.wait(60)

    monkeypatch.setattr(JournalFile, "write", write_and_hang)
    monkeypatch.setattr(module, "CLOSE_S", 0.1)
    server = await supervisor(hostile_pool(), journal=str(tmp_path / "first"))
    asked = asyncio.create_task(server.submit(KEYED))
    record = await waiting_for_disk(server)
    await until_async(hangs.is_set, "it is on disk")
    await server.close(grace_s=0)
    with pytest.raises(Refused) as caught:
        await asked
    copy_journal(tmp_path / "first", tmp_path / "second")
    synced.set()
    following = await supervisor(hostile_pool(), journal=str(tmp_path / "second"))
    assert (await follow(following, record.job_id)).state == "completed"  # it did run
    assert "not known" in caught.value.message


def read_only(journal: Path, query: str) -> list[Any]:
    """The first column of what is in a journal that no server uses."""
    with closing(sqlite3.connect(journal)) as connection:
        return [row[0] for row in connection.execute(query)]


async def test_a_key_outlives_its_job_and_the_server_and_not_its_time(
    supervisor: StartSupervisor, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    pool = hostile_pool(workers=1)
    first = await supervisor(pool, journal=str(journal), keep_jobs=1)
    record = await first.submit(KEYED)
    for job_id in (record.job_id, (await first.submit(KEYED._replace(idempotency_key=""))).job_id):
        assert (await follow(first, job_id)).state == "completed"
    with pytest.raises(Refused, match="no longer kept"):
        await first.get(record.job_id)
    await first.close()
    assert read_only(journal, "SELECT count(*) FROM jobs") == [2]
    assert read_only(journal, "SELECT count(*) FROM pieces WHERE number = 1") == [0], "only what the key needs"
    second = await supervisor(pool, journal=str(journal), keep_jobs=1)
    again = await second.submit(KEYED)
    # A head had a slot for it at once; what outlives it is the answer of before.
    before: dict[str, Any] = (
        {} if ENGINE == "local" else {"state": "queued", "attempts": 0, "worker_id": None, "node": None}
    )
    assert again == record._replace(replayed=True, queue=None, **before)
    with pytest.raises(Refused) as caught:
        await second.submit(KEYED._replace(body_digest="another"))
    assert caught.value.code == "idempotency_conflict"
    await second.close()
    third = await supervisor(pool, journal=str(journal), keep_jobs=1, idempotency_s=0.0)
    assert (await third.submit(KEYED)).job_id != record.job_id
    await third.close()
    assert record.job_id not in read_only(journal, "SELECT job_id FROM jobs")


# ── with the output of running jobs ──


@pytest.mark.row("B16", "D23")
async def test_a_stream_survives_the_server_without_a_gap(supervisor: StartSupervisor, tmp_path: Path) -> None:
    """What a reader has seen is there again, with the same ids; the end follows at the next one."""
    gates = [str(tmp_path / name) for name in ("one", "two")]
    settings = {"journal_output": True}
    first = await supervisor(SERVES_BOTH, journal=str(tmp_path / "journal-0"), **settings)
    job_id = (await first.submit(Submission("gated", json.dumps({"gates": gates}).encode()))).job_id
    Path(gates[0]).touch()
    seen: list[JobEvent] = []
    async for batch in first.events(job_id):
        seen += batch
        if len(seen) == 3:  # started, the first token, and the one of the first gate
            break
    copy_journal(tmp_path / "journal-0", tmp_path / "journal-1")
    await first.close(grace_s=0)
    second = await supervisor(SERVES_BOTH, journal=str(tmp_path / "journal-1"), **settings)
    events = await events_until(second, job_id, "failed")
    assert events[:3] == seen and [event.id for event in events] == [0, 1, 2, 3]
    assert json.loads(events[3].data)["error"]["code"] == LOST
    assert await events_until(second, job_id, "failed", after=2) == events[3:]


@pytest.mark.row("B16")
async def test_no_event_is_shown_before_the_disk_has_it(
    supervisor: StartSupervisor, tmp_path: Path, disk: Disk
) -> None:
    gate = str(tmp_path / "one")
    server = await supervisor(SERVES_BOTH, journal=str(tmp_path / "journal"), journal_output=True)
    job_id = (await server.submit(Submission("gated", json.dumps({"gates": [gate]}).encode()))).job_id
    await events_until(server, job_id, "token")
    disk.clear()
    Path(gate).touch()

    async def is_over() -> bool | Pending:
        counts = await server.scraping.counts()
        return counts["running"] == 0 or Pending(counts)

    await until_async(is_over, "it is over")
    stream = server.events(job_id)
    assert [event.name for event in await anext(stream)] == ["started", "token"]
    more = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    assert not more.done()
    disk.set()
    rest = [*await more, *[event async for batch in stream for event in batch]]
    assert [(event.id, event.name) for event in rest] == [(2, "token"), (3, "completed")]


@pytest.mark.row("B16", "D23")
async def test_a_job_that_is_run_again_goes_on_where_its_stream_was(
    supervisor: StartSupervisor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    settings = {"journal_output": True}
    server = await supervisor(SERVES_BOTH, journal=str(tmp_path / "journal-0"), **settings)
    job_id = (await server.submit(Submission("repeatable", json.dumps({"gate": str(gate)}).encode()))).job_id
    seen = await events_until(server, job_id, "token")
    for number in (1, 2):
        copy_journal(tmp_path / f"journal-{number - 1}", tmp_path / f"journal-{number}")
        await server.close(grace_s=0)
        server = await supervisor(SERVES_BOTH, journal=str(tmp_path / f"journal-{number}"), **settings)
        seen += await events_until(server, job_id, "token", after=seen[-1].id)
    gate.touch()
    events = await events_until(server, job_id, "completed")
    assert events[: len(seen)] == seen
    names = [event.name for event in events]
    assert names == ["started", "token", *["restored", "started", "token"] * 2, "completed"]
    assert [event.id for event in events] == list(range(len(events)))
