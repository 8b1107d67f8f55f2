"""The process that owns the supervisor: nothing outlives it, and nothing of it is passed on by accident.

What becomes of it all when it is killed at a named point of a job's life is in `test_owner_points`.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from job_runs import FORKED_OR_EXECED, HOSTILE_POOL
from owner_process import CLEANUP_S, Owner, other_processes, owner
from support import processes
from support.supervisor_fixture import CGROUP_PROOF, NEEDS_CGROUPS
from support.waiting import Pending, until, until_empty

JOBS: list[Any] = [
    ["ignores_term", {}, 1],
    ["ignores_term", {}, 1],
    ["keeps_family", {"kind": "setsid"}, 1],
    ["keeps_family", {"kind": "setsid"}, 1],
    ["keeps_family", {"kind": "daemon"}, 1],
    ["stops_itself", {"ignore": True}, 1],
    ["hold_gil", {}, 1],
    ["native_waits", {"helpers": 2}, 1],
    ["forks_steadily", {}, 1],
]


@pytest.mark.row("PEERS-I", "PEERS-6")
@pytest.mark.row("D17")
@FORKED_OR_EXECED
def test_nothing_outlives_an_owner_that_is_killed(start_method: str, proof: str, tmp_path: Path) -> None:
    """Jobs of every stubborn kind, one stopped, and workers and a zygote that are only starting."""
    (tmp_path / "slow.py").write_text(
        "import time\nfrom killable import job, preload\n"
        "@preload(each_worker=True)\ndef never() -> None:\n    time.sleep(3600)\n"
        "@job\ndef slow() -> None: ...\n"
    )
    starting = {"starting": {"modules": [str(tmp_path / "slow.py")], "workers": 1, "spares": 1}}
    with owner(starting, [*JOBS, ["slow", {}, 0]], start_method=start_method, settings={"proof": proof}) as host:
        host.read_report()
        states = [job["state"] for job in host.report["jobs"]]
        assert states == ["running"] * len(JOBS) + ["queued"]
        assert {(pool["start_method"], pool["proof"]) for pool in host.report["pools"]} == {(start_method, proof)}
        stopped = host.report["jobs"][5]["pid"]
        until(lambda: (seen := processes.read_process(stopped)) and seen.state == "T", "one job is stopped")
        # two guards, two zygotes, workers and their families; the last of those that only start may still be on its way
        least = 2 * 2 + len(JOBS) + 2 * 2 + 1 + 2
        until(lambda: len(found := other_processes(host.pid)) >= least or Pending(found), "all are there")

        host.kill()
        until_empty(lambda: other_processes(host.pid), "everything is gone", CLEANUP_S)


@pytest.mark.row("D17")
def test_nothing_outlives_an_owner_that_is_killed_while_it_starts(proof: str, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nfrom killable import preload\n@preload\ndef never() -> None:\n    time.sleep(3600)\n"
    )
    pools = {"starting": {"modules": [str(tmp_path / "slow.py")]}}
    with owner(pools, settings={"proof": proof}) as host:
        host.read_report()
        until(lambda: len(found := other_processes(host.pid)) >= 4 or Pending(found), "guards and zygotes are there")
        host.kill()
        until_empty(lambda: other_processes(host.pid), "everything is gone", CLEANUP_S)


@pytest.mark.row("D17")
@FORKED_OR_EXECED
def test_nothing_outlives_an_owner_whose_guard_was_stopped(start_method: str, proof: str) -> None:
    """A guard that is stopped cannot end anyone, and does as soon as it goes on."""
    family: list[Any] = ["keeps_family", {"kind": "each"}, 1]
    with owner(jobs=[family], start_method=start_method, settings={"proof": proof}) as host:
        host.read_report()
        zygote = processes.read_process(host.report["pools"][0]["zygote_pid"])
        assert zygote is not None
        os.kill(zygote.parent, signal.SIGSTOP)
        host.kill()
        assert other_processes(host.pid), "the control: without the guard they live on"
        os.kill(zygote.parent, signal.SIGCONT)
        until_empty(lambda: other_processes(host.pid), "everything is gone", CLEANUP_S)


@pytest.mark.row("D17")
def test_a_message_that_nobody_read_does_not_keep_the_guard_from_its_work(proof: str, tmp_path: Path) -> None:
    """The owner dies with a report of its guard unread: for the guard that is a reset and not an end-of-file."""
    there = tmp_path / "there"
    (tmp_path / "forking.py").write_text(
        "import os, time\n"
        "if os.fork() == 0:\n"
        f"    os.setsid()\n    open({str(there)!r}, 'w').close()\n"
        "while True:\n    time.sleep(3600)\n"
    )
    pools = {"hostile": {"modules": [str(tmp_path / "forking.py")]}}
    with owner(pools, settings={"proof": proof}, freeze=True) as host:
        until(there.exists, "the zygote has forked something that outlives a PDEATHSIG")
        until(lambda: (seen := processes.read_process(host.pid)) and seen.state == "T", "the owner has stopped")
        assert len(other_processes(host.pid)) == 3
        host.kill()
        until_empty(lambda: other_processes(host.pid), "everything is gone", CLEANUP_S)


def left_by(host: Owner) -> list[processes.ProcessInfo]:
    """Return what is there besides an owner and the copy that it has made of itself."""
    return [seen for seen in other_processes(host.pid) if seen.pid != host.report["copy"]]


@pytest.mark.row("D17")
def test_nothing_outlives_an_owner_whose_descriptors_live_on_in_a_copy(proof: str, tmp_path: Path) -> None:
    """It has forked: no socket comes to its end. And what a guard reports fills its own, with nobody to read."""
    (tmp_path / "zombies.py").write_text(
        "import os, time\nfrom killable import Context, job\n"
        "@job\ndef zombies(ctx: Context, count: int) -> None:\n"
        "    for _ in range(count):\n        if os.fork() == 0:\n            os._exit(0)\n"
        "    ctx.emit('in')\n    time.sleep(3600)\n"
    )
    pools = {
        "quiet": {**HOSTILE_POOL, "workers": 2, "spares": 0},
        "loud": {"modules": [str(tmp_path / "zombies.py")], "workers": 1, "spares": 0},
    }
    jobs = [["keeps_family", {"kind": "each"}, 1], ["zombies", {"count": 320}, 1]]
    with owner({**pools, "hostile": {"modules": []}}, jobs, settings={"proof": proof}, copy=True, last=[]) as host:
        host.read_report()
        try:
            until(
                lambda: (seen := processes.read_process(host.pid)) and seen.state == "T", "the owner reads nothing more"
            )
            loud = next(pool["zygote_pid"] for pool in host.report["pools"] if pool["name"] == "loud")
            os.kill(loud, signal.SIGKILL)
            host.kill()
            until_empty(lambda: left_by(host), "everything is gone", CLEANUP_S)
            copy = processes.read_process(host.report["copy"])
            assert copy is not None and copy.state == "S"
        finally:
            os.kill(host.report["copy"], signal.SIGKILL)


def test_an_owner_that_leaves_takes_everything_along(proof: str) -> None:
    with owner(jobs=JOBS, settings={"proof": proof}) as host:
        host.read_report()
        assert host.close() == 0
        assert other_processes(host.pid) == []
    assert processes.cgroups_of(host.pid) == []


def test_a_stderr_that_nobody_reads_holds_up_nothing() -> None:
    """Guard and zygote have the owner's. Jobs that print, crash and are cancelled write nothing into it."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writable, bytes(4096))
    os.set_blocking(writable, True)
    jobs: list[Any] = [["loop_python", {}, 1, "requested"], ["segfaults", {}, 0], ["leaves_family", {}, 0]]
    with owner(jobs=[*jobs, ["prints_for_ever", {}, 0]], stderr=writable) as host:
        host.read_report()
        assert host.close() == 0
        assert other_processes(host.pid) == []
    for descriptor in (readable, writable):
        os.close(descriptor)


