"""New code for the jobs of a server that goes on: who runs on which, and what becomes of jobs of types that change."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from job_runs import follow, run, submit, wait_for_state, wait_for_tokens
from support import processes
from support.engines import new_supervisor
from support.waiting import Pending, until_async

from killable.supervisor.models import JobType
from killable.supervisor.pools.worker import WorkerStage
from killable.supervisor.records import PoolRecord, ReloadRecord, WorkerRecord
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor
from killable.workers.errors import KillableError, Refused

HELD = '''
    @job
    def held(gate: str) -> object:
        """Says which code it is, and again behind the gate."""
        yield CODE
        open(gate, "rb").close()
        return CODE
'''


class Code:
    """A user's file of jobs, and a server of it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "own_jobs.py"
        self.gates = folder
        self.server: Supervisor

    def write(self, code: str, more: str = HELD) -> None:
        head = f"from killable import Context, job, preload\nCODE = {code!r}\n"
        self.file.write_text(head + textwrap.dedent(more))

    def spec(self, name: str = "own", **members: Any) -> PoolSpec:
        return PoolSpec(name, (str(self.file),), **{"workers": 2, "spares": 1, **members})

    async def start(self, *pools: PoolSpec) -> Supervisor:
        self.server = new_supervisor(Settings(pools=pools or (self.spec(),)), engine="local")
        await self.server.start()
        await self.server.until_warm()
        return self.server

    def gate(self, name: str) -> str:
        """Make a gate: whoever reads it waits for `open`."""
        os.mkfifo(self.gates / name)
        return str(self.gates / name)

    async def began(self, gate: str) -> tuple[str, str]:
        """Start a job that waits at the gate; return its id and the code that it has."""
        job_id = await submit(self.server, "held", gate=gate)
        (code,) = await wait_for_tokens(self.server, job_id)
        return job_id, code

    async def ended(self, job_id: str) -> Any:
        """Return the result of a job."""
        record = await self.server.wait(job_id)
        assert record.state == "completed", record
        return json.loads(record.result or b"null")


def open_gate(gate: str) -> None:
    os.close(os.open(gate, os.O_WRONLY))


@pytest_asyncio.fixture
async def code(tmp_path: Path) -> AsyncIterator[Code]:
    code = Code(tmp_path)
    code.write("old")
    yield code
    if hasattr(code, "server"):
        await code.server.close(grace_s=0)


async def workers_of(server: Supervisor, generation: int) -> list[WorkerRecord]:
    return [each for each in await server.workers() if each.generation == generation]


async def test_what_runs_stays_with_its_code_and_what_waits_gets_the_new(code: Code) -> None:
    """And both together have the slots of the pool: the one that waits starts when one that runs has ended."""
    server = await code.start(code.spec(workers=2))
    gates = [code.gate(f"gate-{number}") for number in range(3)]
    first, second = [await code.began(gate) for gate in gates[:2]]
    waiting = await submit(server, "held", gate=gates[2])
    code.write("new")
    record = await server.reload()
    assert (record.state, record.pools, record.files) == ("done", ("own",), (str(code.file),))
    assert not (record.came or record.gone or record.changed or record.jobs_failed)
    assert (await server.get(waiting)).state == "queued"
    (pool,) = await server.pools()
    assert (pool.generation, pool.busy, pool.idle) == (2, 2, 1), "its spare is warm, and both slots are taken"
    old = await workers_of(server, 1)
    assert {each.job_id for each in old if each.job_id} == {first[0], second[0]}
    assert {each.state for each in old} <= {"busy", "leaving", "gone"}, "none of them is idle any more"
    open_gate(gates[0])
    assert await code.ended(first[0]) == "old"
    assert await wait_for_tokens(server, waiting) == ["new"]
    for gate in gates[1:]:
        open_gate(gate)
    assert (await code.ended(second[0]), await code.ended(waiting)) == ("old", "new")
    assert (await run(server, "held", gate="/dev/null")).tokens == ["new"]


