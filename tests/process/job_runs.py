"""Runs hostile jobs through a real supervisor. Reads what a client reads, and what /proc shows at that moment."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from support import certificate_checks, processes
from support.engines import pool_with_workers
from support.job_helpers import process_name_of
from support.supervisor_fixture import PROOFS
from support.waiting import Pending, until_async

from killable.supervisor.linux.spawner import PoolSpawner
from killable.supervisor.linux.supervisor_resources import SupervisorResources
from killable.supervisor.models import PHASES, TERMINAL_STATES, JobEvent, Submission
from killable.supervisor.ports import Gone
from killable.supervisor.records import JobRecord, PoolRecord
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor
from killable.workers.error_codes import CODES
from killable.workers.protocol.frames import Frame
from killable.workers.protocol.zygote_messages import SourceFile

HOSTILE_POOL = {
    "modules": (
        "support.hostile_jobs",
        "support.forking_jobs",
        "support.output_jobs",
        "support.cooperative_jobs",
        "support.interfering_jobs",
    ),
    "folder": str(Path(processes.__file__).parent.parent),
}
NAMED_POINTS = (
    "before_ready", "forked_and_not_told", "run_is_sent", "entered", "in_mid_stream", "stop_is_sent", "in_the_grace",
    "closed_and_not_read", "in_the_sweep",
)  # fmt: skip
"""Of a job's life: at each its worker is killed, its zygote, its guard, and the owner of all."""
FORKED_OR_EXECED = pytest.mark.parametrize(
    ("start_method", "proof"),
    [*(("fork", proof) for proof in PROOFS), ("spawn", "descendants")],
)
"""All four kinds are in the table of hostile jobs; elsewhere an exec'd worker, which takes the longest, is had once."""
END_S = 100.0
"""No job of these tests takes so long to end."""


def hostile_pool(name: str = "hostile", **changes: Any) -> PoolSpec:
    """Return a pool of the hostile job types."""
    members: dict[str, Any] = {**HOSTILE_POOL, "workers": 2, "spares": 1, **changes}
    return PoolSpec(name=name, **members)


async def pool_of(server: Supervisor, name: str | None = None) -> PoolRecord:
    """Return a server's pool: the only one, or that of a name; with its zygote's pid on a head, too."""
    (pool,) = [pool for pool in await server.pools() if name in (None, pool.name)]
    return pool._replace(zygote_pid=(await pool_with_workers(server, pool.name)).zygote_pid)


@dataclass
class Story:
    """What one reader saw of one job, to its end."""

    job_id: str
    events: list[JobEvent] = field(default_factory=list)
    alive: list[processes.ProcessInfo] = field(default_factory=list)
    """Processes of the job that /proc showed when the reader had the terminal event in its hands."""
    record: JobRecord | None = None

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]

    @property
    def plot(self) -> list[str]:
        """The names, with runs of one name as one."""
        return [name for name, _ in groupby(self.names)]

    def data(self, name: str) -> list[Any]:
        return [json.loads(event.data) for event in self.events if event.name == name]

    @property
    def tokens(self) -> list[Any]:
        """What the job yielded and emitted."""
        return [token.get("text", token.get("value")) for token in self.data("token")]

    @property
    def last_tokens(self) -> int:
        """How many the latest attempt has yielded and emitted."""
        between = [place for place, name in enumerate(self.names) if name in ("retrying", "restored")]
        return self.names[between[-1] if between else 0 :].count("token")

    @property
    def lines(self) -> list[str]:
        """What the job printed."""
        return [line["text"] for line in self.data("log")]

    @property
    def end(self) -> dict[str, Any]:
        """The data of the terminal event."""
        end: dict[str, Any] = json.loads(self.events[-1].data)
        return end

    @property
    def state(self) -> str:
        return str(self.end["state"])

    @property
    def code(self) -> str:
        return self.end["error"]["code"] if self.end["error"] else ""

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.end["error"]
        return error

    @property
    def certificate(self) -> dict[str, Any]:
        certificate: dict[str, Any] = self.end["certificate"]
        return certificate

    @property
    def pid(self) -> int:
        assert self.record is not None and self.record.pid is not None
        return self.record.pid

    @property
    def phases(self) -> set[str]:
        """The phases that happened."""
        return certificate_checks.phases_of(self.certificate)


async def submit(supervisor: Supervisor, type: str, /, *, limits: dict[str, Any] | None = None, **input: Any) -> str:
    """Submit a job that has to be accepted; return its id."""
    record = await supervisor.submit(Submission(type, json.dumps(input).encode(), limits=limits or {}))
    return record.job_id


