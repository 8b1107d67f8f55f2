"""What a job may take: memory, processor time, processes and files, through the real watch and the kernel's limits."""

from __future__ import annotations

import grp
import json
import os
import pwd
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from job_runs import HOSTILE_POOL, follow, hostile_pool, run, stop, submit, wait_for_tokens
from support import cgroup_v1, processes
from support.engines import pid_of, until_warm
from support.supervisor_fixture import StartSupervisor
from support.waiting import Pending, until, until_async

import killable
from killable.supervisor.attempts.resource_monitor import ResourceMonitor
from killable.supervisor.linux.procfs import memory
from killable.supervisor.settings import PoolSpec
from killable.workers.authoring.limits_and_caps import NO_CAPS
from killable.workers.authoring.units import size
from killable.workers.headroom_over_limits import TASKS_SPARE, hard_limit_bytes

MIB = 1 << 20
GRACE_S = 0.2
"""For what does not hear SIGTERM; nothing else needs it."""
OWN_BYTES = 48 * MIB
"""More than a worker of these tests has before its job, and files that it maps."""
CEILING = 300
"""Of the fork bombs, should nothing end them: the machine has to live through a test that fails."""


def gluttons(**changes: Any) -> PoolSpec:
    members: dict[str, Any] = {
        **HOSTILE_POOL,
        "modules": ("support.resource_hungry_jobs",),
        "workers": 2,
        "spares": 1,
        **changes,
    }
    return PoolSpec("gluttons", **members)


pytestmark = pytest.mark.asyncio(loop_scope="module")
SHARED_POOL = gluttons(workers=1, spares=0)


@pytest.fixture
def supervisor(shared_or_own_supervisor: StartSupervisor) -> StartSupervisor:
    return shared_or_own_supervisor


@dataclass(frozen=True)
class Excess:
    type: str
    code: str
    limits: dict[str, Any]
    input: dict[str, Any] = field(default_factory=dict)
    said: str = "in"
    """A token: `finally` of one that was told to end, and cleaned up."""


EXCESSES = [
    Excess("grows", "limit.memory", {"memory_bytes": 48 * MIB}, {}, "finally"),
    Excess("grows", "limit.memory", {"memory_bytes": 48 * MIB, "grace_s": GRACE_S}, {"stubborn": True}),
    Excess(
        "grows_in_children", "limit.memory", {"memory_bytes": 64 * MIB}, {"children": 3, "mib": 4, "ceiling_mib": 48}
    ),
    Excess("burns", "limit.cpu", {"cpu_s": 0.1, "grace_s": GRACE_S}, {"how": "native"}),
    Excess("burns", "limit.cpu", {"cpu_s": 0.1}, {"how": "threads"}),
    Excess("burns", "limit.cpu", {"cpu_s": 0.1}, {"how": "child"}),
    Excess("burns", "limit.cpu", {"cpu_s": 0.1}, {"how": "children"}),
    Excess("forks", "limit.processes", {"processes_max": 6}, {"children": 6}),
    Excess("forks", "limit.processes", {"processes_max": 6}, {"children": 20, "zombies": True}),
    Excess("shares", "limit.memory", {"memory_bytes": 48 * MIB}, {"how": "anonymous"}),
    Excess("shares", "limit.memory", {"memory_bytes": 48 * MIB}, {"how": "anonymous", "children": 3}),
    Excess("shares", "limit.memory", {"memory_bytes": 48 * MIB}, {"how": "posix"}),
    Excess("threads", "limit.threads", {"threads_max": 20}, {"number": 20}, "finally"),
    Excess("threads", "limit.threads", {"threads_max": 20}, {"number": 6, "children": 3}, "finally"),
    Excess("fills_tmp", "limit.tmp", {"tmp_bytes": MIB}, {}, "finally"),
    Excess("fills_tmp", "limit.tmp", {"tmp_bytes": MIB, "grace_s": 60}, {"stubborn": True}),
    Excess("bombs", "limit.processes", {"processes_max": 32, "grace_s": 60}, {"ceiling": CEILING}),
    Excess("bombs", "limit.processes", {"processes_max": 32, "grace_s": 60}, {"ceiling": CEILING, "sessions": True}),
]


