"""What a job says: kept as an exact prefix whatever ends it, bounded, tied to it, and unable to harm its own stream."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from job_runs import Story, follow, hostile_pool, run, stop, submit, wait_for_tokens
from support import processes
from support.supervisor_fixture import StartSupervisor
from support.waiting import Pending, until, until_async

from killable.api.explanation import story as stories
from killable.api.http.record_json import record_json

pytestmark = pytest.mark.asyncio(loop_scope="module")
SHARED_POOL = hostile_pool()


@pytest.fixture
def supervisor(shared_or_own_supervisor: StartSupervisor) -> StartSupervisor:
    return shared_or_own_supervisor


def check_counted(said: list[str]) -> int:
    """Check that these are the numbers from 0 without a gap; return how many."""
    assert [text.strip() for text in said] == [str(number) for number in range(len(said))]
    return len(said)


# ── an exact prefix ──


@pytest.mark.row("PEERS-H", "PEERS-12")
@pytest.mark.row("D13")
@pytest.mark.parametrize("width", [1, 5_000], ids=["short", "long"])
@pytest.mark.parametrize("grace_s", [0, 5], ids=["killed", "asked"])
async def test_tokens_before_a_cancel_are_an_exact_prefix(
    width: int, grace_s: float, supervisor: StartSupervisor
) -> None:
    server = await supervisor(hostile_pool())
    for _ in range(2):
        job_id = await submit(server, "counts_for_ever", width=width)
        seen = await wait_for_tokens(server, job_id, 50)
        story = await stop(server, job_id, grace_s=grace_s)
        assert check_counted(story.tokens) >= 50
        assert story.tokens[: len(seen)] == seen and {len(token) for token in story.tokens} <= {width, *range(7)}
        assert story.certificate["tokens"] == len(story.tokens)


async def test_what_was_said_before_the_process_ended_is_read_to_its_end(supervisor: StartSupervisor) -> None:
    """All of it is still in the pipes when the exit is known: the event loop is held until the process is reaped."""
    server = await supervisor(hostile_pool())
    job_id = await submit(server, "says_and_exits", tokens=1000, code=3)

    async def begun() -> int | None:
        return (await server.get(job_id)).pid

    pid = await until_async(begun, "it has a worker")
    assert pid is not None
    until(lambda: processes.read_process(pid) is None, "it is reaped")
    story = await follow(server, job_id)
    assert check_counted(story.tokens) == check_counted(story.lines) == 1000
    assert (story.code, story.error["exit_code"]) == ("exit", 3)


async def test_tokens_before_a_crash_are_all_there(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    story = await run(server, "dies_in_a_frame", code=3)
    assert story.tokens == ["in"] and story.code == "exit"
    story = await run(server, "writes_garbage", then="loop")
    assert story.tokens == ["in"] and story.plot == ["started", "token", "failed"]


async def test_printed_lines_before_a_kill_are_an_exact_prefix(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    job_id = await submit(server, "prints_for_ever")
    seen = 0
    async for batch in server.events(job_id):
        seen += sum(event.name == "log" for event in batch)
        if seen > 50:
            break
    story = await stop(server, job_id, grace_s=0)
    *whole, last = story.lines
    assert check_counted(whole) >= 50
    assert str(len(whole)).startswith(last)  # the kill may cut the last one


# ── bounded ──


@pytest.mark.row("B19")
@pytest.mark.parametrize("type", ["counts_for_ever", "prints_for_ever"])
async def test_output_stops_at_its_bound_and_what_came_before_is_kept(type: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    bound = 100_000
    story = await run(server, type, limits={"output_bytes": bound})
    assert (story.state, story.code) == ("failed", "limit.output")
    assert (story.error["limit"], story.error["limit_bytes"]) == ("output_bytes", bound)
    kept = [event.data for event in story.events if event.name in ("token", "log")]
    assert bound - 100 < sum(map(len, kept)) <= bound
    check_counted(story.tokens or story.lines)


async def test_a_token_over_the_bound_is_refused_whole(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    story = await run(server, "emits_large", size=100_001, times=1, limits={"output_bytes": 100_000})
    assert story.code == "limit.output" and story.tokens == []


async def test_one_token_may_be_as_large_as_the_bound(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    size = (64 << 20) - 64
    story = await run(server, "emits_large", size=size, times=1)
    assert story.state == "completed" and len(story.tokens[0]) == size


async def test_a_token_larger_than_a_frame_is_an_error_of_the_job(supervisor: StartSupervisor) -> None:
    story = await run(await supervisor(hostile_pool()), "emits_large", size=64 << 20, times=1)
    assert story.state == "failed" and story.tokens == []


# ── blocked in a write ──


@pytest.mark.row("PEERS-E")
@pytest.mark.row("B19")
@pytest.mark.parametrize("grace_s", [0, 60], ids=["killed", "asked"])
async def test_a_job_that_is_blocked_in_emit_is_ended(grace_s: float, supervisor: StartSupervisor) -> None:
    """Nobody reads while the event loop is held here: the pipe is full, and the job sleeps in its write."""
    server = await supervisor(hostile_pool())
    job_id = await submit(server, "emits_large", size=1 << 20, last="last", limits={"ack_s": None})
    await wait_for_tokens(server, job_id)
    pid = (await server.get(job_id)).pid
    assert pid is not None

    def blocked() -> bool | Pending:
        seen = processes.read_process(pid)
        return (seen is not None and seen.state == "S") or Pending(seen)

    until(blocked, "the job is blocked in its write")
    story = await stop(server, job_id, grace_s=grace_s)
    asked = "acknowledged" in story.phases
    assert asked == (grace_s > 0)
    # It is asked between two frames, never inside one: what it says then is understood.
    assert {len(token) for token in story.tokens[: -1 if asked else None]} == {1 << 20}
    assert (story.tokens[-1] == "last") == asked


# ── stdout and stderr ──


@pytest.mark.row("F7")
@pytest.mark.row("B18")
@pytest.mark.parametrize("jobs_per_worker_max", [1, 0], ids=["fresh", "reused"])
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
async def test_everything_that_a_job_prints_is_logged_once(
    jobs_per_worker_max: int, start_method: str, supervisor: StartSupervisor
) -> None:
    # Unbuffered Python would also unbuffer C's stdout, and hide that C's has to be flushed.
    environment = {"PYTHONUNBUFFERED": ""}
    pool = hostile_pool(jobs_per_worker_max=jobs_per_worker_max, start_method=start_method, env=environment)
    server = await supervisor(pool)
    for _ in range(2):
        story = await run(server, "says_everything", tokens=20)
        assert story.state == "completed" and story.end["result"] == "said"
        assert story.tokens == [f"token {number}" for number in range(20)]
        counts = {line: story.lines.count(line) for line in set(story.lines)}
        each = {f"by {way}": 20 for way in ("print", "write", "printf", "stderr")}
        assert counts == each | {"by echo": 1}


async def test_a_last_line_without_an_end_is_logged_too(supervisor: StartSupervisor) -> None:
    story = await run(await supervisor(hostile_pool()), "says_everything", tokens=0, last="no line end")
    assert story.lines == ["no line end"]


@pytest.mark.row("B18")
async def test_jobs_side_by_side_do_not_mix_their_output(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=4, jobs_per_worker_max=0))
    names = [f"job {number}" for number in range(12)]
    stories = await asyncio.gather(*(run(server, "tells", name=name, lines=100) for name in names))
    for name, story in zip(names, stories, strict=True):
        assert story.tokens == story.lines == [f"{name} {number}" for number in range(100)]


@pytest.mark.row("F7")
async def test_what_is_printed_is_there_before_the_terminal_event_of_a_crash(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    story = await run(server, "raises_system_exit", code="the last words")
    assert story.lines == ["the last words"] and story.plot[-1] == "failed"
    assert sorted(story.plot[:-1]) == ["log", "started", "token"]  # of two pipes: either may be read first


@pytest.mark.row("D20", "F7")
@pytest.mark.code("crash", "exit")
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
async def test_the_last_words_on_stderr_of_a_worker_that_dies_are_told(
    start_method: str, supervisor: StartSupervisor
) -> None:
    """In `log` events before its end, and by `killable explain`: the last one has no line end."""
    server = await supervisor(hostile_pool(workers=3, start_method=start_method))
    endings = {"SIGSEGV": ("crash", "SIGSEGV"), "SIGABRT": ("crash", "SIGABRT"), "exit": ("exit", None)}
    ended = await asyncio.gather(*(run(server, "complains_and_dies", then=then) for then in endings))
    words = ["by print", "by os.write", "by dprintf", "by write"]
    for ending, seen in zip(endings.values(), ended, strict=True):
        assert (seen.code, seen.error.get("signal")) == ending
        assert seen.plot == ["started", "log", "failed"] and seen.lines == words
        assert seen.record is not None
        events = [{"event": "log", "data": log} for log in seen.data("log")]
        told = stories.tell(record_json(seen.record, 1 << 20), events)
        assert [each.lines for each in told.paragraphs if each.title == "Printed"] == [tuple(words)]


async def test_nothing_that_is_printed_harms_the_tokens(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    story = await run(server, "prints_frames")
    assert story.state == "completed" and story.tokens == ["before"] * 4 + ["after"]
    assert {"data: [DONE]", "event: completed", "data: {}"} <= set(story.lines)
    for event in story.events:
        assert b"\n" not in event.data and b"\r" not in event.data
        json.loads(event.data)


# ── nonsense where the frames go ──


@pytest.mark.parametrize(
    "text",
    ["\xff" * 17, "\x00" * 1000, "x", "GET / HTTP/1.1\r\n\r\n", "\x01\x00\x00\x00" + "\x00" * 14],
    ids=["length", "zeros", "one byte", "text", "checksum"],
)
async def test_garbage_among_the_frames_is_a_protocol_error(text: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    story = await run(server, "writes_garbage", text=text)
    assert story.code == "protocol" and story.tokens == ["in"] and story.end["result"] is None
    assert (await run(server, "echoes")).state == "completed"


async def test_a_forged_frame_is_a_protocol_error(supervisor: StartSupervisor) -> None:
    """Well formed, and not what can come now: another attempt's, one out of its order, an entry, nonsense inside."""
    server = await supervisor(hostile_pool(workers=4))

    async def forge(kind: int, payload: str = "{}", **more: Any) -> Story:
        return await run(server, "forges_a_frame", kind=kind, payload=payload, **more)

    for kind in (2, 4, 5, 8, 9, 10, 99):
        story = await forge(kind, ahead=7)  # out of its order
        assert (story.code, story.tokens) == ("protocol", ["in"]), kind
    nonsense = [(2, "{}"), (4, "no JSON"), (5, "no JSON"), (8, "no JSON"), (9, "[]"), (9, "5"), (99, "{}"), (1, "{}")]
    for kind, payload in nonsense:
        for then in ("return", "exit"):
            story = await forge(kind, payload, then=then)
            assert (story.code, story.tokens) == ("protocol", ["in"]), (kind, payload, then)
    for kind in (3, 8, 9):
        story = await forge(kind, '{"text":"forged"}', fence=1_000_000)  # of an attempt that is not this one
        assert story.state == "completed" and story.tokens == ["in"], kind


