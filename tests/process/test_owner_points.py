"""The owner of a supervisor is killed while a job is at each named point of its life: nothing outlives it."""

from __future__ import annotations

import json
import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest
from job_runs import FORKED_OR_EXECED, HOSTILE_POOL, NAMED_POINTS
from owner_process import CLEANUP_S, Owner, other_processes, owner
from support import processes
from support.waiting import Pending, until, until_empty

MODULES = {
    "late": """
        @preload(each_worker=True)
        def never() -> None:
            Path({folder!r}, "there").write_text(str(os.getpid()))
            time.sleep(3600)

        @job
        def has_no_worker() -> None: ...
    """,
    "sweep": """
        @job
        def stops_its_zygote(ctx: Context) -> None:
            try:
                announce_entry(ctx)
                ctx.sleep(3600)
            finally:
                os.kill(os.getppid(), signal.SIGSTOP)
    """,
    "reused": """
        @job
        def waits_there(ctx: Context) -> None:
            announce_entry(ctx)
            while not Path({folder!r}, "gate").exists():
                ctx.sleep(0.002)

        @job
        def is_only_sent() -> None: ...
    """,
}
IMPORTS = """
import os, signal, time
from pathlib import Path
from killable import Context, job, preload
from support.job_helpers import announce_entry
"""
AT_POINTS: list[Any] = [
    ["has_no_worker", {}, 0],
    ["loop_python", {}, 1],
    ["counts_for_ever", {}, 100],
    ["blocks_term", {}, 1, "term_sent"],
    ["cleans_slowly", {"cpu_s": 3600}, 1, "acknowledged"],
    ["waits_there", {}, 1],
    ["stops_its_zygote", {}, 1, "exited"],
]
AT_THE_LAST: list[Any] = [["keeps_family", {"kind": "each"}], ["ignores_term", {}], ["is_only_sent", {}]]
"""The first has a warm worker, and goes on unread; for the second a worker is forked; the third one's is stopped."""


class Standing:
    """Where the jobs are of an owner that reads nothing more: by what it knew then, and by what /proc shows."""

    def __init__(self, host: Owner, folder: Path) -> None:
        self._host = host
        self._folder = folder
        self._zygotes = {pool["name"]: pool["zygote_pid"] for pool in host.report["pools"]}
        self._workers = {worker["pid"]: worker["state"] for worker in host.report["workers"]}
        self._jobs = {job["type"]: job for job in host.report["jobs"] + host.report["last"]}

    def _is_running(self, type: str, tokens: int) -> int:
        job = self._jobs[type]
        assert job["state"] == "running" and job["started_at"] and job["tokens"] >= tokens
        return int(job["pid"])

    def _is_ending(self, type: str, phase: str, *not_yet: str) -> int:
        job = self._jobs[type]
        certificate = job["certificate"]
        assert phase in certificate and not {*not_yet, "tree_empty"} & set(certificate), json.dumps(certificate)
        return int(job["pid"])

    def _state(self, pid: int) -> str | None:
        return (seen := processes.read_process(pid)) and seen.state

    def before_ready(self) -> None:
        there = self._folder / "there"
        worker = until(lambda: there.read_text() if there.exists() else "", "a worker is in its preload")
        assert self._jobs["has_no_worker"]["state"] == "queued" and self._workers[int(worker)] == "spawning"

    def forked_and_not_told(self) -> None:
        zygote = self._zygotes["hostile"]

        def unknown() -> bool | Pending:
            forked = [seen for seen in processes.descendants(zygote) if seen.parent == zygote]
            return len([seen for seen in forked if seen.pid not in self._workers]) == 1 or Pending(forked)

        until(unknown, "there is a worker that the owner has not heard of")
        assert self._jobs["ignores_term"]["state"] == "queued"

    def run_is_sent(self) -> None:
        job = self._jobs["is_only_sent"]
        assert job["state"] == "running" and job["started_at"] is None
        assert (self._workers[job["pid"]], self._state(job["pid"])) == ("idle", "T")

    def entered(self) -> None:
        self._is_running("loop_python", 1)

    def in_mid_stream(self) -> None:
        pid = self._is_running("counts_for_ever", 100)
        until(lambda: processes.unread_bytes(pid, self._host.pid), "there is more of it")

    def stop_is_sent(self) -> None:
        pid = self._is_ending("blocks_term", "term_sent", "delivered", "exited")
        assert int(processes.stat_field(pid, "ShdPnd"), 16) & 1 << signal.SIGTERM - 1

    def in_the_grace(self) -> None:
        assert self._state(self._is_ending("cleans_slowly", "acknowledged", "kill_sent", "exited")) == "R"

    def closed_and_not_read(self) -> None:
        pid = self._is_running("waits_there", 1)
        assert not processes.unread_bytes(pid, self._host.pid)
        (self._folder / "gate").touch()
        until(lambda: processes.unread_bytes(pid, self._host.pid), "it has closed its attempt")

    def in_the_sweep(self) -> None:
        pid = self._is_ending("stops_its_zygote", "exited", "reaped")
        assert (self._state(pid), self._state(self._zygotes["sweep"])) == ("Z", "T")


@pytest.mark.row("D17")
@FORKED_OR_EXECED
def test_nothing_outlives_an_owner_that_is_killed_at_any_named_point(
    start_method: str, proof: str, tmp_path: Path
) -> None:
    """One job at each, and one that has a warm worker and goes on while its owner reads nothing more."""
    one: dict[str, Any] = {"folder": HOSTILE_POOL["folder"], "workers": 1, "spares": 0}
    pools: dict[str, Any] = {"hostile": {**HOSTILE_POOL, "workers": 6, "spares": 1}}
    for name, body in MODULES.items():
        module = tmp_path / f"{name}.py"
        module.write_text(IMPORTS + textwrap.dedent(body).format(folder=str(tmp_path)))
        pools[name] = {**one, "modules": [str(module)]}
    pools["reused"] |= {"workers": 2, "spares": 1, "jobs_per_worker_max": 0}
    kind: dict[str, Any] = {"start_method": start_method, "settings": {"proof": proof}}
    with owner(pools, AT_POINTS, last=AT_THE_LAST, halted="reused", **kind) as host:
        host.read_report()
        until(lambda: (seen := processes.read_process(host.pid)) and seen.state == "T", "the owner reads nothing more")
        standing = Standing(host, tmp_path)
        for point in NAMED_POINTS:
            getattr(standing, point)()
        family = host.report["last"][0]["pid"]
        until(lambda: len(found := processes.descendants(family)) == 4 or Pending(found), "the last one has a family")
        host.kill()
        until_empty(lambda: other_processes(host.pid), "everything is gone", CLEANUP_S)