@pytest.mark.row("D19")
@pytest.mark.row("D5")
@pytest.mark.row("PEERS-G")
@pytest.mark.code("limit.tmp", "limit.threads")
async def test_who_takes_too_much_ends_by_that_limit_and_leaves_nothing(
    proof: str, supervisor: StartSupervisor
) -> None:
    """Measured over the whole tree, with a grace for those that stop at it, and none for those that go on."""
    server = await supervisor(gluttons(), proof=proof)
    for case in EXCESSES:
        story = await run(server, case.type, limits=case.limits, **case.input)
        assert (story.state, story.code) == ("failed", case.code), (case, story.error)
        assert case.said in story.tokens, (case, story.tokens)
        error = story.error
        (name,) = case.limits.keys() - {"grace_s"}
        assert (error["limit"], error["by"]) == (name, "supervisor"), case
        measured = error.get("measured_bytes") or error.get("measured_s") or error[name.removesuffix("_max")]
        assert measured >= case.limits[name], (case, error)
        bound = size(case.limits[name]) if name.endswith("_bytes") else str(case.limits[name])
        assert bound in error["message"] and "term_sent" in story.phases, case
        if case.type == "grows":  # and in its grace it went no further
            assert story.certificate["max_rss_bytes"] < hard_limit_bytes(48 * MIB) + OWN_BYTES


async def test_a_thousand_threads_are_too_many_and_pools_of_twice_the_processors_are_not(
    proof: str, supervisor: StartSupervisor
) -> None:
    server = await supervisor(gluttons(workers=1, spares=0), proof=proof)
    assert (await run(server, "threads", number=2 * (os.cpu_count() or 1), then="return")).state == "completed"
    story = await run(server, "threads", number=1000)
    assert (story.code, story.error["limit_threads"]) == ("limit.threads", 1000), story.error
    assert "finally" in story.tokens


