"""A job that writes the worker's own frames, or has processes that nobody is told of: it is believed nothing that would
let it live on, or let its job never end.
"""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from job_runs import follow, run, submit
from support import processes
from support.supervisor_fixture import StartSupervisor
from support.waiting import until

from killable.supervisor.settings import PoolSpec
from killable.workers.protocol.message_bounds import PROGRESS_BYTES_MAX

FORGES = """
import ctypes, os, signal, time
from killable import Context, job
from killable.workers.protocol.messages import IDLE_FREE, Kind

@job
def forges_its_end(ctx: Context, payload: str) -> None:
    ctx._channel.send(Kind.RAISED, payload.encode())
    os._exit(0)

@job
def forges_its_freedom(ctx: Context) -> None:
    ctx.emit(os.getpid())
    ctx._channel.close([(Kind.RESULT, b"1"), (Kind.IDLE, IDLE_FREE)])
    while True:
        time.sleep(1)

@job
def forges_its_rest(ctx: Context, payload: str) -> None:
    ctx._channel.close([(Kind.RESULT, b"1"), (Kind.IDLE, payload.encode())])
    while True:
        time.sleep(1)

@job
def reports(ctx: Context, payload: str) -> None:
    ctx._channel.send(Kind.PROGRESS, payload.encode())

@job
def leaves(ctx: Context) -> None:
    ctx._channel.send(Kind.OPERATION_LEFT, b'{"number":[1]}')

@job
def leaves_much(ctx: Context) -> None:
    ctx._channel.send(Kind.OPERATION_LEFT, b'{"number":[%s[]]}' % (b"[]," * 2000))

@job
def returns_much() -> str:
    return "x" * (65 << 20)

@job
def emits_much(ctx: Context) -> None:
    ctx.emit("x" * (65 << 20))

@job
def puts_a_line_end(ctx: Context) -> None:
    ring = ctx._channel._ring
    while not ring.is_watched():
        ctx.emit("quick")
    while not ring.put(b'{"text":"a"}\\n\\nevent: completed\\ndata: {}'):
        pass
    ctx._channel.sequence += 1
    while True:
        ctx.emit("quick")

@job
def says() -> int:
    return os.getpid()

@job
def leaves_a_clone() -> int:
    pid = ctypes.PyDLL(None).syscall(56, 0, 0, 0, 0, 0)  # clone(2), with no signal at its end
    if pid == 0:
        os.execv("/bin/sleep", ["sleep", "3600"])
    return pid

@job
def ticks(ctx: Context) -> str:
    signal.signal(signal.SIGALRM, lambda *_: ctx.emit("tick"))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    return "x" * (8 << 20)
"""


def forging(folder: Path, jobs_per_worker_max: int = 1) -> PoolSpec:
    (folder / "forges.py").write_text(FORGES)
    return PoolSpec("forges", (str(folder / "forges.py"),), 1, 0, jobs_per_worker_max=jobs_per_worker_max)


@pytest.mark.row("B3", "D20")
@pytest.mark.code("protocol")
@pytest.mark.parametrize(
    "payload",
    [
        '{"cause":"exception","pickled":"a"}',
        '{"cause":"exception","pickled":7}',
        '{"cause":"payload","faults":[1]}',
        '{"cause":"payload","faults":[["x"]]}',
        '{"cause":"exit","exit_code":NaN}',
        '{"cause":"exception","type":NaN}',
        '{"cause":"of my own"}',
        '["exception"]',
    ],
)
async def test_an_end_that_makes_no_sense_is_one_of_its_protocol(
    payload: str, tmp_path: Path, supervisor: StartSupervisor
) -> None:
    server = await supervisor(forging(tmp_path))
    story = await run(server, "forges_its_end", payload=payload)
    assert story.code == "protocol", story.error
    assert (await run(server, "says")).state == "completed"


@pytest.mark.row("D20")
async def test_a_worker_of_one_job_that_says_it_can_go_on_is_not_believed(
    tmp_path: Path, supervisor: StartSupervisor
) -> None:
    server = await supervisor(forging(tmp_path))
    story = await follow(server, await submit(server, "forges_its_freedom"))
    following = await run(server, "says")
    assert following.state == "completed" and following.pid != story.pid
    assert processes.read_process(int(story.tokens[0])) is None


@pytest.mark.row("B3")
@pytest.mark.code("protocol")
@pytest.mark.parametrize(
    ("type", "input"),
    [
        ("forges_its_rest", {"payload": '{"reusable":1,"why":""}'}),
        ("forges_its_rest", {"payload": '{"reusable":false,"why":{}}'}),
        ("reports", {"payload": '{"done":1,"total":null,"unit":"%s"}' % ("x" * PROGRESS_BYTES_MAX)}),
        ("leaves", {}),
        ("leaves_much", {}),
    ],
    ids=["freedom", "reason", "progress", "operation", "more than it may be"],
)
async def test_what_no_harness_writes_is_not_kept(
    type: str, input: dict[str, str], tmp_path: Path, supervisor: StartSupervisor
) -> None:
    server = await supervisor(forging(tmp_path, 0))
    story = await run(server, type, **input)
    assert story.code == "protocol" and story.record is not None and story.record.progress is None, story.error
    assert len(story.error["message"]) < 200  # the values are in none
    following = await run(server, "says")
    assert following.state == "completed" and following.pid != story.pid


@pytest.mark.row("B3")
@pytest.mark.code("protocol")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="there is no ring")
async def test_a_line_end_in_the_ring_begins_no_event(tmp_path: Path, supervisor: StartSupervisor) -> None:
    server = await supervisor(forging(tmp_path, 0))
    story = await run(server, "puts_a_line_end")
    assert story.code == "protocol" and "line end" in story.error["message"], story.error
    assert set(story.tokens) == {"quick"}


@pytest.mark.row("B3")
@pytest.mark.code("result.unserializable")
@pytest.mark.parametrize("type", ["returns_much", "emits_much"])
async def test_a_value_over_the_bound_says_so(type: str, tmp_path: Path, supervisor: StartSupervisor) -> None:
    server = await supervisor(forging(tmp_path))
    story = await run(server, type)
    assert story.code == "result.unserializable" and "67108864" in story.error["message"], story.error


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of clone(2)")
async def test_a_child_that_tells_of_its_end_by_no_signal_is_seen(tmp_path: Path, supervisor: StartSupervisor) -> None:
    server = await supervisor(forging(tmp_path, 0))
    story = await run(server, "leaves_a_clone")
    assert story.state == "completed"
    child = int(str(story.end["result"]))
    until(lambda: (seen := processes.read_process(child)) is None or seen.state == "Z", "it is ended")
    (retired,) = await server.retired()
    assert retired.why == "child processes are left"


async def test_a_handler_that_emits_while_the_last_word_is_written_does_not_keep_it(
    tmp_path: Path, supervisor: StartSupervisor
) -> None:
    server = await supervisor(forging(tmp_path, 0))
    story = await run(server, "ticks")
    assert story.state == "completed", story.error
