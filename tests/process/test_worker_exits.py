"""Every exit code of our own: a real exec'd worker, held by the test at all of its pipes; and what a job is told
whose worker ended so before the job function was entered.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from job_runs import Reports, open_spawner, run
from support import processes
from support.supervisor_fixture import StartSupervisor
from support.waiting import until_async

import killable.workers
from killable.supervisor.attempts.exit_outcome import Evidence, classify
from killable.supervisor.models import ExitStatus
from killable.supervisor.settings import PoolSpec
from killable.workers.exit_codes import MEANINGS, ExitCode
from killable.workers.protocol import token_ring
from killable.workers.protocol.frames import Decoder, encode
from killable.workers.protocol.messages import Kind, Run, Stop

FOLDER = Path(processes.__file__).parent.parent
DEADLINE_MS = 20_000
"""No worker takes so long to be ready or to end."""


class Worker:
    """A worker of which the test is both supervisor and zygote."""

    def __init__(self, tmp: Path, *modules: str, frames_open: bool = True, jobs_max: int = 1) -> None:
        self.orders, orders = socket.socketpair()
        self._line, line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.frames, frames = os.pipe()
        self.notifications, notifications = os.pipe()
        stack, tokens = os.memfd_create("stack"), token_ring.create()
        if not frames_open:
            os.close(self.frames)
        ours = (orders.fileno(), line.fileno(), frames, notifications, stack, tokens)
        # Above the numbers that are wanted, so that no dup2 closes one that is still needed.
        above = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 64) for descriptor in ours]
        actions = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(above, 3)]
        workers = str(Path(killable.workers.__file__).parent)
        public = str(Path(killable.__file__ or "").parent)
        configure = {
            "pool": "p", "modules": list(modules or ["support.cooperative_jobs"]), "folder": str(FOLDER),
            "start_method": "spawn", "codec": "json", "jobs_per_worker_max": jobs_max, "nice": 0, "tmp": str(tmp),
            "affinity": [], "core_dumps": False, "uid": None, "gid": None, "groups": [], "account_env": {}, "setup": "",
            "commands": [],
        }  # fmt: skip
        packages = {"killable": public, "killable.workers": workers}
        arguments = {"packages": packages, "configure": configure, "tmp": str(tmp), "cgroup_errno": 0}
        argv = [sys.executable, "-S", "-P", f"{workers}/processes/boot.py", "worker", json.dumps(arguments)]
        self.pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)
        self.pidfd = os.pidfd_open(self.pid)
        for descriptor in (frames, notifications, stack, tokens, *above):
            os.close(descriptor)
        orders.close()
        line.close()
        self._opened = [*([self.frames] if frames_open else []), self.notifications]
        self._decoder = Decoder()

    def hear(self, kind: Kind) -> None:
        """Wait for a frame of this kind."""
        while True:
            assert select.select([self.frames], [], [], DEADLINE_MS / 1000)[0], f"no {kind.name}"
            data = os.read(self.frames, 1 << 16)
            assert data, f"it ended before it said {kind.name}"
            if kind in {frame.kind for frame in self._decoder.feed(data)}:
                return

    def order(self, kind: Kind, payload: bytes, fence: int = 1) -> None:
        self.orders.sendall(encode(kind, fence, 0, payload))

    def exit_code(self) -> int:
        """Wait for its end; a signal is a negative number."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        assert poll.poll(DEADLINE_MS), f"it goes on: {processes.read_process(self.pid)}"
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.orders.close()
        self._line.close()
        for descriptor in (*self._opened, self.pidfd):
            os.close(descriptor)


Start = Callable[..., Worker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Worker] = []

    def one(*modules: str, **options: bool) -> Worker:
        started.append(Worker(tmp_path, *modules, **options))
        return started[-1]

    yield one
    for worker in started:
        worker.close()


def run_order(type: str, **input: object) -> bytes:
    return Run("job-1", type, 1, json.dumps(input).encode()).encode()


def write_module(folder: Path, body: str) -> str:
    path = folder / "its_job.py"
    path.write_text("import os, signal\nfrom killable import Context, job, preload\n" + body)
    return str(path)


def retires(start: Start, folder: Path) -> int:
    worker = start()
    worker.hear(Kind.READY)
    worker.orders.close()
    return worker.exit_code()


def bad_assignment(start: Start, folder: Path) -> int:
    worker = start()
    worker.hear(Kind.READY)
    worker.order(Kind.RUN, b"no order")
    return worker.exit_code()


def bad_payload(start: Start, folder: Path) -> int:
    worker = start(write_module(folder, "@job\ndef wants(blob: bytes) -> None: ...\n"))
    worker.hear(Kind.READY)
    worker.order(Kind.RUN, run_order("wants", blob={"base64": "?"}))
    return worker.exit_code()


def harness_bug(start: Start, folder: Path) -> int:
    """What is ours is broken: a preload has closed it."""
    body = "@preload(each_worker=True)\ndef closes() -> None:\n    os.closerange(3, 64)\n"
    return start(write_module(folder, body)).exit_code()


def pipe_gone(start: Start, folder: Path) -> int:
    return start(frames_open=False).exit_code()


