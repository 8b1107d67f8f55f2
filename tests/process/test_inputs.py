"""Inputs of every size: they arrive, nobody changes them, nobody waits for them, and nothing of them stays behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import textwrap
from pathlib import Path
from typing import Any, Literal

import pytest
from job_runs import follow, run, stop
from support import processes
from support.engines import pid_of
from support.supervisor_fixture import StartSupervisor
from support.waiting import Pending, until_async

from killable.supervisor.models import Submission
from killable.supervisor.settings import PoolSpec
from killable.supervisor.supervisor import Supervisor
from killable.workers.errors import Refused
from killable.workers.protocol.pickling import loads, pickled

MIB = 1 << 20
MODULE = '''
import hashlib, os, resource
from dataclasses import dataclass
from killable import job

@dataclass
class Span:
    start: int
    end: int

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError("must not end before it starts")

@job
def cut(text: str, spans: list[Span], key: bytes = b"") -> list:
    return [text[span.start : span.end] for span in spans] + [len(key)]

@job
def digest(text: str) -> list:
    """Say what came, and which descriptors this process has."""
    descriptors = []
    for number in os.listdir("/proc/self/fd"):
        try:
            descriptors.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            pass  # the listing's own
    inputs = sum("killable-input" in target for target in descriptors)
    return [len(text), hashlib.sha256(text.encode()).hexdigest(), inputs, len(descriptors)]

@job
def write_orders() -> str:
    """Write to whatever socket this process has."""
    for number in range(3, 64):
        try:
            if os.readlink(f"/proc/self/fd/{number}").startswith("socket"):
                os.write(number, b"x" * 100)
        except FileNotFoundError:
            pass
        except OSError as error:
            return error.strerror
    return "written"

@job
def fill_descriptors(but: int) -> int:
    """Open files until no more can be opened, and keep all but a few."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    opened = []
    try:
        while True:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        for descriptor in opened[:but]:
            os.close(descriptor)
    return os.getpid()