async def test_the_old_pool_is_gone_with_its_last_job(code: Code) -> None:
    """Its guard, its zygote and its workers, however often the code was loaded meanwhile."""
    server = await code.start()
    before = {seen.pid for seen in processes.descendants(os.getpid())}
    gate = code.gate("gate")
    job_id, _ = await code.began(gate)
    for number in range(3):
        code.write(f"new-{number}")
        await server.reload()
    open_gate(gate)
    assert await code.ended(job_id) == "old"

    async def one_is_left() -> bool | Pending:
        there = [seen for seen in processes.descendants(os.getpid()) if seen.parent == os.getpid()]
        (worker,) = [*await server.workers()] if len(await server.workers()) == 1 else [None]
        is_one = worker is not None and worker.generation == 4 and len(there) == 1 and there[0].pid not in before
        return is_one or Pending((there, await server.workers()))

    await until_async(one_is_left, "one guard is left, and one worker with the newest code")


async def test_jobs_start_at_once_while_new_code_loads(code: Code) -> None:
    """The new lineage comes first: until it is warm the old one takes every job, and then it has a worker at once."""
    server = await code.start()
    loads = code.gate("loads")
    code.write("new", f"@preload\ndef load():\n    open({loads!r}, 'rb').close()\n" + textwrap.dedent(HELD))
    loading = asyncio.create_task(server.reload())

    async def is_loading() -> bool:
        return (await server.reloaded()).state == "loading" and len(server._fleet._candidates) == 1  # type: ignore[attr-defined]

    await until_async(is_loading, "the new code is loading")
    for _ in range(3):
        assert (await run(server, "held", gate="/dev/null")).tokens == ["old"]
    assert not loading.done()
    open_gate(loads)
    await loading
    workers = await server.workers()
    assert [each.generation for each in workers if each.state == WorkerStage.IDLE.value] == [2]
    assert (await run(server, "held", gate="/dev/null")).tokens == ["new"]


async def test_as_many_are_warm_as_were_before(code: Code) -> None:
    """A pool that uses its workers again has more idle ones than its spares."""
    server = await code.start(code.spec(workers=3, spares=1, jobs_per_worker_max=0))
    gates = [code.gate(f"gate-{number}") for number in range(3)]
    jobs = [await code.began(gate) for gate in gates]
    for gate in gates:
        open_gate(gate)
    for job_id, _ in jobs:
        await code.ended(job_id)

    async def all_idle() -> int | Pending:
        states = [worker.state for worker in await server.workers()]
        return len(states) if set(states) == {"idle"} else Pending(states)

    idle = await until_async(all_idle, "all are idle")
    assert idle > 1, "more than its spares"
    await server.reload()
    (pool,) = await server.pools()
    assert (pool.generation, pool.idle) == (2, idle)


# ── code that does not load ──


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
async def test_code_that_does_not_import_changes_nothing(code: Code, start_method: str) -> None:
    server = await code.start(code.spec(start_method=start_method))
    (before,) = await server.pools()
    code.file.write_text(code.file.read_text() + "x = (\n")
    with pytest.raises(Refused) as refused:
        await server.reload()
    assert refused.value.code == "reload_failed"
    assert refused.value.facts["error"] == f"pool own: SyntaxError: '(' was never closed ({code.file}:10)"
    assert "x = (" in refused.value.facts["traceback"]
    assert await server.pools() == [before]
    able, degraded = await server.ready()
    assert able and degraded == [f"the code from before goes on: {refused.value.facts['error']}"]
    record = await server.reloaded()
    assert (record.state, record.changed_since) == ("failed", (str(code.file),))
    assert (await run(server, "held", gate="/dev/null")).tokens == ["old"]

    code.write("new")
    assert (await server.reload()).state == "done"
    assert await server.ready() == (True, [])
    assert (await server.reloaded()).changed_since == ()
    assert (await run(server, "held", gate="/dev/null")).tokens == ["new"]