async def test_a_frame_cannot_carry_a_line_end_into_the_stream(supervisor: StartSupervisor) -> None:
    story = await run(await supervisor(hostile_pool()), "forges_a_frame", kind=3, payload='{"text":\n"x"}')
    assert story.code == "protocol" and story.tokens == ["in"]


async def test_a_checkpoint_that_is_nested_as_deeply_as_can_be(supervisor: StartSupervisor) -> None:
    """What the worker could encode, the supervisor either takes or refuses; it does not stumble."""
    server = await supervisor(hostile_pool(workers=4))
    for depth in (100, 900, 940, 960, 970, 980, 5000):
        record = await server.wait(await submit(server, "nests_deeply", depth=depth))
        code = record.error and record.error["code"]
        assert code in (None, "result.unserializable") and (code is None or depth > 100), (depth, record.error)


@pytest.mark.row("B20")
async def test_a_job_that_nobody_reads_runs_to_its_end(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    job_id = await submit(server, "tells", name="unread", lines=2000)
    assert (await server.wait(job_id)).state == "completed"
    story = await follow(server, job_id)
    assert len(story.tokens) == len(story.lines) == 2000


@pytest.mark.row("B19")
async def test_a_reader_that_comes_late_or_again_sees_the_same(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool())
    job_id = await submit(server, "tells", name="twice", lines=300)
    first, second = await asyncio.gather(follow(server, job_id), follow(server, job_id))
    third = await follow(server, job_id)
    assert first.events == second.events == third.events
    after = [event async for batch in server.events(job_id, after=100) for event in batch]
    assert after == first.events[101:]
