"""What a worker's group of cgroup v2 bounds, where the memory and pids controllers are on it.

Where they are not, a folder of plain files that have the kernel's names stands in its place: what is written there is
read, and what the kernel would write is written by the test. The processes are real.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from job_runs import Reports, follow, hostile_pool, open_spawner, submit, wait_for_tokens
from support.engines import number_of
from support.supervisor_fixture import NEEDS_CGROUPS, StartSupervisor
from support.waiting import Pending, until_async

from killable.supervisor.linux import cgroup
from killable.supervisor.linux import spawner as spawner_module
from killable.supervisor.linux.cgroup import Cgroup, find_root
from killable.supervisor.linux.oom_counter import own_limit_struck
from killable.supervisor.linux.orphan_cleanup import _groups_of
from killable.workers.authoring.limits_and_caps import NO_CAPS
from killable.workers.headroom_over_limits import TASKS_SPARE, hard_limit_bytes
from killable.workers.protocol import fd_passing
from killable.workers.protocol.messages import Kind

MIB = 1 << 20
USED = 5_000_000
"""What the group of a worker holds before its job."""
BOUNDED = {"memory_bytes": 512 * MIB, "processes_max": 5, "threads_max": 9}
UNBOUNDED = {"memory_bytes": None, "processes_max": None, "threads_max": None}
AT_BIRTH = {
    "cgroup.procs": "", "cgroup.kill": "", "cgroup.events": "populated 0\nfrozen 0\n", "cgroup.subtree_control": "",
    "memory.current": f"{USED}\n", "memory.max": "max\n", "memory.swap.max": "max\n", "memory.oom.group": "0\n",
    "memory.events": "low 0\nhigh 0\nmax 0\noom 3\noom_kill 2\noom_group_kill 0\n", "pids.max": "max\n",
}  # fmt: skip
"""It has been short of memory before: what counts is what is added."""
BOUNDS = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max")
OPEN = {"memory.max": "max", "memory.swap.max": "max", "memory.oom.group": "0", "pids.max": "max"}


class KernelsFolder(type(Path())):  # type: ignore[misc]
    """A directory that is full when it is made, and what is below it; a `subtree_control` takes one after the other."""

    controllers = "cpu memory pids"

    def mkdir(self, *arguments: Any, **options: Any) -> None:
        super().mkdir(*arguments, **options)
        for name, text in {**AT_BIRTH, "cgroup.controllers": self.controllers}.items():
            Path(self, name).write_text(text)

    def write_text(self, data: str, *arguments: Any, **options: Any) -> int:
        before = self.read_text().split() if self.name == "cgroup.subtree_control" else []
        assert not before or data[0] == "+", data
        told = " ".join([*before, data.removeprefix("+")]) if self.name == "cgroup.subtree_control" else data
        return int(super().write_text(told, *arguments, **options))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that stands for this process's own group."""
    folder = KernelsFolder(tmp_path) / "own"
    folder.mkdir()
    monkeypatch.setattr(cgroup, "own_directory", lambda: folder)
    return Path(folder)


def bounds(group: Path) -> dict[str, str]:
    return {name: (group / name).read_text().strip() for name in BOUNDS}