async def test_workers_that_do_not_start_change_nothing(code: Code) -> None:
    """The modules import: only a worker shows it."""
    server = await code.start()
    failing = "@preload(each_worker=True)\ndef load():\n    raise RuntimeError('no model')\n"
    code.write("new", failing + textwrap.dedent(HELD))
    with pytest.raises(Refused, match="no model"):
        await server.reload()
    assert (await run(server, "held", gate="/dev/null")).tokens == ["old"]


async def test_all_pools_roll_over_or_none(code: Code, tmp_path: Path) -> None:
    other = tmp_path / "other_jobs.py"
    other.write_text("from killable import job\n@job\ndef other() -> int:\n    return 1\n")
    server = await code.start(code.spec(), PoolSpec("other", (str(other),), workers=1, spares=1))
    code.write("new")
    other.write_text("raise OSError('not yet')\n")
    with pytest.raises(Refused, match="pool other: OSError: not yet"):
        await server.reload()
    assert [pool.generation for pool in await server.pools()] == [1, 1]
    assert (await run(server, "held", gate="/dev/null")).tokens == ["old"]


async def test_a_pool_that_was_broken_holds_no_other_up(code: Code, tmp_path: Path) -> None:
    """And is tried again, as at a start."""
    other = tmp_path / "other_jobs.py"
    other.write_text("raise OSError('not yet')\n")
    server = await code.start(code.spec(), PoolSpec("other", (str(other),), workers=1, spares=1))
    code.write("new")
    await server.reload()
    assert [pool.state for pool in await server.pools()] == ["ready", "broken"]
    other.write_text("from killable import job\n@job\ndef other() -> int:\n    return 1\n")
    assert (await server.reload()).came == ("other",)
    assert [pool.state for pool in await server.pools()] == ["ready", "ready"]
    assert await code.ended(await submit(server, "other")) == 1


async def test_types_that_a_start_would_refuse_are_refused(code: Code) -> None:
    server = await code.start()

    def check(pools: list[PoolRecord], types: list[JobType]) -> None:
        if "held" not in {job_type.name for job_type in types}:
            raise KillableError("jobs.held: there is no such job type")

    server.check_types = check  # type: ignore[assignment]
    code.write("new", "@job\ndef another() -> int:\n    return 1\n")
    with pytest.raises(Refused, match=r"jobs\.held: there is no such job type"):
        await server.reload()
    assert [job_type.name for job_type in await server.job_types()] == ["held"]


# ── types that have changed ──


async def test_what_waits_for_a_type_that_is_gone_fails(code: Code) -> None:
    """What runs of it goes on."""
    server = await code.start(code.spec(workers=1))
    gate = code.gate("gate")
    running, _ = await code.began(gate)
    waiting = await submit(server, "held", gate=gate)
    code.write("new", "@job\ndef another() -> str:\n    return CODE\n")
    record = await server.reload()
    assert (record.came, record.gone, record.jobs_failed) == (("another",), ("held",), 1)
    story = await follow(server, waiting)
    assert (story.state, story.code) == ("failed", "spawn")
    assert story.error["message"] == ("there is no job type held any more: the code was loaded anew, and is without it")
    with pytest.raises(Refused) as refused:
        await submit(server, "held", gate=gate)
    assert refused.value.code == "unknown_job_type"
    open_gate(gate)
    assert await code.ended(running) == "old"
    assert await code.ended(await submit(server, "another")) == "new"