@NEEDS_CGROUPS
@pytest.mark.row("D18")
def test_what_a_dead_owner_has_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """Its guard ends the processes; the groups' empty directories are found by the next supervisor's start."""
    with owner(jobs=[["ignores_term", {}, 1]], settings={"proof": CGROUP_PROOF}) as host:
        host.read_report()
        host.kill()
        until_empty(lambda: other_processes(host.pid), "everything is gone", CLEANUP_S)
    assert len(processes.cgroups_of(host.pid)) <= 1  # whoever starts on this machine may be quicker
    with owner(settings={"proof": "descendants"}) as following:
        following.read_report()
        assert following.close() == 0
    until_empty(lambda: processes.cgroups_of(host.pid), "the directories are gone")


# ── nothing is passed on ──


def describe(pool: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Any]:
    """Return what a worker under a program finds itself to be."""
    members = {**HOSTILE_POOL, "workers": 2, "spares": 0, **(pool or {})}
    with owner({"hostile": members}, [["describes_process", {}, 10]], **arguments) as host:
        host.read_report()
        (job,) = host.report["jobs"]
        (pool_record,) = host.report["pools"]
        assert host.close() == 0
    assert job["state"] == "completed", job["error"]
    result: dict[str, Any] = job["result"]
    return {**result, "zygote": pool_record["zygote_pid"], "owner": host.pid}


