"""The phases of a supervisor in which one of its calls fails, and the checks that follow.

Runs in: the test process. Guard, zygote and workers are real, and nothing fails in them.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fault_injection import Injector
from support import processes
from support.waiting import Pending, until_async

from killable.api.http.app_settings import HttpSettings
from killable.api.http.check_pool import CheckPool
from killable.supervisor import event_loops
from killable.supervisor.attempts import escalation
from killable.supervisor.attempts.escalation import Rules
from killable.supervisor.models import PHASES, TERMINAL_STATES, JobEvent, Submission
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, NO_CAPS, over
from killable.workers.error_codes import CODES
from killable.workers.errors import Refused
from killable.workers.protocol.message_bounds import INLINE_BYTES_MAX

END_S = 60.0
BLAMELESS = {"spawn", "worker_lost", "killed_externally", "unkillable"}
"""How a job may fail that did nothing wrong."""
POOL = PoolSpec(name="faults", modules=("phase_jobs",), folder=str(Path(__file__).parent), workers=2, spares=1)
LIMITS = over(DEFAULT_LIMITS, {"queue_s": 20.0, "start_s": 20.0, "run_s": None, "grace_s": 0.3, "ack_s": 0.02})
SETTINGS = {
    "pools": (POOL,),
    "limits": LIMITS,
    "caps": NO_CAPS,
    "ack_cpu_s": 0.01,
    "unkillable_s": 1.5,
    "keep_jobs": 10_000,
}


def belongings() -> set[str]:
    """Return what this process has open, has started and has made."""
    found = {f"descriptor {number} {to}" for number, to in processes.open_descriptors().items()}
    found |= {f"process {seen.pid} {seen.name} of {seen.started}" for seen in processes.started_by_tests()}
    found |= {f"group {path}" for path in processes.cgroups_of(os.getpid())}
    found |= {f"thread {thread.name}" for thread in threading.enumerate()}
    found |= {f"folder {name}" for name in os.listdir(tempfile.gettempdir()) if name.startswith("killable-")}
    return found


class SupervisorRun:
    """One supervisor."""

    def __init__(self, proof: str) -> None:
        self.supervisor = Supervisor(Settings(**SETTINGS, proof=proof))  # type: ignore[arg-type]
        self.unhandled: list[dict[str, Any]] = []
        self.ends: list[str] = []
        """How the jobs ended: `completed`, or a code."""
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.unhandled.append(context))

    def check_no_unhandled(self) -> None:
        """No exception has gone where nobody hears it: every one was mapped to something that is told."""
        unhandled, self.unhandled = self.unhandled, []
        assert not unhandled, unhandled

    async def submit(self, kind: str, limits: dict[str, Any] | None = None, **input: Any) -> str:
        record = await self.supervisor.submit(Submission(kind, json.dumps(input).encode(), limits=limits or {}))
        return record.job_id

    async def follow(self, job_id: str) -> dict[str, Any]:
        """Read a job to its end, check what holds for every ending, and return its terminal event."""
        events: list[JobEvent] = []
        async with asyncio.timeout(END_S):
            async for batch in self.supervisor.events(job_id):
                events += batch
        names = [event.name for event in events]
        assert [name for name in names if name in TERMINAL_STATES] == names[-1:], names
        assert [event.id for event in events] == list(range(len(events)))
        end: dict[str, Any] = json.loads(events[-1].data)
        code = end["error"]["code"] if end["error"] else ""
        assert end["state"] == (CODES[code].state if code else "completed")
        phases = [end["certificate"][phase] for phase in ("requested", *PHASES) if phase in end["certificate"]]
        assert phases == sorted(phases), end["certificate"]
        tokens = [json.loads(event.data)["text"] for event in events if event.name == "token"]
        assert tokens == [f" {number}" for number in range(len(tokens))], "the output is a prefix"
        self.ends.append(code or "completed")
        return end | {"code": code, "tokens": tokens}

    async def entered(self, job_id: str) -> None:
        """Wait until a job is in its function, or has ended."""
        async with asyncio.timeout(END_S):
            async for _ in self.supervisor.events(job_id):
                return

    async def works(self) -> None:
        """A next job runs, or it is said why none does. It is not given up where only its zygote stands still."""
        with patch.object(escalation, "Rules", lambda **given: Rules(**given | {"unkillable_s": END_S / 2})):
            try:
                job_id = await self.submit("echo", text="next")
            except Refused as refused:
                (record,) = await self.supervisor.pools()
                assert refused.code == "unknown_job_type" and record.state == "broken" and record.detail, refused
                self.ends.append(f"refused: {record.detail}")
                return
            end = await self.follow(job_id)
        assert end["code"] in ("", "spawn") and (not end["code"] or end["error"]["message"]), end

    async def rest(self) -> Counter[str]:
        """Wait until all workers are spares; return what there is then."""

        async def rests() -> bool | Pending:
            workers = await self.supervisor.workers()
            return [worker.state for worker in workers] == ["idle"] * POOL.spares or Pending(workers)

        await until_async(rests, "only spares are there")
        await threads_rest()
        return holdings()

    async def settled(self, before: Counter[str]) -> None:
        """Wait until there is as much of everything as there was: other workers, and as many."""

        def same() -> bool | Pending:
            now = holdings()
            return now == before or Pending((now - before, before - now))

        await self.rest()
        await until_async(same, "everything is as it was")


async def threads_rest() -> None:
    """Wait until no thread works for the supervisor: a worker is gone before its cgroup is removed, whose two
    descriptors one of them closes, and before its folder is cleared.
    """
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    event_loops.in_order(loop, lambda: event_loops.tell(loop, done.set))  # behind all else that has been given to it
    async with asyncio.timeout(END_S):
        await done.wait()
    threads = event_loops._threads_of(loop).threads
    await until_async(lambda: len(threads) <= 1 or Pending(threads), "only the thread that waits for work is there")


def holdings() -> Counter[str]:
    """How much there is of each kind; threads come and stay."""
    kinds = Counter(thing.split()[0] for thing in belongings())
    del kinds["thread"]
    return kinds


# ── the phases ──


async def dispatch(life: SupervisorRun) -> None:
    """A small job, one whose input is sealed, and one that waits for a slot and then for room in its socket."""
    jobs = [
        await life.submit("echo", text="small"),
        await life.submit("echo", text="x" * (INLINE_BYTES_MAX + 1)),
        await life.submit("echo", text="x" * (INLINE_BYTES_MAX - 1000)),
    ]
    for job_id in jobs:
        end = await life.follow(job_id)
        assert end["code"] in BLAMELESS | {""}, end


async def stream(life: SupervisorRun) -> None:
    """Tokens in many reads, and lines of output."""
    counting = await life.submit("count", n=5000)
    talking = await life.submit("talks", lines=["a", "b"])
    end = await life.follow(counting)
    assert end["code"] in BLAMELESS | {""}, end
    assert end["code"] or len(end["tokens"]) == 5000
    async with asyncio.timeout(END_S):
        record = await life.supervisor.wait(talking)
    assert record.ended and (record.error is None or record.error["code"] in BLAMELESS), record


async def cancel(life: SupervisorRun) -> None:
    """One that hears it, one that is inside native code and is killed, and one by its deadline."""
    asked = await life.submit("waits", {"grace_s": 1.0, "ack_s": None})
    await life.entered(asked)
    stuck = await life.submit("sleep_native")
    await life.entered(stuck)
    for job_id in (asked, stuck):
        try:
            await life.supervisor.cancel(job_id, wait_s=0)
        except Refused as refused:
            assert refused.code == "already_ended", refused
    for job_id in (asked, stuck):
        end = await life.follow(job_id)
        assert end["code"] in BLAMELESS | {"cancelled"}, end
    end = await life.follow(await life.submit("waits", {"run_s": 0.01}))
    assert end["code"] in BLAMELESS | {"timeout.run"}, end


async def look(life: SupervisorRun) -> None:
    """What an operator asks for."""
    assert await life.supervisor.workers()
    await life.supervisor.scraping.exposition(openmetrics=False)
    for worker in await life.supervisor.workers():
        await life.supervisor.kill_worker(worker.worker_id)
    await life.rest()  # with the next one, which else would come now in this phase and now behind it


async def memory(life: SupervisorRun) -> None:
    """A job that leaves shared memory is killed. What could not be removed then is removed at the end (`settled`)."""
    job_id = await life.submit("leaves_memory", {"grace_s": 0.0})
    await life.entered(job_id)
    with suppress(Refused):
        await life.supervisor.cancel(job_id, wait_s=0)
    async with asyncio.timeout(END_S):
        record = await life.supervisor.wait(job_id)
    assert record.error is not None and record.error["code"] in BLAMELESS | {"cancelled"}, record


async def checks(_: SupervisorRun) -> None:
    """Inputs of clients, in processes that start now: one that fits, one that does not, one whose check is ended. Each
    is answered, if only with the word that it cannot be checked now.
    """
    pool = CheckPool(HttpSettings(input_check_s=END_S / 2))

    async def check(schema: dict[str, Any], value: bytes) -> Any:
        try:
            async with asyncio.timeout(END_S):
                return await pool.check({"type": "object", "properties": {"a": schema}}, value, (), "default")
        except Refused as refused:
            return refused.code

    try:
        fits = await check({"type": "integer"}, b'{"a":1}')
        assert fits in ([], "busy"), fits
        wrong = await check({"type": "integer"}, b'{"a":"b"}')
        assert wrong == "busy" or len(wrong) == 1, wrong
        pool._run_s = 0.05  # from here on: however late a process is, those before had their time
        ended = await check({"pattern": "^(?=(x+x+)+y)"}, b'{"a":"%b"}' % (b"x" * 60))  # what only `re` has
        assert ended in ("input.invalid", "busy"), ended
    finally:
        async with asyncio.timeout(END_S):
            await pool.close()


MIDDLE: dict[str, Callable[[SupervisorRun], Awaitable[None]]] = {
    "dispatch": dispatch,
    "stream": stream,
    "cancel": cancel,
    "look": look,
    "memory": memory,
    "checks": checks,
}


async def start(life: SupervisorRun) -> None:
    """From nothing to a warm worker. A supervisor that cannot start says so."""
    try:
        async with asyncio.timeout(END_S):
            await life.supervisor.start()
            await life.supervisor.until_warm()
    except TimeoutError:
        raise
    except OSError as error:
        life.ends.append(f"not started: {error}")


async def shutdown(life: SupervisorRun, begin: Callable[[], None]) -> None:
    """With jobs that run: one hears it and one does not."""
    jobs = [await life.submit("waits"), await life.submit("sleep_native")]
    for job_id in jobs:
        await life.entered(job_id)
    begin()
    async with asyncio.timeout(END_S):
        await life.supervisor.close()
    for job_id in jobs:
        end = await life.follow(job_id)
        assert end["code"] in BLAMELESS | {"cancelled"}, end


@asynccontextmanager
async def running_supervisor(proof: str) -> AsyncIterator[SupervisorRun]:
    """A supervisor that has started and is warm."""
    life = SupervisorRun(proof)
    await life.supervisor.start()
    try:
        await life.supervisor.until_warm()
        yield life
    finally:
        async with asyncio.timeout(END_S):
            await life.supervisor.close(grace_s=0)
        life.check_no_unhandled()


async def begin_and_end(proof: str, injector: Injector, phase: str, aim: Callable[[], None]) -> SupervisorRun:
    """Start a supervisor, run a job, close it with jobs that run; `aim` is called when that phase begins."""

    def begin() -> None:
        injector.begin(phase)
        aim()

    life = SupervisorRun(proof)
    if phase == "start":
        begin()
    await start(life)
    if phase == "start":
        injector.end()
    if not life.ends:
        await life.works()
    if phase == "shutdown":
        await shutdown(life, begin)
        injector.end()
    async with asyncio.timeout(END_S):
        await life.supervisor.close(grace_s=0)
    life.check_no_unhandled()
    return life


async def go_through(life: SupervisorRun, injector: Injector, phase: str, aim: Callable[[], None]) -> None:
    """Let a living supervisor go through a phase, and on."""
    before = await life.rest()
    injector.begin(phase)
    aim()
    try:
        await MIDDLE[phase](life)
    finally:
        injector.end()
    await life.works()
    await life.settled(before)
    life.check_no_unhandled()