'''


def pool(folder: Path, **changes: Any) -> PoolSpec:
    (folder / "inputs_jobs.py").write_text(textwrap.dedent(MODULE))
    return PoolSpec("inputs", (str(folder / "inputs_jobs.py"),), **{"workers": 2, "spares": 1, **changes})


def payload_of(size: int) -> tuple[bytes, str]:
    """Return an input of exactly so many bytes, and the text in it."""
    empty = len(json.dumps({"text": ""}))
    text = ("0123456789abcdef" * (size // 16 + 1))[: size - empty]
    return json.dumps({"text": text}).encode(), text


@pytest.mark.code("input.invalid")
@pytest.mark.row("A4")
async def test_what_no_schema_can_say_is_found_in_the_worker_with_pointers(
    tmp_path: Path, supervisor: StartSupervisor
) -> None:
    server = await supervisor(pool(tmp_path))
    spans = [{"start": 0, "end": 2}, {"start": 5, "end": 3}]
    story = await run(server, "cut", text="abcdef", spans=spans, key={"base64": "?"})
    assert (story.state, story.code) == ("failed", "input.invalid")
    assert story.error["faults"] == [
        {"in": "input", "pointer": "/spans/1", "message": "must not end before it starts"},
        {"in": "input", "pointer": "/key/base64", "message": "is not base64: Only base64 data is allowed"},
    ]
    assert "started" not in story.names
    story = await run(server, "cut", text="abcdef", spans=spans[:1], key={"base64": "AAA="})
    assert story.end["result"] == ["ab", 2]
    many = await run(server, "cut", text="", spans=[None] * 500)
    assert len(many.error["faults"]) == 100 and many.error["message"].endswith("; and 490 more")


async def one_idle(server: Supervisor) -> int:
    """Wait until there is one idle worker, the only one; return its pid."""

    async def look() -> int | Pending:
        workers = await server.workers()
        return (workers[0].pid or 0) if [worker.state for worker in workers] == ["idle"] else Pending(workers)

    return await until_async(look, "one worker is idle")


def open_inputs() -> int:
    return sum("killable-input" in target for target in processes.open_descriptors().values())


@pytest.mark.row("H3")
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
async def test_inputs_of_every_size_arrive(
    tmp_path: Path, start_method: Literal["fork", "spawn"], supervisor: StartSupervisor
) -> None:
    server = await supervisor(pool(tmp_path, start_method=start_method, jobs_per_worker_max=0))
    for size in (20, 60_000, MIB - 1, MIB, MIB + 1, 16 * MIB):
        payload, text = payload_of(size)
        assert len(payload) == size
        record = await server.wait((await server.submit(Submission("digest", payload))).job_id)
        assert record.state == "completed", record.error
        assert record.result is not None
        length, digest, memory_files, _ = json.loads(record.result)
        assert (length, digest) == (len(text), hashlib.sha256(text.encode()).hexdigest())
        assert memory_files == 0  # the job has no way to it
        assert open_inputs() == 0  # nor is it kept with the job's record


async def test_a_large_input_of_python_objects_arrives(tmp_path: Path, supervisor: StartSupervisor) -> None:
    (tmp_path / "pickled.py").write_text(
        "from killable import job\n@job(codec='pickle')\ndef count(raw) -> int:\n    return len(raw), raw[-1]\n"
    )
    server = await supervisor(PoolSpec("p", (str(tmp_path / "pickled.py"),), workers=1, spares=0, codec="pickle"))
    payload = pickled({"raw": b"x" * 3 * MIB + b"y"}).to_bytes()
    record = await server.wait((await server.submit(Submission("count", payload))).job_id)
    assert record.result is not None and loads(record.result) == (3 * MIB + 1, ord("y"))


@pytest.mark.row("PEERS-E")
@pytest.mark.row("D22")
@pytest.mark.parametrize("size", [MIB, 16 * MIB])
async def test_a_worker_that_does_not_read_its_input_is_killed_and_holds_up_nobody(
    tmp_path: Path, size: int, supervisor: StartSupervisor
) -> None:
    server = await supervisor(pool(tmp_path))
    stopped = await one_idle(server)
    os.kill(stopped, signal.SIGSTOP)
    submitted = await server.submit(Submission("digest", payload_of(size)[0]))
    assert await pid_of(server, submitted.job_id) == stopped
    for _ in range(3):
        assert (await run(server, "digest", text="another")).state == "completed"
    story = await stop(server, submitted.job_id, grace_s=0)
    assert story.pid == stopped and "started" not in story.names
    assert open_inputs() == 0


@pytest.mark.row("PEERS-14")
@pytest.mark.row("D20")
@pytest.mark.parametrize("size", [MIB, 16 * MIB])
async def test_a_worker_that_is_killed_between_the_order_and_its_reading(
    tmp_path: Path, size: int, supervisor: StartSupervisor
) -> None:
    server = await supervisor(pool(tmp_path))
    pid = await one_idle(server)
    os.kill(pid, signal.SIGSTOP)
    submitted = await server.submit(Submission("digest", payload_of(size)[0]))
    assert await pid_of(server, submitted.job_id) == pid
    os.kill(pid, signal.SIGKILL)
    story = await follow(server, submitted.job_id)
    assert story.code == "killed_externally"
    assert open_inputs() == 0
    assert (await run(server, "digest", text="the next")).state == "completed"


async def test_a_queued_input_lies_in_one_memory_file_and_goes_with_its_job(
    tmp_path: Path, supervisor: StartSupervisor
) -> None:
    server = await supervisor(pool(tmp_path, workers=1))
    os.kill(await one_idle(server), signal.SIGSTOP)
    running = await server.submit(Submission("digest", b'{"text": ""}'))
    queued = [await server.submit(Submission("digest", payload_of(2 * MIB)[0])) for _ in range(3)]
    assert open_inputs() == 3
    with pytest.raises(Refused, match="no job type"):
        await server.submit(Submission("nothing", payload_of(2 * MIB)[0]))
    assert open_inputs() == 3  # what was refused keeps nothing
    for record in queued:
        await stop(server, record.job_id)
    assert open_inputs() == 0
    await stop(server, running.job_id, grace_s=0)


async def test_a_job_cannot_talk_back_through_its_orders(tmp_path: Path, supervisor: StartSupervisor) -> None:
    """What it wrote would stay unread, and make of the orders' end a reset that looks like a fault of the worker."""
    server = await supervisor(pool(tmp_path))
    assert (await run(server, "write_orders")).end["result"] == "Broken pipe"


@pytest.mark.row("B10")
async def test_after_a_hundred_large_inputs_nothing_is_left_open(tmp_path: Path, supervisor: StartSupervisor) -> None:
    server = await supervisor(pool(tmp_path, workers=1, spares=0, jobs_per_worker_max=0))
    payload, _ = payload_of(MIB + 1)
    before, in_worker = -1, set()
    for number in range(100):
        record = await server.wait((await server.submit(Submission("digest", payload))).job_id)
        assert record.result is not None
        in_worker.add(json.loads(record.result)[3])
        if number == 4:
            before = len(processes.open_descriptors())
    assert len(in_worker) == 1, in_worker
    assert len(processes.open_descriptors()) == before


@pytest.mark.row("B10")
async def test_a_worker_whose_job_left_no_descriptors(tmp_path: Path, supervisor: StartSupervisor) -> None:
    server = await supervisor(pool(tmp_path, workers=1, spares=0, jobs_per_worker_max=0))
    # One is enough to go on, and for a large input: it is copied where it cannot be mapped.
    first = await run(server, "fill_descriptors", but=1)
    assert (await run(server, "digest", text="small")).pid == first.pid
    large = await run(server, "digest", text="x" * 2 * MIB)
    assert (large.pid, large.state) == (first.pid, "completed")
    # With none it says that it cannot go on, and the next job has another.
    second = await run(server, "fill_descriptors", but=0)
    assert second.pid == first.pid and second.state == "completed"
    third = await run(server, "digest", text="x" * 2 * MIB)
    assert third.pid != first.pid and third.state == "completed"