async def test_what_waits_keeps_its_input_when_the_schema_changes(code: Code) -> None:
    """It fits the new function, or fails as any other call of it that does not."""
    server = await code.start(code.spec(workers=1))
    gate = code.gate("gate")
    running, _ = await code.began(gate)
    fits, does_not = [await submit(server, "held", gate="/dev/null") for _ in range(2)]
    code.write(
        "new",
        "@job\ndef held(gate: str, number: int = 7) -> int:\n    return number\n"
        "@job\ndef strict(must: int) -> int:\n    return must\n",
    )
    record = await server.reload()
    assert (record.changed, record.came) == (("held",), ("strict",))
    (schema,) = [each.input_schema for each in await server.job_types() if each.name == "held"]
    assert "number" in schema["properties"]
    await server.cancel(does_not, grace_s=0)
    open_gate(gate)
    assert (await code.ended(running), await code.ended(fits)) == ("old", 7)

    gate = code.gate("second")
    code.write("third")
    await server.reload()
    running, _ = await code.began(gate)
    does_not = await submit(server, "held", gate="/dev/null")
    code.write("fourth", "@job\ndef held(path: str) -> str:\n    return path\n")
    await server.reload()
    open_gate(gate)
    assert await code.ended(running) == "third"
    story = await follow(server, does_not)
    assert story.state == "failed" and "gate" in story.error["message"]


async def test_a_type_may_move_to_another_pool(code: Code, tmp_path: Path) -> None:
    """What waits for it waits there; a name is never in both."""
    other = tmp_path / "other_jobs.py"
    other.write_text("from killable import job\n@job\ndef other() -> int:\n    return 1\n")
    server = await code.start(code.spec(workers=1), PoolSpec("other", (str(other),), workers=1, spares=1))
    gate = code.gate("gate")
    running, _ = await code.began(gate)
    waiting = await submit(server, "held", gate="/dev/null")
    other.write_text("from killable import job\nCODE = 'moved'\n" + textwrap.dedent(HELD))
    with pytest.raises(Refused, match="two pools have a job type 'held': own and other"):
        await server.reload()
    code.write("new", "@job\ndef another() -> str:\n    return CODE\n")
    record = await server.reload()
    assert (record.came, record.gone, record.changed) == (("another",), ("other",), ("held",))
    assert await code.ended(waiting) == "moved", "the slot there is free"
    open_gate(gate)
    assert await code.ended(running) == "old"


# ── what happens meanwhile ──


async def test_a_second_reload_replaces_one_that_still_loads(code: Code) -> None:
    """A preload that hangs is no obstacle, and who waits for the first hears of the second."""
    server = await code.start()
    code.write("hangs", f"@preload\ndef load():\n    open({code.gate('never')!r}, 'rb')\n" + textwrap.dedent(HELD))
    first = asyncio.create_task(server.reload())

    async def zygote_is_there() -> bool:
        return any(each.pool.record().zygote_pid for each in server._fleet._candidates)  # type: ignore[attr-defined]

    await until_async(zygote_is_there, "the first is loading")
    assert (await server.reloaded(wait_s=0.01)).state == "loading"
    code.write("new")
    assert (await server.reload()).state == (await first).state == "done"
    assert [pool.generation for pool in await server.pools()] == [2]
    assert (await run(server, "held", gate="/dev/null")).tokens == ["new"]


async def test_a_server_that_ends_meanwhile_leaves_nothing(code: Code) -> None:
    server = await code.start()
    code.write("hangs", f"@preload\ndef load():\n    open({code.gate('never')!r}, 'rb')\n")
    assert (await server.reload(wait_s=0.05)).state == "loading"
    await server.close(grace_s=0)
    assert not [seen for seen in processes.descendants(os.getpid()) if seen.parent == os.getpid()]
    with pytest.raises(Refused) as refused:
        await server.reload()
    assert refused.value.code == "draining"


