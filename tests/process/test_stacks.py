"""The stack at the signal: the job's own frames, by file, line and function, of Python code and of native code."""

from __future__ import annotations

import inspect
import signal
from pathlib import Path
from typing import Any

import pytest
from job_runs import FORKED_OR_EXECED, hostile_pool, run, start_computing, stop, submit, wait_for_tokens
from support import hostile_jobs
from support.supervisor_fixture import StartSupervisor

from killable.supervisor.attempts import escalation
from killable.supervisor.settings import PoolSpec
from killable.workers.runtime.dump_signal import DUMP_SIGNAL

pytestmark = pytest.mark.asyncio(loop_scope="module")
SHARED_POOL = hostile_pool()


@pytest.fixture
def supervisor(shared_or_own_supervisor: StartSupervisor) -> StartSupervisor:
    return shared_or_own_supervisor


LONG_S = 60.0


def frames_of(stack: str) -> list[tuple[str, int, str]]:
    """Return (file, line, function) of each frame; faulthandler writes `line 5 in f` too."""
    found = []
    for line in stack.splitlines():
        if line.startswith('  File "'):
            file, _, rest = line.removeprefix('  File "').partition('", line ')
            number, _, function = rest.partition(" in ")
            found.append((file, int(number), function))
    return found


def lines_of(function: Any) -> range:
    source, first = inspect.getsourcelines(function)
    return range(first, first + len(source))


@FORKED_OR_EXECED
async def test_an_acknowledged_stack_names_the_jobs_function_and_line(
    start_method: str, proof: str, supervisor: StartSupervisor
) -> None:
    server = await supervisor(hostile_pool(start_method=start_method), proof=proof)
    job_id = await start_computing(server, "loop_python", limits={"grace_s": LONG_S, "ack_s": None})
    stack = (await stop(server, job_id)).certificate["stack"]
    ((file, line, function),) = frames_of(stack)
    assert file == hostile_jobs.__file__ and function == "loop_python"
    assert line in lines_of(hostile_jobs.loop_python)
    code = inspect.getsource(hostile_jobs).splitlines()[line - 1].strip()
    assert code in ("while True:", "sum(range(items))")


@pytest.mark.row("PEERS-D", "PEERS-11")
@FORKED_OR_EXECED
async def test_a_stuck_stack_names_the_function_that_called_native_code(
    start_method: str, proof: str, supervisor: StartSupervisor, long_dump_waits: None
) -> None:
    server = await supervisor(hostile_pool(start_method=start_method), proof=proof)
    job_id = await start_computing(server, "hold_gil", limits={"grace_s": LONG_S, "ack_s": 0.1})
    stack = (await stop(server, job_id)).certificate["stack"]
    ((file, line, function),) = frames_of(stack)
    assert file == hostile_jobs.__file__ and function == "hold_gil"
    assert "sum(range" in inspect.getsource(hostile_jobs).splitlines()[line - 1]


async def test_the_stack_of_a_generator_between_two_yields_names_it(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    for _ in range(5):
        job_id = await submit(server, "counts_for_ever", limits={"grace_s": LONG_S, "ack_s": None})
        await wait_for_tokens(server, job_id, 100)
        stack = (await stop(server, job_id)).certificate["stack"]
        assert "counts_for_ever" in stack and "before the job" not in stack


async def test_without_a_grace_there_is_no_stack(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    job_id = await start_computing(server, "hold_gil", limits={})
    assert "stack" not in (await stop(server, job_id, grace_s=0)).certificate


@pytest.mark.parametrize("hurried", [False, True], ids=["at once", "hurried"])
async def test_unless_it_is_asked_for(hurried: bool, supervisor: StartSupervisor, long_dump_waits: None) -> None:
    server = await supervisor(hostile_pool(), stack=True)
    job_id = await start_computing(server, "hold_gil", limits={"grace_s": 60, "ack_s": None})
    if hurried:
        await server.cancel(job_id, wait_s=0)
    story = await stop(server, job_id, grace_s=0)
    assert "in hold_gil" in story.certificate["stack"] and story.certificate["last_signal"] == "SIGKILL"


HIDES = """
import signal
from killable import Context, job

@job("hides")
def hides(ctx: Context, hidden: list[int]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, hidden)
    ctx.emit("in")
    sum(range(10**12))
"""


@pytest.mark.parametrize("hides_stop", [False, True], ids=["stuck", "grace over"])
async def test_sigkill_does_not_wait_for_a_stack_that_never_comes(
    hides_stop: bool, tmp_path: Path, supervisor: StartSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It blocks the signal for it. Where a stack is waited for at all it would be for longer than this test takes."""
    monkeypatch.setattr(escalation, "DUMP_S_MAX", 3600.0)
    (tmp_path / "hiding.py").write_text(HIDES)
    server = await supervisor(PoolSpec("hiding", modules=("hiding",), folder=str(tmp_path), workers=1))
    hidden = [int(DUMP_SIGNAL), *[int(signal.SIGTERM)] * hides_stop]
    limits = {"grace_s": 1.0, "ack_s": None} if hides_stop else {"grace_s": LONG_S, "ack_s": 0.5}
    certificate = (await stop(server, await start_computing(server, "hides", hidden=hidden, limits=limits))).certificate
    assert certificate["last_signal"] == "SIGKILL" and "stack" not in certificate
    assert ("delivered" in certificate, "early_kill" in certificate) == (not hides_stop, not hides_stop)


NAMES = """
from killable import Context, job

@job("sizes")
def größen(ctx: Context, native: bool) -> int:
    ctx.emit("in")
    while True:
        sum(range(10**12 if native else 10))

@job("cries")
def schreit(ctx: Context) -> None:
    import ctypes
    ctypes.string_at(1)
"""


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
async def test_names_that_are_not_ascii_are_shown_as_they_are_written(
    start_method: str, tmp_path: Path, supervisor: StartSupervisor, long_dump_waits: None
) -> None:
    """faulthandler escapes them; so nobody would find the file, and our own frames, below a home such as this."""
    (folder := tmp_path / "jörg 的 🗀").mkdir()
    (module := folder / "maße.py").write_text(NAMES)
    pool = PoolSpec("names", modules=("maße",), folder=str(folder), workers=1, start_method=start_method)
    server = await supervisor(pool)
    told = (await run(server, "cries")).certificate["stack"]
    assert [(file, function) for file, _, function in frames_of(told)][1:] == [(str(module), "schreit")]
    for native in (True, False):
        job_id = await start_computing(server, "sizes", native=native, limits={"grace_s": LONG_S, "ack_s": 0.1})
        certificate = (await stop(server, job_id)).certificate
        ((file, _, function),) = frames_of(certificate["stack"])
        assert (file, function, "early_kill" in certificate) == (str(module), "größen", native)
