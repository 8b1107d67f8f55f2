"""Every hostile job through the real guard, zygote and supervisor, once per proof: how it ends, and that it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.supervising import StartSupervisor
from trials import computing, hostile_pool, run, said, sitting, stop, submit

from killable.supervisor.service import Supervisor

GONE = {"exited", "reaped", "tree_empty"}
HEARD = {"term_sent", "delivered", "acknowledged"} | GONE
"""Told to end, and ended."""
STUCK = {"term_sent", "delivered", "kill_sent"} | GONE
"""The signal came, and no Python ran any more."""
DEAF = {"term_sent", "kill_sent"} | GONE
"""The signal never came."""
STUBBORN = HEARD | {"kill_sent"}
"""Heard, and not obeyed."""

GRACE_S = 0.3
LONG_S = 60.0
"""A grace that no test waits for: what ends sooner did not need it."""


# ── jobs that end by themselves ──


@dataclass(frozen=True)
class Ending:
    """A job that ends, and how."""

    type: str
    code: str
    input: dict[str, Any] = field(default_factory=dict)
    plot: tuple[str, ...] = ("started", "token", "failed")
    error: dict[str, Any] = field(default_factory=dict)
    """Facts that the error has to have."""
    limits: dict[str, Any] = field(default_factory=dict)
    phases: frozenset[str] = frozenset(GONE)

    def __str__(self) -> str:
        return "-".join([self.type, *map(str, self.input.values())])


ENDINGS = [
    Ending("segfaults", "crash", error={"signal": "SIGSEGV", "core_dumped": False}),
    Ending("aborts", "crash", error={"signal": "SIGABRT"}),
    Ending("exits", "exit", {"code": 0}, ("started", "failed"), {"exit_code": 0}),
    Ending("exits", "exit", {"code": 3}, ("started", "failed"), {"exit_code": 3}),
    Ending("raises_system_exit", "exit", {}, error={"exit_code": 0}),
    Ending("raises_system_exit", "exit", {"code": 5}, error={"exit_code": 5}),
    Ending("raises_system_exit", "exit", {"code": "why"}, ("started", "token", "log", "failed"), {"exit_code": 1}),
    Ending("raises_unpicklable", "exception", error={"type": "support.hostile.Unpicklable"}),
    Ending("returns_unpicklable", "result.unserializable", error={"type": "function"}),
    Ending("emits_unpicklable", "result.unserializable", error={"type": "lock"}),
    Ending(
        "allocates",
        "limit.memory",
        limits={"memory_bytes": 64 << 20},
        error={"limit": "memory_bytes"},
        phases=frozenset(HEARD),
    ),
    Ending("closes_everything", "exit", error={"exit_code": 70}),
    Ending("crashes_with_family", "crash", error={"signal": "SIGSEGV"}),
    Ending("dies_in_a_frame", "protocol", {"code": 0}, error={"exit_code": 0}),
    Ending("dies_in_a_frame", "exit", {"code": 3}, error={"exit_code": 3}),
    Ending("writes_garbage", "protocol", {"then": "exit"}, phases=frozenset(GONE | {"kill_sent"})),
    Ending("writes_garbage", "protocol", {"then": "return"}, phases=frozenset(GONE | {"kill_sent"})),
    Ending("writes_garbage", "protocol", {"then": "loop"}, phases=frozenset(GONE | {"kill_sent"})),
]


@pytest.mark.row("B3")
@pytest.mark.row("B4")
@pytest.mark.row("D2")
@pytest.mark.row("D20")
@pytest.mark.parametrize("case", ENDINGS, ids=str)
async def test_a_job_that_ends_badly_fails_with_its_code_and_hurts_nobody(
    case: Ending, proof: str, supervisor: StartSupervisor
) -> None:
    server = await supervisor(hostile_pool(), proof=proof)
    neighbour = await submit(server, "loop_python")
    await said(server, neighbour)

    story = await run(server, case.type, limits=case.limits, **case.input)

    assert (story.state, story.code) == ("failed", case.code), story.error
    assert story.plot == list(case.plot)
    assert story.error.items() >= case.error.items()
    assert story.phases == case.phases
    assert story.certificate["proof"] == proof
    # The neighbour goes on, and the pool takes the next job.
    assert (await server.get(neighbour)).state == "running"
    assert (await run(server, "echoes", text="next")).end["result"]["text"] == "next"
    assert (await stop(server, neighbour)).tokens == ["in", "finally"]


async def test_an_exception_names_the_jobs_own_line(proof: str, supervisor: StartSupervisor) -> None:
    story = await run(await supervisor(hostile_pool(), proof=proof), "raises_unpicklable")
    lines = story.error["traceback"].splitlines()
    assert "in raises_unpicklable" in lines[1] and "hostile.py" in lines[1]
    assert "killable" not in story.error["traceback"]


# ── jobs that do not end until they are made to ──

Settle = Callable[[Supervisor, str], Awaitable[object]]


async def stopped(server: Supervisor, job_id: str) -> int:
    return await sitting(server, job_id, "T")


@dataclass(frozen=True)
class Cancel:
    """A job that goes on for ever, and how it ends when it is cancelled."""

    type: str
    phases: frozenset[str]
    settle: Settle = computing
    """Waits until the job is where it will stay."""
    input: dict[str, Any] = field(default_factory=dict)
    grace_s: float = LONG_S
    exit_code: int | None = 143
    tokens: tuple[Any, ...] | None = ("in",)

    def __str__(self) -> str:
        return "-".join([self.type, *map(str, self.input.values())])


def heard(type: str, settle: Settle = computing, **members: Any) -> Cancel:
    return Cancel(type, frozenset(HEARD), settle, **members)


def stuck(type: str, settle: Settle = computing, **members: Any) -> Cancel:
    return Cancel(type, frozenset(STUCK), settle, exit_code=None, **members)


def deaf(type: str, settle: Settle = computing, **members: Any) -> Cancel:
    return Cancel(type, frozenset(DEAF), settle, grace_s=GRACE_S, exit_code=None, **members)


CANCELS = [
    heard("loop_python", tokens=("in", "finally")),
    stuck("hold_gil"),
    stuck("hold_gil", input={"in_thread": True}),
    stuck("hold_gil_tokenizers"),
    stuck("native_frees_gil"),
    heard("native_pauses", sitting),
    # No processor time used: it may be waiting for something that comes, and keeps its grace.
    Cancel("native_waits", frozenset(STUCK), sitting, grace_s=GRACE_S, exit_code=None),
    stuck("native_waits", sitting, input={"helpers": 2}),
    deaf("ignores_term"),
    deaf("blocks_term"),
    Cancel("catches_stopping", frozenset(STUBBORN), grace_s=GRACE_S, exit_code=None, tokens=("in", "caught cancelled")),
    heard("stops_itself", stopped, tokens=None),
    deaf("stops_itself", stopped, input={"ignore": True}, tokens=None),
    heard("loops_in_del"),
    heard("loops_in_asyncio"),
    *(
        heard("waits", sitting, input={"where": where})
        for where in ("lock", "read", "queue", "subprocess", "sleep", "event", "asyncio")
    ),
    heard("starts_threads", said, input={"then": "go on"}),
    heard("keeps_family", said, tokens=None),
    heard("forks_steadily", computing),
    heard("counts_for_ever", said, tokens=None),
    heard("prints_for_ever", None, tokens=()),  # type: ignore[arg-type]
    heard("emits_large", said, input={"size": 1 << 20}, tokens=None),
    heard("returns_in_grace", exit_code=0),
]


@pytest.mark.row("D1")
@pytest.mark.row("D3")
@pytest.mark.row("D21")
@pytest.mark.row("H5")
@pytest.mark.parametrize("case", CANCELS, ids=str)
async def test_a_job_that_does_not_end_is_ended(case: Cancel, proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(), proof=proof)
    limits = {"grace_s": case.grace_s, "ack_s": 0.2}
    job_id = await submit(server, case.type, limits=limits, **case.input)
    if case.settle is not None:
        await case.settle(server, job_id)
    else:
        async for batch in server.events(job_id):
            if batch[-1].name == "log":
                break

    story = await stop(server, job_id)

    assert (story.state, story.code, story.error["by"]) == ("cancelled", "cancelled", "user")
    assert story.phases == case.phases, story.certificate
    assert story.certificate["proof"] == proof
    assert story.plot[0] == "started" and set(story.plot[1:-1]) <= {"token", "log"}
    if case.tokens is not None:
        assert story.tokens == list(case.tokens)
    killed = case.exit_code is None
    assert story.certificate.get("exit_code") == case.exit_code
    assert story.certificate.get("exit_signal") == ("SIGKILL" if killed else None)
    assert story.certificate["last_signal"] == ("SIGKILL" if killed else "SIGTERM")
    if killed:
        early = case.grace_s == LONG_S
        assert ("early_kill" in story.certificate) == early
        kill_sent = story.certificate["kill_sent"] / 1000
        if early:
            assert 0.2 <= kill_sent < LONG_S
        else:
            assert kill_sent >= case.grace_s
    # The slot is free again.
    assert (await run(server, "echoes", text="next")).end["result"]["text"] == "next"


@pytest.mark.parametrize("type", ["hold_gil", "native_frees_gil", "ignores_term", "blocks_term", "stops_itself"])
async def test_without_a_grace_every_job_is_killed_at_once(type: str, proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(), proof=proof)
    job_id = await submit(server, type)
    await (stopped if type == "stops_itself" else computing)(server, job_id)
    story = await stop(server, job_id, grace_s=0)
    assert story.phases == GONE | {"kill_sent"}
    assert story.certificate["exit_signal"] == "SIGKILL" and story.certificate["grace_s"] == 0


@pytest.mark.parametrize(
    ("type", "early"), [("loop_python", False), ("hold_gil", True), ("ignores_term", False)], ids=str
)
@pytest.mark.row("H5")
async def test_a_run_deadline_ends_it_like_a_cancel_and_reads_as_a_timeout(
    type: str, early: bool, proof: str, supervisor: StartSupervisor
) -> None:
    server = await supervisor(hostile_pool(), proof=proof)
    story = await run(server, type, limits={"run_s": 0.2, "grace_s": LONG_S if early else GRACE_S, "ack_s": 0.2})
    assert (story.state, story.code) == ("timed_out", "timeout.run")
    assert (story.error["limit"], story.error["limit_s"], story.error["by"]) == ("run_s", 0.2, "supervisor")
    assert ("early_kill" in story.certificate) == early
    assert story.certificate["cause"] == "timeout.run"


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.parametrize("jobs_per_worker_max", [1, 0], ids=["fresh", "reused"])
async def test_the_same_endings_by_every_kind_of_worker(
    start_method: str, jobs_per_worker_max: int, supervisor: StartSupervisor
) -> None:
    """A representative of each kind of ending, one after another, so that reused workers meet them too."""
    pool = hostile_pool(start_method=start_method, jobs_per_worker_max=jobs_per_worker_max, workers=1)
    server = await supervisor(pool)
    assert (await server.pools())[0].start_method == start_method

    echo = await run(server, "echoes", text="first")
    assert echo.state == "completed"
    for case in ENDINGS:
        if case.type in ("segfaults", "exits", "raises_unpicklable", "returns_unpicklable", "allocates"):
            story = await run(server, case.type, limits=case.limits, **case.input)
            assert (story.state, story.code, story.plot) == ("failed", case.code, list(case.plot)), case
    for cancel in CANCELS:
        if cancel.type in ("loop_python", "hold_gil", "ignores_term", "keeps_family"):
            job_id = await submit(server, cancel.type, limits={"grace_s": cancel.grace_s, "ack_s": 0.2}, **cancel.input)
            await cancel.settle(server, job_id)
            story = await stop(server, job_id)
            assert story.phases == cancel.phases, (cancel, story.certificate)
    assert (await run(server, "echoes", text="last")).end["result"]["text"] == "last"
