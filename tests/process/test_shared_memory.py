"""What a job leaves in memory is gone when its certificate says that its tree is empty, and nothing else is."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import pytest
from job_runs import FORKED_OR_EXECED, HOSTILE_POOL, follow, hostile_pool, pool_of, run, stop, submit, wait_for_tokens
from owner_process import CLEANUP_S, other_processes, owner
from support.memory_jobs import make_system_v_segment
from support.supervisor_fixture import StartSupervisor
from support.waiting import until_empty

from killable.supervisor.linux.worker_cleanup import LOOK_BYTES, WorkerCleanup
from killable.supervisor.settings import PoolSpec
from killable.workers.runtime.leftover_memory import remove_segments

SHARED = Path("/dev/shm")
KINDS = 3
"""Of names that a job leaves; and of those it leaves System V segments of two processes."""


def memory_pool(**changes: Any) -> PoolSpec:
    return hostile_pool(modules=("support.memory_jobs",), **changes)


def segments(*creators: int) -> set[int]:
    """Return the ids of all System V segments, or of those that these processes have made."""
    rows = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
    return {int(row[1]) for row in rows if not creators or int(row[4]) in creators}


def mapped(pid: int) -> set[str]:
    """Return the names in /dev/shm that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.partition(f" {SHARED}/")[2] for line in lines} - {""}


@pytest.fixture
def foreign() -> Iterator[str]:
    """A segment of this program, to which jobs only attach."""
    segment = SharedMemory(create=True, size=1000)
    yield segment.name
    assert (SHARED / segment.name).exists(), "it was another's, and was removed"
    segment.close()
    segment.unlink()


@pytest.mark.row("D5")
@FORKED_OR_EXECED
async def test_what_a_job_leaves_in_memory_is_gone_with_it(
    start_method: str, proof: str, foreign: str, supervisor: StartSupervisor
) -> None:
    server = await supervisor(memory_pool(start_method=start_method), proof=proof)
    for end, code in (("returns", ""), ("raises", "exception"), ("crashes", "crash"), ("waits", "cancelled")):
        for children in ("fork", "spawn") if end == "waits" else ("fork",):
            job_id = await submit(server, "leaves_memory", end=end, attach=foreign, start_method=children)
            ((names, ids),) = await wait_for_tokens(server, job_id)
            story = await stop(server, job_id, grace_s=0) if end == "waits" else await follow(server, job_id)
            assert story.code.startswith(code) and len(names) == KINDS and len(ids) == 2
            assert [name for name in names if (SHARED / name).exists()] == []
            assert segments().isdisjoint(ids)
            assert story.certificate["shared_memory_removed"] == len(names) + len(ids)


async def test_a_worker_is_used_again_after_a_job_that_has_tidied_up(
    proof: str, foreign: str, supervisor: StartSupervisor
) -> None:
    """No tracker process stays below it, either. After one that has not, it leaves, and what it left is counted."""
    server = await supervisor(memory_pool(workers=1, spares=0, jobs_per_worker_max=0), proof=proof)
    pids = {(await run(server, "tidies_up")).end["result"] for _ in range(3)}
    assert len(pids) == 1
    story = await run(server, "leaves_memory", end="returns", attach=foreign)
    assert {story.pid} == pids and story.certificate["shared_memory_removed"] == KINDS + 2
    assert (await run(server, "tidies_up")).end["result"] not in pids


async def test_a_kill_at_any_moment_leaves_no_segment(supervisor: StartSupervisor) -> None:
    """Between the making of a name and the note of it, too."""
    server = await supervisor(memory_pool(workers=1, spares=2))
    prefix = f"killable-test-{os.getpid()}"
    removed = 0
    for number in range(25):
        job_id = await submit(server, "churns", prefix=f"{prefix}-{number}")
        await wait_for_tokens(server, job_id)
        removed += (await stop(server, job_id, grace_s=0)).certificate["shared_memory_removed"]
        assert [name for name in os.listdir(SHARED) if name.startswith(prefix)] == []
    assert removed > 0, "the control: some were killed between the two"


