"""The supervisor's bookkeeping over real processes: states, queue, retention, resources."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from job_runs import (
    follow,
    hostile_pool,
    pool_of,
    run,
    stop,
    submit,
    wait_for_state,
    wait_for_tokens,
    wait_until_computing,
)
from support import processes
from support.engines import ENGINE, number_of, pool_with_workers
from support.processes import open_descriptors
from support.supervisor_fixture import StartSupervisor
from support.waiting import Pending, until, until_async

from killable.supervisor.models import Submission
from killable.supervisor.records import WorkerRecord
from killable.supervisor.supervisor import Supervisor
from killable.workers.error_classes import WorkerCrashed, WorkerExited, error_class
from killable.workers.errors import JobCancelled, JobError, JobFailed, JobTimedOut, Refused

# ── states ──


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_of_many_that_end_together_those_at_work_are_signalled_first(
    how: str, supervisor: StartSupervisor, caplog: pytest.LogCaptureFixture
) -> None:
    """To write down the ends of those that wait takes a while; and none of them begins."""
    caplog.set_level(logging.INFO, "killable.jobs")
    server = await supervisor(hostile_pool(workers=1, spares=0))
    busy = await submit(server, "loop_python")
    await wait_for_tokens(server, busy)
    waiting = [await submit(server, "echoes") for _ in range(3)]
    await (server.cancel_matching() if how == "cancel" else server.close())
    of_jobs = [record for record in caplog.records if record.name == "killable.jobs"]
    said_of = [(record.getMessage(), vars(record)["job_id"]) for record in of_jobs]
    signalled = "term_sent" if ENGINE == "local" else "cancel_requested"  # the order to its node is under way then
    assert said_of.index((signalled, busy)) < min(said_of.index(("cancelled", job_id)) for job_id in waiting)
    assert not {("started", job_id) for job_id in waiting} & set(said_of)


@pytest.mark.row("B1")
@pytest.mark.row("B7")
async def test_a_job_goes_through_its_states(tmp_path: Path, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=1, spares=0))
    gate = tmp_path / "gate"
    job_id = await submit(server, "waits_for", gate=str(gate))
    record = await server.get(job_id)
    queued: tuple[Any, ...] = ("queued", None, {"position": 0, "estimated_wait_s": None, "detail": ""})
    # A head gives it a slot of a node, where it waits for its worker.
    assert (record.state, record.pid, record.queue) == (queued if ENGINE == "local" else ("running", None, None))
    await wait_for_tokens(server, job_id)
    record = await server.get(job_id)
    assert record.state == "running" and record.pid is not None and record.started_at is not None
    seen = processes.read_process(record.pid)
    assert seen is not None and record.worker_id in {worker.worker_id for worker in await server.workers()}
    gate.touch()
    record = await server.wait(job_id)
    assert (record.state, record.result, record.error) == ("completed", b'"opened"', None)
    assert record.created_at <= record.started_at <= (record.ended_at or "")  # type: ignore[operator]


@pytest.mark.row("B14")
@pytest.mark.row("B7")
async def test_jobs_are_found_and_listed(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(jobs_per_worker_max=0))
    tagged = await server.submit(Submission("echoes", b"{}", tags={"team": "a"}))
    others = [await submit(server, "echoes") for _ in range(4)]
    running = await submit(server, "loop_python")
    for job_id in (tagged.job_id, *others):
        await server.wait(job_id)

    async def ids(**query: Any) -> list[str]:
        page, _ = await server.list(**query)
        return [record.job_id for record in page]

    assert await ids() == [running, *reversed(others), tagged.job_id]
    assert await ids(state="active") == await ids(type="loop_python") == [running]
    assert await ids(tag=("team", "a")) == [tagged.job_id]
    assert await ids(state="failed") == []
    page, cursor = await server.list(state="completed", limit=3)
    rest, end = await server.list(state="completed", limit=3, cursor=cursor)
    assert [record.job_id for record in (*page, *rest)] == [*reversed(others), tagged.job_id] and end is None
    with pytest.raises(Refused) as refused:
        await server.get("job-none")
    assert refused.value.code == "unknown_job"


@pytest.mark.row("B3")
async def test_an_ending_has_the_class_of_its_code(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=4))
    timed_out = run(server, "loop_python", limits={"run_s": 0.05})
    cancelled = await submit(server, "loop_python")
    await wait_until_computing(server, cancelled)
    stories = await asyncio.gather(
        run(server, "raises_unpicklable"),
        run(server, "segfaults"),
        run(server, "exits", code=3),
        timed_out,
        stop(server, cancelled),
    )
    expected = [
        ("exception", JobFailed),
        ("crash", WorkerCrashed),
        ("exit", WorkerExited),
        ("timeout.run", JobTimedOut),
        ("cancelled", JobCancelled),
    ]
    for story, (code, kind) in zip(stories, expected, strict=True):
        assert story.code == code and error_class(story.code) is kind and issubclass(kind, JobError)


@pytest.mark.row("B6")
async def test_the_record_is_final_when_the_terminal_event_is_read(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=2, spares=2))
    inputs: list[tuple[str, dict[str, Any]]] = [("echoes", {}), ("exits", {"code": 3}), ("raises_unpicklable", {})]
    for type, input in inputs * 5:
        job_id = await submit(server, type, **input)
        async for batch in server.events(job_id):
            last = batch[-1]
        record = await server.get(job_id)
        end = json.loads(last.data)
        assert record.ended and record.state == last.name == end["state"] and record.error == end["error"]


# ── many at once ──


@pytest.mark.row("B8")
async def test_hundreds_of_jobs_at_once_each_get_their_own_result(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=4, jobs_per_worker_max=0))
    texts = [f"text {number}" for number in range(300)]
    stories = await asyncio.gather(*(run(server, "echoes", text=text) for text in texts))
    assert [story.end["result"]["text"] for story in stories] == texts
    assert len({story.pid for story in stories}) <= 5


@pytest.mark.row("D22")
async def test_stuck_jobs_leave_the_other_workers_to_others(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=3, spares=1))
    stuck = [await submit(server, type, limits={"grace_s": 60}) for type in ("hold_gil", "ignores_term")]
    for job_id in stuck:
        await wait_until_computing(server, job_id)
    assert (await server.cancel(stuck[1], wait_s=0)).state == "stopping"
    for _ in range(5):
        assert (await run(server, "echoes")).state == "completed"
    assert [(await server.get(job_id)).state for job_id in stuck] == ["running", "stopping"]


# ── the queue ──


@pytest.mark.row("D9")
async def test_a_queued_job_that_is_cancelled_never_has_a_process(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=1))
    busy = await submit(server, "loop_python")
    await wait_until_computing(server, busy)
    queued = [await submit(server, "echoes") for _ in range(3)]
    assert [(await server.get(job_id)).queue["position"] for job_id in queued] == [0, 1, 2]  # type: ignore[index]
    story = await stop(server, queued[1], reason="not needed")
    assert story.names == ["cancelled"] and story.record is not None
    assert (story.record.pid, story.record.worker_id, story.record.attempts) == (None, None, 0)
    assert story.certificate == {"requested": 0.0, "cause": "cancelled", "by": "user", "reason": "not needed"}
    await stop(server, busy)
    assert [(await server.wait(job_id)).state for job_id in queued] == ["completed", "cancelled", "completed"]


@pytest.mark.code("timeout.queue")
@pytest.mark.row("B12")
async def test_a_job_that_waits_too_long_times_out_in_the_queue(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=1))
    busy = await submit(server, "loop_python")
    await wait_until_computing(server, busy)
    story = await run(server, "echoes", limits={"queue_s": 0.1})
    assert (story.state, story.code, story.names) == ("timed_out", "timeout.queue", ["timed_out"])
    assert (story.error["limit"], story.error["limit_s"], story.error["retryable"]) == ("queue_s", 0.1, True)
    assert (await server.get(busy)).state == "running"


async def test_a_deadline_that_is_seen_late_hears_first_what_was_said_in_time(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=1, spares=0, jobs_per_worker_max=0))
    await run(server, "echoes")
    (worker,) = await server.workers()
    pid = worker.pid
    assert pid is not None
    late = time.monotonic() + 1
    job_id = await submit(server, "says_much", tokens=900, limits={"run_s": 0.2})
    asleep = processes.is_in_state(pid, "S")
    until(
        lambda: time.monotonic() > late and processes.unread_bytes(pid, os.getpid()) and asleep(),
        "the loop has stood still while all was said",
    )
    story = await follow(server, job_id)
    assert (story.state, len(story.tokens)) == ("completed", 900)


@pytest.mark.row("B11")
async def test_the_queue_is_bounded_in_jobs_and_bytes(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=1), queue_jobs_max=3, queue_bytes_max=1000)
    busy = await submit(server, "loop_python")
    await wait_until_computing(server, busy)
    for bound, text, fits in [("queue_bytes_max", "x" * 600, 1), ("queue_jobs_max", "x", 3)]:
        queued = [await submit(server, "echoes", text=text) for _ in range(fits)]
        with pytest.raises(Refused) as refused:
            await submit(server, "echoes", text=text)
        assert (refused.value.code, refused.value.bound, refused.value.retryable) == ("queue_full", bound, True)
        assert refused.value.retry_after_s >= 1
        assert await server.ready() == (True, []) or bound == "queue_jobs_max"
        for job_id in queued:
            await server.cancel(job_id)
    assert (await server.ready())[1] == []


async def test_the_more_urgent_goes_first(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=1))
    busy = await submit(server, "loop_python")
    await wait_until_computing(server, busy)
    jobs = {}
    for priority in (0, 5, -1, 5):
        record = await server.submit(Submission("echoes", b"{}", priority=priority))
        jobs[record.job_id] = priority
    await stop(server, busy)
    records = [await server.wait(job_id) for job_id in jobs]
    records.sort(key=lambda record: (record.started_at, record.ended_at))
    assert [jobs[record.job_id] for record in records] == [5, 5, 0, -1]


# ── readers ──


@pytest.mark.row("PEERS-13")
@pytest.mark.row("D11")
async def test_a_job_may_end_with_its_last_reader(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    leaving, staying = [
        (await server.submit(Submission("loop_python", b"{}", stop_when_client_leaves=stops))).job_id
        for stops in (True, False)
    ]
    for job_id in (leaving, staying):
        await wait_for_tokens(server, job_id)
        await server.reader_came(job_id)
        await server.reader_came(job_id)
        await server.reader_left(job_id)
        assert (await server.get(job_id)).state == "running"
        await server.reader_left(job_id)
    story = await follow(server, leaving)
    assert (story.code, story.error["by"]) == ("cancelled", "client_gone")
    assert (await server.get(staying)).state == "running"


# ── what is kept, and what is given back ──


def descriptors_of(workers: Sequence[WorkerRecord]) -> int:
    """Return how many descriptors a supervisor has for them: nine for each, and two for its group, if it has one."""
    return sum(9 + 2 * (worker.proof != "descendants") for worker in workers)


@pytest.mark.row("H8")
@pytest.mark.row("B9")
async def test_a_thousand_jobs_leave_what_is_to_be_kept(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=2, jobs_per_worker_max=0), keep_jobs=20, keep_bytes=1 << 20)

    async def many(count: int) -> None:
        for _ in range(count // 100):
            ids = [await submit(server, "echoes", text="x" * 1000) for _ in range(100)]
            for job_id in ids[-20:]:
                await server.wait(job_id)

            async def idle() -> bool | Pending:
                active, _ = await server.list(state="active", limit=200)
                return not active or Pending(active)

            await until_async(idle, "all have ended")

    async def held() -> int:
        """Return how many descriptors are open beside those of warm workers, of which there may be more or fewer."""

        async def rests() -> bool | Pending:
            pool, workers = await pool_with_workers(server, "hostile"), await server.workers()
            return pool.idle == len(workers) or Pending((pool, workers))

        await until_async(rests, "no worker is on its way")
        return len(open_descriptors()) - descriptors_of(await server.workers())

    await many(200)
    before, descriptors = psutil.Process().memory_info().rss, await held()
    open_then = Counter(open_descriptors().values())
    await many(1000)

    async def no_more() -> bool | Pending:
        if (now := await held()) <= descriptors:
            return True
        more = Counter(open_descriptors().values()) - open_then
        return Pending((now, descriptors, more, await server.workers()))

    await until_async(no_more, "no more descriptors are open")
    kept, more = await server.list(limit=200)
    assert len(kept) == 20 and more is None
    assert psutil.Process().memory_info().rss - before < 8 << 20  # a thousand that were kept would be more


@pytest.mark.row("B9")
async def test_kept_output_is_bounded_too(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(), keep_jobs=1000, keep_bytes=1 << 20)
    jobs = [(await run(server, "emits_large", size=300_000, times=1)).job_id for _ in range(6)]
    kept, _ = await server.list()
    assert [record.job_id for record in kept] == jobs[:2:-1]


@pytest.mark.row("H6")
@pytest.mark.row("B10")
@pytest.mark.parametrize("jobs_per_worker_max", [1, 0], ids=["fresh", "reused"])
async def test_every_way_to_end_gives_everything_back(
    jobs_per_worker_max: int, proof: str, supervisor: StartSupervisor
) -> None:
    """Descriptors, processes, groups and temporary files are counted after a first round, and after more of them."""
    pool = hostile_pool(workers=2, spares=1, jobs_per_worker_max=jobs_per_worker_max)
    server = await supervisor(pool, proof=proof)

    async def everything() -> None:
        await run(server, "touches_tmp")
        await run(server, "touches_tmp", then="die")
        await run(server, "raises_unpicklable")
        await run(server, "exits", code=3)
        await run(server, "leaves_family")
        await run(server, "writes_garbage")
        await run(server, "loop_python", limits={"run_s": 0.05})
        for grace_s in (0, 5):
            job_id = await submit(server, "touches_tmp", then="loop")
            await wait_for_tokens(server, job_id)
            await stop(server, job_id, grace_s=grace_s)
        left = server.events(await submit(server, "counts_for_ever", width=100))
        async for _ in left:
            break
        await left.aclose()  # type: ignore[attr-defined]
        (reading,) = (await server.list(state="active"))[0]
        await stop(server, reading.job_id)
        await run(server, "touches_tmp")  # once more: its worker, if it is used again, stays

    async def held() -> tuple[int, int, int]:
        """Return how much there is, once the pool has its spare again and nothing is going on, nor left in its folder.

        A worker's own folder stays as long as the worker, with nothing in it.
        """

        async def settled() -> bool | Pending:
            record = await pool_with_workers(server, pool.name)
            workers = await server.workers()
            still = record.idle == len(workers) == (1 if jobs_per_worker_max else record.idle) and record.busy == 0
            there = {Path(at, name) for at, folders, files in os.walk(folder) for name in (*folders, *files)}
            left = there - {folder / number_of(worker.worker_id) for worker in workers}
            return (still and not left) or Pending((record, workers, left))

        await until_async(settled, "the pool is at rest")
        zygote = (await pool_of(server)).zygote_pid
        assert zygote is not None
        workers = await server.workers()
        groups = [path for root in processes.cgroups_of(os.getpid()) for path in root.iterdir() if path.is_dir()]
        grouped = [worker for worker in workers if worker.proof != "descendants"]
        descriptors = len(open_descriptors()) + len(os.listdir(f"/proc/{zygote}/fd")) - descriptors_of(workers)
        return descriptors, len(processes.started_by_tests()) - len(workers), len(groups) - len(grouped)

    folder = Path((await run(server, "touches_tmp")).tokens[0]).parent.parent
    assert folder.name.startswith("killable-"), "the supervisor's"
    await everything()
    before = await held()
    for _ in range(3):
        await everything()

    async def no_more() -> bool | Pending:
        """A thread that has just removed a folder may hold it open for a moment: now, or before."""
        now = await held()
        return all(mine <= then for mine, then in zip(now, before, strict=True)) or Pending((now, before))

    await until_async(no_more, "there is no more than before")


@pytest.mark.row("D14")
async def test_a_jobs_private_directory_goes_with_it(proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(), proof=proof)
    folders = []
    for then in ("return", "die", "loop"):
        job_id = await submit(server, "touches_tmp", then=then)
        if then == "loop":
            await wait_for_tokens(server, job_id)
            story = await stop(server, job_id)
        else:
            story = await follow(server, job_id)
        folders.append(Path(story.tokens[0]))
    assert len(set(folders)) == 3
    await until_async(lambda: not any(folder.exists() for folder in folders), "the directories are removed")
    await server.close()
    assert not folders[0].parent.parent.exists()


# ── closing ──


async def test_a_close_ends_everything_by_its_own_grace(proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=3), proof=proof)
    jobs = {
        "loop_python": await submit(server, "loop_python", limits={"ack_s": None, "grace_s": 60}),
        "stops_itself": await submit(server, "stops_itself", ignore=True, limits={"grace_s": 60}),
        "keeps_family": await submit(server, "keeps_family", limits={"grace_s": 60}),
    }
    for job_id in jobs.values():
        await wait_for_tokens(server, job_id)
    queued = [await submit(server, "echoes") for _ in range(3)]
    closing = asyncio.create_task(server.close(grace_s=4))
    stories = {type: await follow(server, job_id) for type, job_id in jobs.items()}
    await closing
    for story in stories.values():
        assert (story.code, story.error["by"]) == ("cancelled", "shutdown")
    assert stories["loop_python"].tokens == ["in", "finally"] and "kill_sent" in stories["stops_itself"].phases
    assert [(await server.get(job_id)).state for job_id in queued] == ["cancelled"] * 3
    assert processes.started_by_tests() == [] and processes.cgroups_of(os.getpid()) == []
    with pytest.raises(Refused) as refused:
        await submit(server, "echoes")
    assert refused.value.code == "draining"


async def test_a_second_close_hurries_the_first(supervisor: StartSupervisor) -> None:
    server: Supervisor = await supervisor(hostile_pool())
    job_id = await submit(server, "ignores_term", limits={"grace_s": 60})
    await wait_until_computing(server, job_id)
    first = asyncio.create_task(server.close())
    await wait_for_state(server, job_id, "stopping")
    await server.close(grace_s=0)
    await first
    assert (await server.get(job_id)).certificate["exit_signal"] == "SIGKILL"  # type: ignore[index]