EACH_PAIR = pytest.mark.parametrize(
    ("start_method", "proof", "host"),
    [
        ("fork", CGROUP_PROOF, False),
        ("fork", "descendants", True),
        ("spawn", CGROUP_PROOF, True),
        ("spawn", "descendants", False),
    ],
)
"""With a host that blocks SIGTERM, ignores SIGCHLD and SIGINT, and has a umask of 077, or with an ordinary one."""


@functools.cache
def found_under(start_method: str, proof: str, host: bool) -> dict[str, Any]:
    return describe({"start_method": start_method}, host=host, settings={"proof": proof})


@EACH_PAIR
def test_a_job_starts_from_a_clean_process(start_method: str, proof: str, host: bool) -> None:
    found = found_under(start_method, proof, host)
    assert (found["umask"], found["nice"], found["core"]) == (0o022, os.nice(0) + 5, [1, 1])
    assert int(found["blocked"], 16) == 0
    ignored = {number for number in range(1, 65) if int(found["ignored"], 16) >> (number - 1) & 1}
    assert ignored == {signal.SIGPIPE, signal.SIGXFSZ}
    assert found["session"] == found["group"] == found["pid"] and found["parent"] == found["zygote"]
    assert (found["death_signal"], found["no_new_privs"], found["threads"]) == (signal.SIGKILL, "1", 1)
    assert found["stdin"] == "" and found["descriptors"]["0"] == "/dev/null"
    assert found["environment"]["OMP_NUM_THREADS"] == "1"
    assert found["instance"]
    assert ("killable-" in found["cgroup"]) == (proof == CGROUP_PROOF)


@pytest.mark.row("B10")
@EACH_PAIR
def test_a_job_has_the_descriptors_that_it_needs_and_no_other(start_method: str, proof: str, host: bool) -> None:
    targets = dict(found_under(start_method, proof, host)["descriptors"])
    assert targets.pop("0") == "/dev/null"
    assert targets.pop("1") == targets.pop("2") and all(int(number) > 2 for number in targets)
    kinds = sorted(re.sub(r"\d+", "N", target.split(":")[0]) for target in targets.values())
    # The stack; its threads, which are counted; frames, notifications; orders, calls.
    wanted = ["/memfd", "/proc/N/task", "pipe", "pipe", "socket", "socket"]
    if sys.version_info < (3, 13):
        wanted.insert(0, "/memfd")  # the ring of tokens, of whose descriptor the mapping holds a copy
    assert kinds == wanted, targets
    assert len(set(targets.values())) == len(wanted)