async def test_the_dead_do_not_count_as_processes(proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(gluttons(workers=1, spares=0), proof=proof)
    story = await run(server, "hoards_zombies", limits={"processes_max": 6}, children=9)
    assert story.state == "completed", story.error


async def test_shared_memory_that_several_have_mapped_counts_once(proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(gluttons(workers=1, spares=0), proof=proof)
    story = await run(server, "shares_little", limits={"memory_bytes": 96 * MIB}, mib=48, children=4)
    assert story.state == "completed", story.error


async def test_what_forks_share_counts_once(proof: str, supervisor: StartSupervisor) -> None:
    """The sum over the processes is four times the limit: only the proof shows that they hold less than it."""
    server = await supervisor(gluttons(workers=1, spares=0), proof=proof)
    story = await run(server, "shares_with_children", limits={"memory_bytes": 96 * MIB}, children=5, mib=64)
    assert story.state == "completed", story.error


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process, and with it the supervisor, open nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.row("D19")
@pytest.mark.parametrize("reused", [False, True], ids=["fresh", "reused"])
async def test_what_a_job_takes_while_the_supervisor_is_held_up_counts(
    reused: bool, supervisor: StartSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands right behind the order, until the job has all that it will take, and looks at it only then."""
    server = await supervisor(gluttons(workers=1, spares=0, jobs_per_worker_max=0))
    if reused:
        assert (await run(server, "uses_cpu", seconds=0.0)).state == "completed"
    begin = ResourceMonitor.begin

    def stand(watching: ResourceMonitor, ordered: float) -> None:
        until(lambda: ((taken := memory(watching._process.pid or 0)) and taken.private) > 80 * MIB, "has taken it")
        begin(watching, ordered)

    monkeypatch.setattr(ResourceMonitor, "begin", stand)
    story = await run(server, "sits_on", limits={"memory_bytes": 64 * MIB, "run_s": 60}, mib=80)
    assert story.code == "limit.memory", story.error


@pytest.mark.row("D19")
async def test_what_a_job_takes_while_nothing_can_be_read_counts_when_it_can(supervisor: StartSupervisor) -> None:
    """Its order goes out, and it grows, while the supervisor has no descriptor left."""
    server = await supervisor(gluttons(workers=1, spares=1))
    await until_warm(server)
    with no_descriptors():
        job_id = await submit(server, "sits_on", limits={"memory_bytes": 64 * MIB, "run_s": 60}, mib=80)
        await wait_for_tokens(server, job_id)
        assert memory(os.getpid()) is None
    story = await follow(server, job_id)
    assert story.code == "limit.memory", story.error


async def test_what_others_have_used_is_not_counted_where_nothing_could_be_read(
    supervisor: StartSupervisor, tmp_path: Path
) -> None:
    modules = ("support.resource_hungry_jobs", "support.cooperative_jobs")
    server = await supervisor(gluttons(modules=modules, workers=1, spares=0, jobs_per_worker_max=0))
    before = await run(server, "uses_cpu", seconds=2.0)
    gate = tmp_path / "gate"
    with no_descriptors():
        job_id = await submit(server, "waits_for", limits={"cpu_s": 1.5}, gate=str(gate))
        await wait_for_tokens(server, job_id)
    gate.touch()
    story = await follow(server, job_id)
    assert (story.state, story.pid) == ("completed", before.pid), story.error


async def test_a_reused_worker_is_measured_from_where_it_is(supervisor: StartSupervisor) -> None:
    server = await supervisor(gluttons(workers=1, spares=0, jobs_per_worker_max=0))
    used = [await run(server, "uses_cpu", limits={"cpu_s": 1.0}, seconds=0.3) for _ in range(4)]
    assert [story.state for story in used] == ["completed"] * 4
    assert len({story.pid for story in used}) == 1 and used[-1].end["result"] > 1.2
    for files, code in ((20, ""), (21, "limit.files"), (20, ""), (1000, "limit.files"), (20, "")):
        story = await run(server, "opens", limits={"files_max": 20}, files=files)
        assert story.code == code and story.pid == used[0].pid, (files, story.error)


async def test_the_kernel_bounds_each_process_too(supervisor: StartSupervisor) -> None:
    """Between two looks, and while the supervisor is held up. What was set for one job is lifted for the next."""
    server = await supervisor(gluttons(workers=1, spares=0, jobs_per_worker_max=0), caps=NO_CAPS)
    before = (await run(server, "tells_itself", limits={"memory_bytes": None, "processes_max": None})).end["result"]
    limits = {"memory_bytes": 64 * MIB, "cpu_s": 5, "files_max": 7, "processes_max": 9, "grace_s": 2}
    bounded = (await run(server, "tells_itself", limits=limits)).end["result"]
    after = (await run(server, "tells_itself", limits={"memory_bytes": None, "processes_max": None})).end["result"]
    assert after["rlimits"] == before["rlimits"]
    own = bounded["rlimits"]
    assert hard_limit_bytes(64 * MIB) < own["DATA"] < hard_limit_bytes(64 * MIB) + 512 * MIB
    assert 5 + 2 < own["CPU"] < 5 + 2 + 10
    assert own["NOFILE"] == bounded["open_files"] + 7
    assert own["NPROC"] == before["rlimits"]["NPROC"]  # it counts for a user, and root's has no bound

    stroke = await run(server, "allocates_at_one_stroke", limits={"memory_bytes": 64 * MIB}, mib=10_000)
    assert (stroke.code, stroke.error["type"]) == ("limit.memory", "MemoryError")


@pytest.mark.row("PEERS-G")
async def test_a_strangers_kill_just_below_the_limit_is_not_called_out_of_memory(supervisor: StartSupervisor) -> None:
    server = await supervisor(gluttons(workers=1, spares=0))
    job_id = await submit(server, "sits_on", limits={"memory_bytes": 200_000_000}, mib=180)
    await wait_for_tokens(server, job_id)
    pid = (await server.get(job_id)).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    story = await follow(server, job_id)
    assert (story.code, story.error["signal"]) == ("killed_externally", "SIGKILL")
    assert story.error["oom"] in ("no", "unknown")
    assert story.certificate["max_rss_bytes"] > 180 * MIB


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A memory cgroup (v1) in which 200 MB fit."""
    with cgroup_v1.group("memory", limit_in_bytes=200_000_000) as group:
        yield group


@pytest.mark.row("PEERS-G")
async def test_the_kernels_own_out_of_memory_kill_is_proven(memory_group: Path) -> None:
    """Supervisor and workers are in one group, whose memory the job fills before it comes to its own limit."""
    pool = {**HOSTILE_POOL, "modules": ("support.resource_hungry_jobs",), "workers": 1, "spares": 0}
    arguments = {"settings": {}, "pools": {"gluttons": pool}, "jobs": [["grows", {"mib": 8}, 99]]}
    program = str(Path(processes.__file__).parent / "owner_program.py")
    inside = f'echo $$ > "{memory_group}/cgroup.procs"; exec "$0" "$@"'
    command = ["sh", "-c", inside, sys.executable, program, json.dumps(arguments)]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=240, check=True)
    (record,) = json.loads(ran.stdout)["jobs"]
    error = record["error"]
    assert (record["state"], error["code"], error["signal"]) == ("failed", "killed_externally", "SIGKILL"), error
    assert error["oom"] == "yes"


STRANGER = 54321
"""A number that is in no database: no home, no group of its own, no other groups."""


@pytest.fixture
def other_groups() -> Iterator[None]:
    """The supervisor has supplementary groups, which are not its workers'."""
    before = os.getgroups()
    os.setgroups([*before, STRANGER + 1, STRANGER + 2])
    yield
    os.setgroups(before)


def interpreter_of(uid: int, start_method: str) -> str:
    """Return one that this user can exec; forked workers need none. Skip where there is none, or nothing to run."""

    def may(*test: str) -> bool:
        return subprocess.run(["test", *test], user=uid, group=uid).returncode == 0

    if start_method == "fork":
        return ""
    if not may("-r", killable.__file__):
        pytest.skip(f"user {uid} cannot read {killable.__file__}")
    if may("-x", sys.executable):
        return ""
    system = "/usr/bin/python3"
    if subprocess.run([system, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).returncode:
        pytest.skip(f"user {uid} can run neither {sys.executable} nor a {system} that is new enough")
    return system


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start workers as another user")
@pytest.mark.parametrize(
    ("user", "group", "start_method"),
    [
        ("nobody", "", "fork"),
        ("nobody", "daemon", "spawn"),
        ("", "daemon", "fork"),
        (STRANGER, STRANGER, "fork"),
    ],
    ids=["user", "both, spawn", "group", "numbers"],
)
async def test_workers_of_another_user_or_group(
    user: str | int,
    group: str | int,
    start_method: str,
    supervisor: StartSupervisor,
    other_groups: None,
    long_exit_waits: None,
) -> None:
    entry = None if user == STRANGER else pwd.getpwnam(str(user) or pwd.getpwuid(os.geteuid()).pw_name)
    uid, gid = (STRANGER, STRANGER) if entry is None else (entry.pw_uid, entry.pw_gid)
    gid = grp.getgrnam(group).gr_gid if isinstance(group, str) and group else gid
    processor = max(os.sched_getaffinity(0))
    python = interpreter_of(uid, start_method)
    kind = {"start_method": start_method, "python": python, "user": user, "group": group, "affinity": (processor,)}
    server = await supervisor(gluttons(workers=1, spares=0, jobs_per_worker_max=0, nice=9, **kind))
    first, second = [await run(server, "tells_itself", limits={"threads_max": 9}) for _ in range(2)]
    assert first.pid == second.pid  # its directory was removed by itself, closed folder and all
    for story in (first, second):
        told = story.end["result"]
        assert (told["uids"], told["gids"]) == ([uid] * 3, [gid] * 3)
        # setgroups(2) of what its entry says: nothing of the supervisor's is left.
        assert sorted(told["groups"]) == sorted([] if entry is None else os.getgrouplist(entry.pw_name, gid))
        assert told["home"] == (os.environ.get("HOME") if entry is None else entry.pw_dir)
        assert (told["death_signal"], told["dumpable"]) == (signal.SIGKILL, 1)
        assert (told["tmp_owner"], told["file_owner"]) == (uid, [uid, gid])
        assert (told["nice"], told["processors"]) == (min(os.nice(0) + 9, 19), [processor])
        assert told["rlimits"]["NPROC"] == 9 + TASKS_SPARE
        assert story.lines == ["printed through /dev/stdout"]
        assert not Path(told["tmp"]).exists()
    for grace_s in (0, 60):
        job_id = await submit(server, "forks", children=2, limits={"grace_s": 60})
        await wait_for_tokens(server, job_id, 2)  # the second one when both are there
        ended = await stop(server, job_id, grace_s=grace_s)
        assert ended.certificate["processes_swept"] == 2
        assert ("acknowledged" in ended.phases, "kill_sent" in ended.phases) == (grace_s > 0, grace_s == 0)
    folder = Path(first.end["result"]["tmp"]).parent
    await until_async(lambda: not folder.exists() or Pending(os.listdir(folder.parent)), "the worker's folder is gone")


async def test_a_nice_level_and_processors_are_their_pools_alone(supervisor: StartSupervisor) -> None:
    ours = sorted(os.sched_getaffinity(0))
    modest = gluttons(workers=1, spares=0, nice=9, affinity=(ours[-1],))
    server = await supervisor(modest, hostile_pool(modules=("support.cooperative_jobs",), workers=1, spares=0))
    told = (await run(server, "tells_itself")).end["result"]
    assert (told["nice"], told["processors"]) == (min(os.nice(0) + 9, 19), ours[-1:])
    # autogroup (sched(7)): a kernel may be without it, and puts most off who are not root
    assert told["sessions_nice"] in ("9", "") or os.geteuid() != 0
    told = (await run(server, "describes_process")).end["result"]
    assert (told["nice"], told["processors"]) == (min(os.nice(0) + 5, 19), ours)


async def test_a_pool_of_a_user_that_is_not_there_is_broken(supervisor: StartSupervisor) -> None:
    server = await supervisor(gluttons(), gluttons_of("nobody at all"))
    states = {pool.name: (pool.state, pool.detail) for pool in await server.pools()}
    assert states["gluttons"][0] == "ready"
    why = "no such user" if os.geteuid() == 0 else "only root can start workers as another user"
    assert states["others"][0] == "broken" and why in states["others"][1]


def gluttons_of(user: str) -> PoolSpec:
    return PoolSpec("others", ("support.cooperative_jobs",), folder=HOSTILE_POOL["folder"], user=user)


@pytest.mark.row("B4")
@pytest.mark.code("limit.cpu", "crash")
async def test_the_kernel_ends_what_nobody_looks_at_and_a_signal_alone_proves_nothing(
    supervisor: StartSupervisor,
) -> None:
    """RLIMIT_CPU, while the supervisor does not get to look; and a SIGXCPU that came from somewhere else."""
    server = await supervisor(hostile_pool())
    await until_warm(server)
    job_id = await submit(server, "hold_gil", limits={"cpu_s": 0.8, "grace_s": 0})
    pid = await pid_of(server, job_id)  # a warm worker has it in the same turn, and a head hears soon which one
    until(lambda: (seen := processes.read_process(pid)) is None or seen.state == "Z", "the kernel has ended it")
    story = await follow(server, job_id)
    assert (story.code, story.certificate["exit_signal"]) == ("limit.cpu", "SIGXCPU")
    other = await run(server, "dies_of", number=signal.SIGXCPU, limits={"cpu_s": 60})
    assert (other.code, other.error["signal"]) == ("crash", "SIGXCPU")
