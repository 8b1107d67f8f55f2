"""Workers that take more than one job, and pools that speak pickle."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from job_runs import hostile_pool, run
from support import processes
from support.certificate_checks import ended_with, was_late_to_leave
from support.supervisor_fixture import CGROUP_PROOF, NEEDS_CGROUPS, StartSupervisor
from support.waiting import until_async

from killable.supervisor.models import Submission
from killable.supervisor.records import JobRecord
from killable.workers.protocol import pickling
from killable.workers.protocol.pickling import pickled

WHY = {
    "cwd": "working directory", "umask": "umask", "mask": "signal mask", "handler": "disposition",
    "handler of another signal": "disposition",
    "wakeup": "wakeup descriptor", "timer": "timer", "thread": "1 thread(s) more", "child": "child processes",
    "daemon": "child processes",
}  # fmt: skip
"""What a job may leave, and what is said of it."""


async def test_a_worker_is_used_again_only_as_it_was(proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=1, spares=0, jobs_per_worker_max=0), proof=proof)
    pid = (await run(server, "changes_process", what="nothing")).end["result"]
    for what in (
        "nothing",
        "handler put back",
    ):  # the handlers that are found are compared again after each that is set
        assert (await run(server, "changes_process", what=what)).end["result"] == pid
    for what in WHY:
        story = await run(server, "changes_process", what=what)
        assert story.state == "completed" and story.end["result"] == pid, what
        assert story.phases - was_late_to_leave(story.certificate) == {"exited", "reaped", "tree_empty"}
        assert ended_with(story.certificate, 0)
        assert story.certificate["processes_swept"] == (what in ("child", "daemon"))
        retired = (await server.retired())[0]
        assert (retired.worker_id, retired.job_id) == (story.record.worker_id, story.record.job_id)
        assert retired.pool == "hostile" and WHY[what] in retired.why
        fresh = (await run(server, "changes_process", what="nothing")).end["result"]
        assert fresh != pid, what
        pid = fresh
    assert len(await server.retired()) == len(WHY)


@NEEDS_CGROUPS
async def test_a_worker_that_has_made_a_child_of_its_parent_is_not_used_again(supervisor: StartSupervisor) -> None:
    """It has no child, but its cgroup has another process (CLONE_PARENT, clone(2))."""
    server = await supervisor(hostile_pool(workers=1, spares=0, jobs_per_worker_max=0), proof=CGROUP_PROOF)
    story = await run(server, "changes_process", what="child of its parent")
    assert story.state == "completed" and story.certificate["processes_swept"] == 1
    assert story.phases - was_late_to_leave(story.certificate) == {"exited", "reaped", "tree_empty"}
    assert story.alive == []


async def test_a_worker_takes_no_more_jobs_than_its_share(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=1, spares=0, jobs_per_worker_max=3))
    pids = [(await run(server, "echoes")).pid for _ in range(9)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]


async def test_a_kept_worker_is_proven_free_of_the_job(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=1, spares=0, jobs_per_worker_max=0))
    story = await run(server, "echoes")
    assert story.phases == {"tree_empty"} and story.certificate["proof"] == "descendants"
    assert [seen.pid for seen in story.alive] == [story.pid]
    assert [seen.pid for seen in processes.descendants(story.pid)] == []


async def test_a_kept_worker_keeps_no_temporary_directory(supervisor: StartSupervisor, long_exit_waits: None) -> None:
    server = await supervisor(hostile_pool(workers=1, spares=0, jobs_per_worker_max=0))
    first, second = [await run(server, "touches_tmp") for _ in range(2)]
    assert first.pid == second.pid
    made = [Path(story.end["result"]) for story in (first, second)]
    assert made[0] != made[1] and made[0].parent == made[1].parent
    assert not any(path.exists() for path in made)


@pytest.mark.row("D19")
async def test_what_is_removed_after_a_job_takes_none_of_its_time(supervisor: StartSupervisor) -> None:
    """Its last word comes before; a worker that is not done in time is ended, and the rest removed from outside."""
    server = await supervisor(hostile_pool(workers=1, spares=0, jobs_per_worker_max=0))
    story = await run(server, "leaves_what_takes_for_ever", limits={"run_s": 0.5})
    assert story.state == "completed", story.error
    path = Path(story.end["result"])
    await until_async(lambda: not path.exists(), "it is removed")


async def test_a_memory_limit_does_not_outlive_its_job(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=1, spares=0, jobs_per_worker_max=0))
    first = await run(server, "echoes", limits={"memory_bytes": 32 << 20})
    second = await run(server, "emits_large", size=48 << 20, times=1)
    assert (second.state, second.pid) == ("completed", first.pid)
    third = await run(server, "allocates", limits={"memory_bytes": 32 << 20})
    assert (third.code, third.pid) == ("limit.memory", first.pid)


async def test_a_pool_that_speaks_pickle(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(codec="pickle"))

    async def ask(type: str, **input: Any) -> tuple[JobRecord, list[Any]]:
        record = await server.submit(Submission(type, pickled(input).to_bytes()))
        record = await server.wait(record.job_id, 20)
        batches = [batch async for batch in server.events(record.job_id)]
        return record, [pickle.loads(event.data) for batch in batches for event in batch if event.name == "token"]

    record, _ = await ask("echoes", text="a line\nand another\r")
    assert record.result is not None and pickling.loads(record.result)["text"] == "a line\nand another\r"
    for size in (1, 10, 13, 100_000):  # 10 and 13: a pickle that has a line end in it
        record, tokens = await ask("emits_large", size=size, times=3)
        assert (record.state, tokens) == ("completed", ["x" * size] * 3), size
    record, _ = await ask("nests_deeply", depth=3)
    assert record.state == "completed"
    record, _ = await ask("emits_unpicklable")
    assert record.error is not None and record.error["code"] == "result.unserializable"
    record, _ = await ask("raises_unpicklable")
    assert record.error is not None and record.error["code"] == "exception"
    assert json.loads([batch async for batch in server.events(record.job_id)][-1][-1].data)["state"] == "failed"


@pytest.mark.row("A26")
async def test_a_correlation_id_reaches_the_job_and_its_children_and_never_the_next_job(
    supervisor: StartSupervisor,
) -> None:
    server = await supervisor(hostile_pool(workers=1, spares=0, jobs_per_worker_max=0))
    results = []
    for correlation_id in ("order-17/a", ""):
        record = await server.submit(Submission("names_correlation", b"{}", correlation_id=correlation_id))
        assert record.correlation_id == correlation_id
        ended = await server.wait(record.job_id)
        assert ended.correlation_id == correlation_id and ended.result is not None
        events = [event async for batch in server.events(record.job_id) for event in batch]
        assert json.loads(events[0].data)["correlation_id"] == correlation_id
        results.append(json.loads(ended.result))
    first, second = results
    assert (first["context"], first["child"]) == ("order-17/a", "order-17/a")
    assert (second["context"], second["child"]) == ("", "") and second["pid"] == first["pid"]