@pytest.mark.parametrize("which", ["zygote", "guard"])
async def test_the_end_of_the_old_lineage_is_not_that_of_the_new(code: Code, which: str) -> None:
    """Its job is lost with it; the new one serves on."""
    server = await code.start()
    (old,) = await server.pools()
    assert old.zygote_pid is not None
    zygote = processes.read_process(old.zygote_pid)
    assert zygote is not None
    gate = code.gate("gate")
    job_id, _ = await code.began(gate)
    code.write("new")
    await server.reload()
    os.kill(zygote.pid if which == "zygote" else zygote.parent, signal.SIGKILL)
    record = await server.wait(job_id)
    assert record.error is not None and record.error["code"] == "worker_lost"
    (new,) = await server.pools()
    assert (new.state, new.zygote_restarts, new.generation) == ("ready", 0, 2)
    assert (await run(server, "held", gate="/dev/null")).tokens == ["new"]

    async def old_is_gone() -> bool | Pending:
        return not await workers_of(server, 1) or Pending(await server.workers())

    await until_async(old_is_gone, "nothing of the old lineage is left")


async def test_a_job_of_the_old_code_is_killed_as_any_other(code: Code) -> None:
    """Its slot is ready when the new pool has a worker for it."""
    server = await code.start()
    job_id, _ = await code.began(code.gate("never"))
    code.write("new")
    await server.reload()
    record = await server.cancel(job_id, grace_s=0)
    assert record.state == "cancelled" and record.certificate is not None and record.certificate["tree_empty"] >= 0

    async def slot_is_ready() -> bool | Pending:
        certificate = (await server.get(job_id)).certificate or {}
        return "slot_ready" in certificate or Pending(certificate)

    await until_async(slot_is_ready, "the slot is ready")


async def test_a_retry_after_a_reload_runs_the_new_code(code: Code) -> None:
    crashing = """
        import os, signal

        @job(attempts_max=3, backoff_s=0.05)
        def crashes(gate: str) -> str:
            if CODE == "new":
                return CODE
            open(gate, "rb").close()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    code.write("old", crashing)
    server = await code.start()
    gate = code.gate("gate")
    job_id = await submit(server, "crashes", gate=gate)
    await wait_for_state(server, job_id, "running")
    code.write("new", crashing)
    await server.reload()
    open_gate(gate)
    assert await code.ended(job_id) == "new"
    assert (await server.get(job_id)).attempts == 2


async def test_an_edit_in_the_same_second_of_the_same_size_is_loaded(code: Code) -> None:
    """What was compiled from the file is taken for current by size and second of the source."""
    server = await code.start()
    for text in ("abc", "def"):
        before = code.file.stat()
        code.write(text)
        os.utime(code.file, ns=(before.st_atime_ns, before.st_mtime_ns // 10**9 * 10**9 + 5))
        if text == "def":
            os.utime(code.file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        await server.reload()
        assert (await run(server, "held", gate="/dev/null")).tokens == [text]


async def test_the_files_of_the_jobs_are_those_of_the_user(code: Code, tmp_path: Path) -> None:
    (tmp_path / "own_helper.py").write_text("number = 1\n")
    code.write("old", "import own_helper, json, pydantic\n" + textwrap.dedent(HELD))
    server = await code.start()
    assert sorted(Path(file.path).name for file in server.source_files()) == ["own_helper.py", "own_jobs.py"]
    assert await server.changed_files() == []
    (tmp_path / "own_helper.py").write_text("number = 10\n")
    assert await server.changed_files() == [str(tmp_path / "own_helper.py")]
    (tmp_path / "own_helper.py").unlink()
    assert await server.changed_files() == [str(tmp_path / "own_helper.py")]


async def test_over_a_head_it_is_refused(code: Code) -> None:
    """Nodes load the code when they start."""
    code.server = new_supervisor(Settings(pools=(code.spec(),)), engine="cluster")
    await code.server.start()
    with pytest.raises(Refused, match="restart the server, which restarts them") as refused:
        await code.server.reload()
    assert refused.value.code == "reload_failed"
    assert await code.server.reloaded() == ReloadRecord("none")
    await wait_for_state(code.server, await submit(code.server, "held", gate="/dev/null"), "completed")