NONSENSE = {
    "a name with a zero byte": "OPEN:/a\0b\n",
    "a name that is too long": f"OPEN:/{'x' * 300}\n",
    "a name of another folder": "OPEN:/../etc/passwd\nOPEN:/\nOPEN:\nOPEN:/.\nOPEN:/..\n",
    "no UTF-8": "OPEN:/\xff\xfe\nREGISTER:/\xed\xa0\x80:shared_memory\n",
    "deep JSON": '{"a":' + "[" * 1000 + "\n",
    "a long line": '{"a":' + "[" * 1_000_000 + "\n",
    "no value": 'MADE\nMADE:::\nHELD\nSINCE:x\n{"cmd":1}\n{"cmd":[],"base64_name":"\\ud800","rtype":{}}\n',
}


async def test_whatever_stands_in_the_log_of_names_the_job_ends_and_what_it_left_goes(
    supervisor: StartSupervisor,
) -> None:
    """Its worker was set aside for good after the first of these lines."""
    server = await supervisor(memory_pool(workers=1, spares=0))
    for what, text in NONSENSE.items():
        story = await run(server, "writes_into_the_log", text=text, leaves=True)
        assert story.state == "completed", what
        assert not (SHARED / story.end["result"]).exists(), what
        assert story.certificate["shared_memory_removed"] == 1, what
    assert {worker.state for worker in await server.workers()} <= {"starting", "idle"}


@pytest.fixture
def many_segments() -> Iterator[set[int]]:
    """More System V segments of this program than are looked at in the supervisor's loop."""
    made = {make_system_v_segment() for _ in range(LOOK_BYTES // 100)}
    yield made
    assert remove_segments(made) == len(made), "they were another's, and were removed"


async def test_on_a_machine_with_many_segments_those_of_the_job_are_found(
    many_segments: set[int], foreign: str, supervisor: StartSupervisor
) -> None:
    server = await supervisor(memory_pool(workers=1, spares=0))
    story = await run(server, "leaves_memory", end="returns", attach=foreign)
    assert story.certificate["shared_memory_removed"] == KINDS + 2


async def test_a_long_list_of_segments_is_not_read_in_the_loop(many_segments: set[int], tmp_path: Path) -> None:
    since = time.time()
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(sending, b"%d" % make_system_v_segment())
        os._exit(0)
    left = int(os.read(receiving, 100))
    os.waitpid(pid, 0)
    loop = asyncio.get_running_loop()
    for creators, number in (([], 0), ([pid], 1)):
        removed: asyncio.Future[int] = loop.create_future()
        WorkerCleanup((str(tmp_path), ""), since, is_program=False).remove(loop, creators, removed.set_result)
        assert not removed.done(), "it was looked for in the loop"
        assert await removed == number
    assert left not in segments() and many_segments <= segments()
    os.close(receiving)
    os.close(sending)


async def test_memory_of_a_lost_zygote_is_removed(supervisor: StartSupervisor, foreign: str) -> None:
    server = await supervisor(memory_pool())
    job_id = await submit(server, "leaves_memory", end="waits", attach=foreign)
    ((names, ids),) = await wait_for_tokens(server, job_id)
    pool = await pool_of(server)
    assert pool.zygote_pid is not None
    os.kill(pool.zygote_pid, signal.SIGKILL)
    story = await follow(server, job_id)
    assert story.state == "failed" and segments().isdisjoint(ids)
    assert [name for name in names if (SHARED / name).exists()] == []


def test_memory_of_a_dead_owner_is_removed(proof: str, foreign: str) -> None:
    """By its guard, which no job and no thread of the owner can stop."""
    job = ["leaves_memory", {"end": "waits", "attach": foreign}, 1]
    pools = {"memory": {**HOSTILE_POOL, "modules": ["support.memory_jobs"]}}
    with owner(pools, jobs=[job], settings={"proof": proof}) as host:
        host.read_report()
        pids = [process.pid for process in other_processes(host.pid)]
        names = set().union(*map(mapped, pids)) - {foreign}
        left = segments(*pids)
        assert len(names) >= KINDS and len(left) == 2
        host.kill()
        until_empty(lambda: other_processes(host.pid), "everything is gone", CLEANUP_S)
        assert [name for name in names if (SHARED / name).exists()] == []
        assert segments().isdisjoint(left)