async def wait_for_tokens(supervisor: Supervisor, job_id: str, tokens: int = 1) -> list[Any]:
    """Wait until a job has emitted so many tokens; return the first ones."""
    seen: list[Any] = []
    async with asyncio.timeout(END_S):
        async for batch in supervisor.events(job_id):
            for event in batch:
                assert event.name not in TERMINAL_STATES, f"it ended: {event.data!r}"
                if event.name == "token":
                    token = json.loads(event.data)
                    seen.append(token.get("text", token.get("value")))
                    if len(seen) >= tokens:
                        return seen  # its end may be in the same batch
    raise AssertionError("the stream has ended")


async def wait_for_state(supervisor: Supervisor, job_id: str, state: str) -> None:
    """Wait until a job is in a state."""

    async def is_there() -> bool | Pending:
        record = await supervisor.get(job_id)
        return record.state == state or Pending(record)

    await until_async(is_there, f"{job_id} is {state}")


async def wait_until_computing(supervisor: Supervisor, job_id: str, cpu_s: float = 0.03) -> int:
    """Wait until a job that said "in" has computed for a while since: it is where it will stay. Return its pid."""
    await wait_for_tokens(supervisor, job_id)
    pid = (await supervisor.get(job_id)).pid
    assert pid is not None
    await until_async(processes.computes(pid, cpu_s), f"{pid} computes")
    return pid


async def start_computing(supervisor: Supervisor, type: str, /, *, limits: dict[str, Any], **input: Any) -> str:
    """Submit a job and wait until its main thread computes; return its id."""
    job_id = await submit(supervisor, type, limits=limits, **input)
    await wait_until_computing(supervisor, job_id)
    return job_id


async def wait_until_busy(supervisor: Supervisor, job_id: str, cpu_s: float = 0.03) -> None:
    """Wait until the process of a job that said "in" has computed for a while since, in whichever thread."""
    await wait_for_tokens(supervisor, job_id)
    pid = (await supervisor.get(job_id)).pid
    assert pid is not None
    await until_async(processes.computes(pid, cpu_s, processes.cpu_s), f"{pid} computes")


async def wait_until_sleeping(supervisor: Supervisor, job_id: str, state: str = "S") -> int:
    """Wait until the main thread of a job that said "in" is sleeping (or stopped: `T`). Return its pid."""
    await wait_for_tokens(supervisor, job_id)
    pid = (await supervisor.get(job_id)).pid
    assert pid is not None

    sits = processes.is_in_state(pid, state)
    await until_async(sits, f"{pid} is in state {state}")
    await until_async(sits, f"{pid} is in state {state}")  # and stays there
    return pid


async def wait_until_stopped(supervisor: Supervisor, job_id: str) -> int:
    """Wait until a job that said "in" is stopped."""
    return await wait_until_sleeping(supervisor, job_id, "T")


async def wait_until_printed(supervisor: Supervisor, job_id: str) -> None:
    """Wait until a job has printed something."""
    async with asyncio.timeout(END_S):
        async for batch in supervisor.events(job_id):
            if batch[-1].name == "log":
                break


SETTLED: dict[str, Callable[[Supervisor, str], Awaitable[object]]] = {
    "computing": wait_until_computing,
    "busy": wait_until_busy,
    "sitting": wait_until_sleeping,
    "stopped": wait_until_stopped,
    "said": wait_for_tokens,
    "printed": wait_until_printed,
}
"""How to wait until a job is where it will stay."""


async def follow(supervisor: Supervisor, job_id: str) -> Story:
    """Read a job's events to the end, look into /proc right then, and check what holds for every ending."""
    story = Story(job_id)
    try:
        async with asyncio.timeout(END_S):
            async for batch in supervisor.events(job_id):
                story.events += batch
                if batch[-1].name in TERMINAL_STATES:
                    # Before anything else runs in this process: what is there now was there at the event.
                    story.alive = processes.named(process_name_of(job_id))
    except TimeoutError:
        record = await supervisor.get(job_id)
        seen = processes.named(process_name_of(job_id))
        raise AssertionError(f"not ended within {END_S:g} s: {record.state}, {record.certificate}, {seen}") from None
    story.record = await supervisor.get(job_id)
    check_ending(story)
    return story


async def follow_lost(supervisor: Supervisor, job_id: str) -> Story:
    """Read what there is of a job that was lost with an earlier supervisor: its end, and nothing before."""
    story = Story(job_id)
    async with asyncio.timeout(END_S):
        async for batch in supervisor.events(job_id):
            story.events += batch
    story.record = record = await supervisor.get(job_id)
    assert story.names == [record.state] and story.events[0].id == record.events - 1
    assert record.error == story.end["error"] and record.certificate is None and record.tokens == 0
    assert story.state == CODES[story.code].state and CODES[story.code].retryable
    ENDED_WITH.add(story.code)
    return story