def protocol(start: Start, folder: Path) -> int:
    worker = start()
    worker.hear(Kind.READY)
    worker.orders.sendall(b"\xff" * 64)
    return worker.exit_code()


def not_importable(start: Start, folder: Path) -> int:
    worker = start(write_module(folder, "import no_such_package_at_all\n"))
    worker.hear(Kind.BROKEN)
    return worker.exit_code()


def terminated(start: Start, folder: Path) -> int:
    worker = start(jobs_max=0)
    worker.hear(Kind.READY)
    worker.order(Kind.RUN, run_order("waits_for", gate=str(folder / "never")))
    worker.hear(Kind.TOKEN)
    worker.order(Kind.STOP, Stop("cancelled", "user", 60.0).encode())
    os.kill(worker.pid, signal.SIGTERM)  # not reaped: the number is its own
    return worker.exit_code()


MEANS: dict[ExitCode, tuple[Callable[[Start, Path], int], str]] = {
    ExitCode.RETIRED: (retires, "spawn"),
    ExitCode.BAD_ASSIGNMENT: (bad_assignment, "protocol"),
    ExitCode.BAD_PAYLOAD: (bad_payload, "protocol"),
    ExitCode.HARNESS_BUG: (harness_bug, "protocol"),
    ExitCode.PIPE_GONE: (pipe_gone, "worker_lost"),
    ExitCode.PROTOCOL: (protocol, "protocol"),
    ExitCode.NOT_IMPORTABLE: (not_importable, "spawn"),
    ExitCode.TERMINATED: (terminated, "spawn"),
}
"""How to have a worker end so, and what a job is told that was given to it and not entered.

65 and 143 come with a closing frame, which is what counts then; what stands here is for a worker that says nothing.
"""


@pytest.mark.row("B4")
@pytest.mark.parametrize("code", MEANS, ids=lambda code: code.name)
def test_a_worker_that_gives_up_says_why_by_its_exit_code(code: ExitCode, start: Start, tmp_path: Path) -> None:
    means, told = MEANS[code]
    assert means(start, tmp_path) == code
    outcome = classify(None, None, ExitStatus(exit_code=code), Evidence(entered=False))
    assert (outcome.code, outcome.facts["exit_code"]) == (told, code) and MEANINGS[code] in outcome.message


def test_each_of_our_exit_codes_is_reached() -> None:
    assert {*MEANS, ExitCode.OS_ERROR} == set(ExitCode)  # the one that only a forked worker has: below


def unconfinable(folder: Path) -> PoolSpec:
    """Return a pool whose fork is the leader of a session before we make it one: setsid(2) refuses."""
    body = "os.register_at_fork(after_in_child=os.setsid)\n@job\ndef works() -> None: ...\n"
    return PoolSpec("p", (write_module(folder, body),), workers=1)


def soon_without_interpreter(folder: Path) -> tuple[PoolSpec, Path]:
    """Return a pool of exec'd workers, and the interpreter that is to be removed before one is: the zygote runs on."""
    (python := folder / "python").symlink_to(sys.executable)
    module = write_module(folder, "@job\ndef works() -> None: ...\n")
    return PoolSpec("p", (module,), workers=1, spares=0, start_method="spawn", python=str(python)), python


@pytest.mark.row("B4")
@pytest.mark.code("spawn")
async def test_a_worker_that_cannot_be_confined_never_runs_a_job(tmp_path: Path, supervisor: StartSupervisor) -> None:
    server = await supervisor(unconfinable(tmp_path))
    story = await run(server, "works")
    assert (story.state, story.code, story.plot) == ("failed", "spawn", ["failed"])
    assert "cannot be confined" in story.error["message"] and story.error["errno"] == errno.EPERM


@pytest.mark.row("B4")
@pytest.mark.code("spawn")
async def test_a_worker_that_cannot_be_exec_d_says_why(tmp_path: Path, supervisor: StartSupervisor) -> None:
    pool, python = soon_without_interpreter(tmp_path)
    server = await supervisor(pool)
    python.unlink()
    story = await run(server, "works")
    assert (story.code, story.error["errno"]) == ("spawn", errno.ENOENT), story.error
    assert "cannot be exec'd" in story.error["message"]


@pytest.mark.row("B4")
@pytest.mark.parametrize("cannot_be", ["confined", "exec'd"])
async def test_a_worker_that_the_system_refuses_ends_with_the_code_for_that(cannot_be: str, tmp_path: Path) -> None:
    """Without a supervisor, where the zygote's report can be seen: a job is told the worker's own words."""
    pool, python = soon_without_interpreter(tmp_path)
    if cannot_be == "confined":
        pool = unconfinable(tmp_path)
    async with open_spawner(pool, reports := Reports()) as spawner:
        python.unlink()
        spawner.fork("w-1", reports)
        gone = await until_async(lambda: reports.gone, "it is gone")
    assert gone is not None and gone.ending is not None
    assert (gone.ending.exit_code, gone.ending.signal) == (ExitCode.OS_ERROR, None)
    (broken,) = reports.frames
    assert broken.kind == Kind.BROKEN and f"cannot be {cannot_be}" in broken.payload.decode()