@pytest.mark.parametrize("controllers", ["cpu memory pids", "memory", "pids", "cpu"])
def test_a_group_is_bounded_by_the_controllers_that_are_handed_on(
    controllers: str, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KernelsFolder, "controllers", controllers)
    root = find_root("instance")
    assert root is not None
    ours = {"memory", "pids"} & set(controllers.split())
    assert set((root.path / "cgroup.subtree_control").read_text().split()) == ours
    group = root.create("w-1")
    path = Path(root.path / "w-1")
    try:
        assert group.memory_bytes() == (USED if "memory" in ours else None)
        group.bound(100 * MIB, 7)
        told = {"memory.max": f"{100 * MIB}", "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "7"}
        assert bounds(path) == {name: told[name] if name.partition(".")[0] in ours else OPEN[name] for name in BOUNDS}
        assert group.out_of_memory() == (AT_BIRTH["memory.events"].encode() if "memory" in ours else b"")
        group.bound(None, 7)
        assert bounds(path) == OPEN | ({"pids.max": "7"} if "pids" in ours else {})
        group.bound(None, None)
        assert bounds(path) == OPEN
    finally:
        group.remove()


@pytest.mark.parametrize("is_given", [True, False])
def test_groups_are_beside_the_server_s_where_a_manager_has_given_the_group_above(
    is_given: bool, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with systemd's DelegateSubgroup: there the controllers can be handed on, since no process is in that group."""
    for name in ("cgroup.procs", "cgroup.subtree_control"):
        (own.parent / name).write_text("")
    (own.parent / "cgroup.controllers").write_text("cpu memory pids")
    if is_given:
        os.setxattr(own.parent, "user.delegate", b"1")
    root = find_root("instance")
    assert root is not None
    assert (root.path.parent, root.own) == (own.parent if is_given else own, own)
    handed_on = (own.parent / "cgroup.subtree_control").read_text()
    assert set(handed_on.split()) == ({"memory", "pids"} if is_given else set())
    monkeypatch.setattr("killable.supervisor.linux.orphan_cleanup.own_directory", lambda: own)
    assert _groups_of(lambda owner: True) == [root.path], "the next start looks there"
    os.close(root.open_own_procs())


def kernel_strikes(group: Path, pid: int, **added: int) -> None:
    """Count what the kernel would, and kill one as it would."""
    counts = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
    text = "".join(f"{name} {int(number) + added.get(name, 0)}\n" for name, number in counts.items())
    (group / "memory.events").write_text(text)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.row("D19")
@pytest.mark.row("PEERS-G")
@pytest.mark.code("limit.memory", "killed_externally")
async def test_what_the_kernel_counts_in_a_workers_group_ends_the_job_by_its_limit(
    own: Path, supervisor: StartSupervisor
) -> None:
    """Through the real supervisor: the bounds of each job in turn in one worker, and whom its group's limit struck."""
    server = await supervisor(
        hostile_pool(workers=1, spares=0, jobs_per_worker_max=0), proof="cgroup+descendants", caps=NO_CAPS
    )

    async def running(limits: dict[str, Any]) -> tuple[str, int, Path]:
        job_id = await submit(server, "waits_for", limits=limits, gate=str(own / "gate"))
        await wait_for_tokens(server, job_id)
        (worker,) = [worker for worker in await server.workers() if worker.job_id == job_id]
        assert worker.pid is not None
        group = next(own.glob(f"killable-*/{number_of(worker.worker_id)}"))
        (group / "cgroup.procs").write_text(f"{worker.pid}\n")  # the worker has written 0, which means itself
        return job_id, worker.pid, group

    bounded = {
        "memory.max": f"{USED + hard_limit_bytes(512 * MIB)}", "memory.swap.max": "0", "memory.oom.group": "1",
        "pids.max": f"{9 + TASKS_SPARE}",
    }  # fmt: skip
    first, _, group = await running(BOUNDED)
    assert bounds(group) == bounded
    (own / "gate").touch()
    assert (await follow(server, first)).state == "completed"
    assert bounds(group) == OPEN, "who has no limits is given the worker perhaps without a word"
    (own / "gate").unlink()
    second, pid, again = await running(UNBOUNDED)
    assert again == group and bounds(group) == OPEN, "the next job's, in the same worker"
    kernel_strikes(group, pid, oom_kill=1)
    error = (await follow(server, second)).error
    assert (error["code"], error["signal"]) == ("killed_externally", "SIGKILL"), "a victim, but not of its own limit"
    third, pid, group = await running(BOUNDED)
    kernel_strikes(group, pid, oom=1, oom_kill=1)
    story = await follow(server, third)
    assert (story.code, story.error["signal"]) == ("limit.memory", "SIGKILL"), story.error
    assert "the kernel killed its cgroup" in story.error["message"] and "term_sent" not in story.phases


def descriptor_of(file: Path) -> int:
    """Return this process's descriptor of a file."""
    listed = [int(name) for name in os.listdir("/proc/self/fd")]
    (found,) = [each for each in listed if os.path.realpath(f"/proc/self/fd/{each}") == str(file)]
    return found


async def test_a_kill_and_its_word_do_not_wait_for_the_kernels_lock_of_groups(
    own: Path, supervisor: StartSupervisor
) -> None:
    """The kernel holds up each write and rmdir while a process joins a group. A pipe that is full stands for that."""
    server = await supervisor(hostile_pool(workers=2, spares=0), proof="cgroup+descendants")
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        with suppress(BlockingIOError):
            while os.write(writing, bytes(4096)):
                pass
        os.set_blocking(writing, True)
        first = await submit(server, "waits_for", gate=str(own / "gate"))
        other = await submit(server, "waits_for", gate=str(own / "gate"))
        for job_id in (first, other):
            await wait_for_tokens(server, job_id)
        groups = {
            worker.job_id: next(own.glob(f"killable-*/{number_of(worker.worker_id)}"))
            for worker in await server.workers()
        }
        os.dup2(writing, descriptor_of(groups[first] / "cgroup.kill"), inheritable=False)

        assert (await server.cancel(first, grace_s=0)).state == "cancelled"
        assert (await server.cancel(other, grace_s=0)).state == "cancelled", "nor does the next one"
        assert (groups[other] / "cgroup.kill").read_text() == "", "groups are killed in their order, behind both"
    finally:
        os.close(writing)
        os.close(reading)  # the write that waits fails


async def test_a_worker_moves_into_its_group_when_all_else_of_its_start_is_done(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel holds the move up, and gets ready meanwhile. Another pipe that is full stands for that."""
    monkeypatch.setattr(spawner_module, "PREPARED_S", 3600.0)
    async with open_spawner(hostile_pool(), reports := Reports(), proof="cgroup+descendants") as spawner:
        spawner.prepare("w-1")
        group = await until_async(lambda: next(own.glob("killable-*/w-1/cgroup.events"), None), "its group is made")
        procs = group.with_name("cgroup.procs")
        procs.unlink()
        os.mkfifo(procs)
        reading = os.open(procs, os.O_RDONLY | os.O_NONBLOCK)
        writing = os.open(procs, os.O_WRONLY | os.O_NONBLOCK)
        try:
            with suppress(BlockingIOError):
                while os.write(writing, bytes(4096)):
                    pass
            os.set_blocking(writing, True)
            process = spawner.fork("w-1", reports)
            await until_async(lambda: process.pid, "it is forked")
            title = Path(f"/proc/{process.pid}/cmdline")
            await until_async(lambda: b"worker w-1" in title.read_bytes() or Pending(title.read_bytes()), "it starts")
            assert reports.frames == [], "it is ready only when it is in its group"
            os.set_blocking(reading, True)
            while b"0" not in os.read(reading, 4096):
                pass
            await until_async(lambda: [frame.kind for frame in reports.frames] == [Kind.READY], "it is ready")
        finally:
            os.close(writing)
            os.close(reading)


# ── the kernel's ──


@NEEDS_CGROUPS
async def test_a_worker_that_is_prepared_gets_the_group_whose_move_its_guard_hastens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hastened: list[Path] = []
    send = fd_passing.send

    def send_and_tell(sock: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        if message["op"] == "HastenMove":
            hastened.append(Path(os.readlink(f"/proc/self/fd/{descriptors[1]}")).parent)
        send(sock, message, descriptors)

    monkeypatch.setattr(fd_passing, "send", send_and_tell)
    async with open_spawner(hostile_pool(), reports := Reports(), proof="cgroup+descendants") as spawner:
        monkeypatch.setattr(spawner_module, "PREPARED_S", 3600.0)
        spawner.prepare("w-1")
        (group,) = await until_async(lambda: hastened, "its guard is asked")
        made = group.stat().st_ino
        process = spawner.fork("w-1", reports)
        await until_async(lambda: reports.frames, "it is ready")
        assert group.name == "w-1" and group.stat().st_ino == made
        assert str(process.pid) in (group / "cgroup.procs").read_text().split()

        monkeypatch.setattr(spawner_module, "PREPARED_S", 0.01)
        spawner.prepare("w-2")
        await until_async(lambda: len(hastened) == 2, "its guard is asked")
        await until_async(lambda: not hastened[1].exists(), "what nobody asks for is removed")
        spawner.prepare("w-3")
    assert not group.parent.exists(), "nor is it left at the end"


IN_THE_GROUP = """
import errno, os, sys
os.write(int(sys.argv[1]), b"0")
if sys.argv[2] == "memory":
    print(len(bytearray(b"1") * (256 << 20)))
children = []
try:
    while sys.argv[2] == "pids" and len(children) < 8:
        children.append(os.fork())
        if not children[-1]:
            os.read(0, 1), os._exit(0)
except OSError as error:
    print(len(children), errno.errorcode[error.errno])
for child in children:
    os.waitpid(child, 0)
"""


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A worker's group in which the kernel has both controllers."""
    root = find_root("tests")
    made = None if root is None else root.create("w-1")
    try:
        missing = cgroup.CONTROLLERS if root is None else cgroup.CONTROLLERS - root._enabled()
        if made is None or missing:
            pytest.skip(f"cgroup v2 hands {' and '.join(sorted(missing))} on to no group of this process")
        yield made
    finally:
        if root is not None and made is not None:
            made.remove()
            root.remove()


def in_group(group: Cgroup, what: str) -> tuple[int, str]:
    """Run a process that moves itself in; return how it ended, and what it said."""
    procs = group.open_procs()
    try:
        command = [sys.executable, "-c", IN_THE_GROUP, str(procs), what]
        ran = subprocess.run(command, pass_fds=[procs], input="", stdout=subprocess.PIPE, text=True, timeout=240)
    finally:
        os.close(procs)
    return ran.returncode, ran.stdout.strip()


@pytest.mark.row("D19")
def test_the_kernel_holds_a_group_to_its_bounds(group: Cgroup) -> None:
    before = group.out_of_memory()
    assert in_group(group, "memory") == (0, str(256 << 20)) and group.out_of_memory() == before
    group.bound(64 * MIB, 3)
    assert in_group(group, "memory") == (-signal.SIGKILL, "")
    assert own_limit_struck(before, group.out_of_memory())
    assert in_group(group, "pids") == (0, f"2 {errno.errorcode[errno.EAGAIN]}")
    struck = group.out_of_memory()
    group.bound(None, None)
    assert in_group(group, "memory") == (0, str(256 << 20)) and not own_limit_struck(struck, group.out_of_memory())
    assert in_group(group, "pids") == (0, "")
