"""A pool's sandbox: what it forbids a job and all that a job starts, and that it forbids nothing else."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, Literal

import pytest
from job_runs import HOSTILE_POOL, run, stop, submit, wait_for_tokens
from support import confined_jobs
from support.supervisor_fixture import StartSupervisor

from killable.supervisor.linux.cgroup import own_directory
from killable.supervisor.settings import PoolSpec, SandboxSpec
from killable.supervisor.supervisor import Supervisor
from killable.workers.runtime import landlock, private_memory
from killable.workers.runtime.sandbox import why_no_file_rules, why_no_network_rule

FOLDER = str(HOSTILE_POOL["folder"])
NEEDS_NETWORK_RULE = pytest.mark.skipif(bool(why_no_network_rule()), reason=why_no_network_rule())
NEEDS_PRIVATE_MEMORY = pytest.mark.skipif(bool(private_memory.why_not()), reason=private_memory.why_not())
NEEDS_FILE_RULES = pytest.mark.skipif(bool(why_no_file_rules()), reason=why_no_file_rules())
StartMethod = Literal["fork", "spawn"]
BOTH = pytest.mark.parametrize("start_method", ["fork", "spawn"])
HOW = ("itself", "forked", "execed")


def pool(name: str = "confined", start_method: StartMethod = "fork", **rules: Any) -> PoolSpec:
    return PoolSpec(
        name, ("support.confined_jobs",), workers=1, spares=0, jobs_per_worker_max=0, folder=FOLDER,
        start_method=start_method, sandbox=SandboxSpec(**rules),
    )  # fmt: skip


async def tried(server: Supervisor, *operations: tuple[str, ...], how: str = "itself") -> dict[str, str]:
    story = await run(server, "tries", operations=list(map(list, operations)), how=how)
    assert story.state == "completed", story.error
    result: dict[str, str] = story.end["result"]
    return result


@pytest.fixture
def port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield str(listener.getsockname()[1])


@pytest.fixture
def datagrams(tmp_path: Path) -> Iterator[str]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "datagrams"))
        yield str(tmp_path / "datagrams")


@NEEDS_NETWORK_RULE
@BOTH
async def test_without_network_there_is_no_socket_and_no_way_to_anothers(
    start_method: StartMethod, supervisor: StartSupervisor, port: str, datagrams: str
) -> None:
    me = str(os.getpid())
    network = (
        ("connect", port),
        ("udp",),
        ("unix",),
        ("datagram", datagrams),
        ("other_pair",),
        ("io_uring",),
        ("trace", me),
    )
    server = await supervisor(pool(start_method=start_method, network=False))
    for how in HOW:
        assert set((await tried(server, *network, how=how)).values()) == {"PermissionError"}
    assert await tried(server, ("pair",), ("loop",), ("temporary",)) == dict.fromkeys(
        ("pair", "loop", "temporary"), "done"
    )


@NEEDS_FILE_RULES
@BOTH
async def test_what_is_not_listed_is_not_written(
    start_method: StartMethod, supervisor: StartSupervisor, tmp_path: Path, port: str
) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    other.write_text("theirs")
    (out / "old").write_text("old")
    server = await supervisor(pool(start_method=start_method, write=(str(out),)))
    for how in HOW:
        forbidden = await tried(
            server,
            ("write", f"{tmp_path}/new"),
            ("append", str(other)),
            ("truncate", str(other)),
            ("remove", str(other)),
            ("rename", str(other), f"{out}/moved"),
            ("link", str(other), f"{out}/linked"),
            ("symlink", f"{tmp_path}/symlink"),
            ("mkdir", f"{tmp_path}/folder"),
            how=how,
        )
        assert set(forbidden.values()) <= {"PermissionError", "OSError"} and len(forbidden) == 8, forbidden
        allowed = await tried(
            server,
            ("write", f"{out}/new"),
            ("mkdir", f"{out}/{how}"),
            ("remove", f"{out}/new"),
            ("truncate", f"{out}/old"),
            ("temporary",),
            ("append", "/dev/null"),
            ("read", str(other)),
            ("connect", port),
            how=how,
        )
        assert set(allowed.values()) == {"done"}, allowed
    assert other.read_text() == "theirs" and sorted(os.listdir(tmp_path)) == ["other", "out"]


@NEEDS_FILE_RULES
@BOTH
async def test_what_is_not_listed_is_not_read(
    start_method: StartMethod, supervisor: StartSupervisor, tmp_path: Path
) -> None:
    shown, hidden = tmp_path / "shown", tmp_path / "hidden"
    for folder in (shown, hidden):
        folder.mkdir()
        (folder / "file").write_text("#!/bin/sh\n")
        (folder / "file").chmod(0o755)
    server = await supervisor(pool(start_method=start_method, read=(str(shown),)))
    me = os.getpid()
    keys = f"{FOLDER}/conftest.py"  # whatever lies beside the modules
    for how in HOW:
        forbidden = await tried(
            server, ("read", f"{hidden}/file"), ("list", str(hidden)), ("exec", f"{hidden}/file"), how=how
        )
        assert await tried(server, ("read", keys), how=how) == {"read": "PermissionError"}
        assert set(forbidden.values()) == {"PermissionError"}, forbidden
        allowed = await tried(
            server, ("read", f"{shown}/file"), ("list", str(shown)), ("exec", f"{shown}/file"), ("import", "colorsys"),
            how=how,
        )  # fmt: skip
        assert set(allowed.values()) == {"done"}, allowed
    secrets = await tried(server, ("read", f"/proc/{me}/environ"), ("trace", str(me)))
    assert set(secrets.values()) == {"PermissionError"}, secrets


@NEEDS_FILE_RULES
@pytest.mark.skipif(landlock.abi() < 6, reason="before Linux 6.12 Landlock does not concern signals")
async def test_a_job_in_a_sandbox_signals_only_its_own_and_root_has_no_privileges_left(
    supervisor: StartSupervisor,
) -> None:
    server = await supervisor(pool(write=()))
    assert await tried(server, ("signal", str(os.getpid())), ("mkdir", "/sandbox-test")) == {
        "signal": "PermissionError", "mkdir": "PermissionError",
    }  # fmt: skip
    assert (await run(server, "capabilities")).end["result"] == "0" * 16


@NEEDS_FILE_RULES
@NEEDS_NETWORK_RULE
@pytest.mark.parametrize("rules", [{"write": ()}, {"network": False}], ids=str)
async def test_a_job_in_a_sandbox_sets_limits_of_its_own_only(rules: Any, supervisor: StartSupervisor) -> None:
    """RLIMIT_CPU of the server would end it, RLIMIT_NOFILE would have it stand still; at the lowest priority it would
    kill late.
    """
    server = await supervisor(pool(**rules))
    here = str(os.getpid())
    for how in HOW:
        others = [("limit", here), ("schedule", here), ("priority", here), ("input and output", here)]
        others += [("all priorities",)]
        assert set((await tried(server, *others, how=how)).values()) == {"PermissionError"}
        own = [("limit itself",), ("schedule itself",), ("priority itself",), ("input and output itself",)]
        assert set((await tried(server, *own, how=how)).values()) == {"done"}


@NEEDS_FILE_RULES
@NEEDS_NETWORK_RULE
@pytest.mark.parametrize("rules", [{"network": False}, {"read": ("/proc", "/sys", "/tmp")}], ids=str)
async def test_a_job_in_a_sandbox_writes_to_nothing_of_the_kernel_and_where_it_may_otherwise(
    rules: Any, supervisor: StartSupervisor, tmp_path: Path
) -> None:
    """Who may write into a control group moves a process into it that he may not signal, and kills the group."""
    server = await supervisor(pool(**rules))
    groups = own_directory()
    kernels = [("append", "/proc/self/oom_score_adj"), ("append", "/proc/sys/kernel/core_pattern")]
    kernels += [("mkdir", f"{groups}/sandbox-test")] if groups is not None else []
    kernels += [("append", f"{groups}/cgroup.procs")] if groups is not None else []
    assert [(await tried(server, each))[each[0]] for each in kernels] == ["PermissionError"] * len(kernels)
    free = await tried(server, ("write", f"{tmp_path}/new"), ("append", "/dev/null"), ("mkdir", f"{tmp_path}/folder"))
    assert set(free.values()) == {"done"}, free
    moved = await tried(server, ("rename", f"{tmp_path}/new", f"{tmp_path}/folder/moved"))
    assert moved == {"rename": "done"}


@NEEDS_FILE_RULES
@NEEDS_NETWORK_RULE
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start workers as another user")
async def test_a_sandbox_and_a_user_of_its_own(supervisor: StartSupervisor) -> None:
    rules = SandboxSpec(network=False, write=())
    server = await supervisor(PoolSpec("both", ("support.confined_jobs",), folder=FOLDER, user="nobody", sandbox=rules))
    assert await tried(server, ("udp",), ("write", "/tmp/sandbox-test"), ("temporary",)) == {
        "udp": "PermissionError", "write": "PermissionError", "temporary": "done",
    }  # fmt: skip


@NEEDS_PRIVATE_MEMORY
@BOTH
async def test_shared_memory_of_its_own_is_gone_with_the_worker_whoever_made_it(
    start_method: StartMethod, supervisor: StartSupervisor
) -> None:
    """Also what no log of names could tell; and a job finds nothing of other programs there."""
    segment = SharedMemory(create=True, size=1000)
    try:
        server = await supervisor(pool(start_method=start_method, shared_memory=False, write=()))
        assert await tried(server, ("segment", segment.name), ("system v", "0")) == {
            "segment": "FileNotFoundError", "system v": "OSError",
        }  # fmt: skip
        job_id = await submit(server, "leaves_private_memory")
        assert await wait_for_tokens(server, job_id) == ["0 ['killable-test-left']"]
        assert not Path("/dev/shm/killable-test-left").exists()
        keys = [int(line.split()[0]) for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
        assert 0x6B6C not in keys
        story = await stop(server, job_id, grace_s=0)
        assert story.code == "cancelled"
        assert await tried(server, ("list", "/dev/shm")) == {"list": "done"}
    finally:
        segment.close()
        segment.unlink()


@NEEDS_FILE_RULES
async def test_a_job_has_nothing_removed_that_it_may_not_remove(supervisor: StartSupervisor, tmp_path: Path) -> None:
    """Through the log of what it has left: the server removes that, and is in no sandbox."""
    segment = SharedMemory(create=True, size=1000)
    claim = f"REGISTER:/{segment.name}:shared_memory\nSINCE:0\n"
    try:
        rules = SandboxSpec(write=(str(tmp_path),))
        server = await supervisor(PoolSpec("confined", ("support.memory_jobs",), folder=FOLDER, sandbox=rules))
        story = await run(server, "writes_into_the_log", text=claim)
        assert story.state == "completed"
        await server.close(0.0)
        assert Path("/dev/shm", segment.name).exists()
    finally:
        segment.close()
        segment.unlink()


async def test_without_a_sandbox_nothing_is_forbidden_and_the_pools_record_says_what_is(
    supervisor: StartSupervisor, port: str, tmp_path: Path
) -> None:
    assert confined_jobs.__file__.startswith(FOLDER)
    server = await supervisor(pool("open"))
    assert [record.sandbox for record in await server.pools()] == [""]
    free = await tried(server, ("connect", port), ("write", f"{tmp_path}/new"), ("signal", str(os.getpid())))
    assert set(free.values()) == {"done"}
    rules = SandboxSpec(network=False, write=("/a", "/b"), read=())
    assert str(rules) == "no network; writes /a, /b only; reads nothing"


@NEEDS_FILE_RULES
async def test_a_worker_that_cannot_enter_its_sandbox_runs_no_job(supervisor: StartSupervisor, tmp_path: Path) -> None:
    server = await supervisor(pool(write=(str(tmp_path / "gone"),)))
    story = await run(server, "capabilities", limits={"start_s": 60})
    assert (story.state, story.code) == ("failed", "spawn"), story.error
    assert "the worker cannot be confined" in story.error["message"] and "gone" in story.error["message"]