async def run(supervisor: Supervisor, type: str, /, *, limits: dict[str, Any] | None = None, **input: Any) -> Story:
    """Submit a job that ends by itself, and follow it."""
    return await follow(supervisor, await submit(supervisor, type, limits=limits, **input))


async def stop(supervisor: Supervisor, job_id: str, *, grace_s: float | None = None, reason: str = "") -> Story:
    """Cancel a job and follow it to its end."""
    cancelling = asyncio.create_task(supervisor.cancel(job_id, grace_s=grace_s, reason=reason, wait_s=END_S))
    story = await follow(supervisor, job_id)
    record = await cancelling
    assert record.state == "cancelled" and record == story.record
    return story


class Reports:
    """Records what a spawner and one process report through the ports."""

    def __init__(self) -> None:
        self.preloaded = False
        self.frames: list[Frame] = []
        self.notifications = b""
        self.exited = 0
        self.gone: Gone | None = None

    def on_type(self, reported: dict[str, Any]) -> None: ...
    def on_files(self, files: Sequence[SourceFile]) -> None: ...
    def on_preload_failed(self, traceback: str, declaration: str) -> None: ...
    def on_zygote_ending(self) -> None: ...
    def on_zygote_lost(self, how: str = "") -> None: ...
    def on_forked(self, pid: int) -> None: ...
    def on_fork_failed(self, errno: int, why: str) -> None: ...

    reading_output = nullcontext()

    def on_output(self, data: bytes, stream: str = "stdout") -> None: ...
    def on_protocol_error(self, why: str) -> None: ...

    def on_preloaded(self, threads: int) -> None:
        self.preloaded = True

    def on_frames(self, frames: list[Frame]) -> None:
        self.frames += frames

    def on_notifications(self, notifications: bytes) -> None:
        self.notifications += notifications

    def on_exited(self) -> None:
        self.exited += 1

    def on_gone(self, gone: Gone) -> None:
        self.gone = gone


@asynccontextmanager
async def open_spawner(pool: PoolSpec, reports: Reports, **settings: Any) -> AsyncIterator[PoolSpawner]:
    """Open a real pool without a supervisor above it, and wait until it can fork workers."""
    system = SupervisorResources.open(asyncio.get_running_loop(), Settings(pools=(), **settings), uuid.uuid4().hex)
    spawner: PoolSpawner = system.open_spawner(pool, reports)
    try:
        spawner.start(pool.start_method)
        await until_async(lambda: reports.preloaded, "the zygote has preloaded")
        yield spawner
    finally:
        await spawner.close()
        await system.close()


ENDED_WITH: set[str] = set()
"""Codes of the jobs that `follow` has seen end since a test began."""


def check_ending(story: Story) -> None:
    """Check what holds however a job ends: one terminal event, the last; ids without a gap; a true certificate."""
    record = story.record
    assert record is not None and story.events
    assert [name for name in story.names if name in TERMINAL_STATES] == story.names[-1:], story.plot
    assert [event.id for event in story.events] == list(range(len(story.events)))
    assert story.names.count("started") <= 1 + story.names.count("retrying")
    if "started" in story.names:
        assert story.names[0] == "started"
    assert (record.state, story.names[-1]) == (story.state, story.state)
    assert story.state == (CODES[story.code].state if story.code else "completed")
    assert record.error == story.end["error"]
    assert record.events == len(story.events) and record.tokens == story.last_tokens == story.end["tokens"]
    if record.pid is None:
        assert not {*PHASES, "proof"} & set(record.certificate or {}), "it never had a process"
    else:
        assert record.certificate is not None
        later = dict(record.certificate)
        if "slot_ready" not in story.certificate:
            later.pop("slot_ready", None)  # the next worker was warm before we looked
        assert story.certificate == later, "the event and the record tell the same"
        check_certificate(story)
    if record.pid is not None and story.code != "unkillable":
        assert "tree_empty" in story.phases, story.certificate
        kept = "exited" not in story.phases  # a worker that goes on to the next job
        left: Sequence[processes.ProcessInfo] = [seen for seen in story.alive if not (kept and seen.pid == record.pid)]
        assert not left, f"alive at the terminal event: {left}"
    ENDED_WITH.add(story.code)


def check_certificate(story: Story) -> None:
    """Check a certificate against itself, and against what was read."""
    seen = story.certificate
    certificate_checks.check_certificate(seen, story.code, story.error["by"] if "requested" in seen else "")
    told = str(seen)
    assert seen["tokens"] == story.last_tokens, told
    assert seen.get("last_sequence") == (len(story.events) - 2 if len(story.events) > 1 else None), told
