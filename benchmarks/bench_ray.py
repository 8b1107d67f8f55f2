"""Measure a server over a real Ray cluster of four nodes on this machine: jobs a second, idle nodes, losses.

Runs in: the benchmark, with the Python of `.venv/cluster` (make smoke-cluster). All machines are this one, so that four
nodes share its processors: jobs sleep. As root it has a network of its own.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import runner
from measurement import Figure, Samples
from trial_plan import QUICK, Plan

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "cluster"), str(TESTS)]

from node_processes import actor_of, address_of, gone  # noqa: E402
from own_network import have_own_network  # noqa: E402
from ray_cluster import RayCluster  # noqa: E402
from server import RayServer  # noqa: E402
from support.waiting import until  # noqa: E402

NODES = 4
SLOTS = 2
"""Of each node."""
LEASE_S, POLL_S = 10.0, 3.0
"""The defaults."""
SLEEP_S = 0.5
ROUNDS = 20
"""Sleeping jobs for each slot."""
IDLE_S = 30.0
WAITING = 20
READERS = 3
TICKS = 60
LOST_S = 11.2
"""When at the latest it is told that a node is lost."""
WAIT_S = 120.0

IDLE = "an idle node: supervisor, guards, workers, % of a core"
TWO, FOUR = "sleeping jobs on 2 nodes, 1/s", "sleeping jobs on 4 nodes, 1/s"
GONE = "a node is killed: its processes are gone, s"
TOLD = "a node is killed: each of its jobs is told, s"
UNRUN = "a node is killed: of the jobs that waited, those that did not complete"
BACK = "the server is killed: it serves again, s"
MISSED = "the server is killed: events that three readers missed or got twice"


async def measure(plan: Plan, results: Samples) -> None:
    """Blocks: nothing else is to run, and a network of one's own is that of a thread."""
    is_quick = plan.kills == QUICK.kills
    have_own_network()
    cluster = RayCluster(nodes=NODES)
    try:
        places = list(cluster.nodes)
        with _server(cluster, f'nodes = {{ place = "in({",".join(places[:2])})" }}\n') as server:
            results.add(TWO, _jobs_per_s(server, 2, ROUNDS // 4 if is_quick else ROUNDS))
        with _server(cluster) as server:
            results.add(FOUR, _jobs_per_s(server, NODES, ROUNDS // 4 if is_quick else ROUNDS))
            _measure_idle(server, IDLE_S / 6 if is_quick else IDLE_S, results)
            _measure_head(server, results)
            _measure_loss(cluster, server, results)
    finally:
        cluster.close()


@contextmanager
def _server(cluster: RayCluster, more: str = "") -> Iterator[RayServer]:
    with tempfile.TemporaryDirectory() as folder:
        server = RayServer(cluster, Path(folder), lease_s=LEASE_S, poll_s=POLL_S, more=more)
        try:
            yield server
        finally:
            server.close()


def _jobs_per_s(server: RayServer, nodes: int, rounds: int) -> float:
    until(lambda: [node["state"] for node in server.nodes()].count("live") == nodes, "all nodes are there", WAIT_S)
    began = time.monotonic()
    jobs = [server.submit("count", n=1, pause_s=SLEEP_S) for _ in range(nodes * SLOTS * rounds)]
    for job_id in jobs:
        assert server.ended(job_id)["state"] == "completed"
    return len(jobs) / (time.monotonic() - began)


def _measure_idle(server: RayServer, seconds: float, results: Samples) -> None:
    families = [server.submit("family") for _ in range(NODES)]
    actors = {actor_of(server.first_token(job_id)[0]).pid for job_id in families}
    for job_id in families:
        server.client.delete(f"/v1/jobs/{job_id}")
        server.ended(job_id)
    below = [each for pid in actors for each in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]
    before, began = _used_s(below), time.monotonic()
    time.sleep(seconds)
    results.add(IDLE, (_used_s(below) - before) / (time.monotonic() - began) / len(actors) * 100)


def _used_s(processes: list[psutil.Process]) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in processes if each.is_running())


def _measure_head(server: RayServer, results: Samples) -> None:
    gates = [server.folder / f"gate-{number}" for number in range(READERS)]
    jobs = [server.submit("tick", n=TICKS, gate=str(gate)) for gate in gates]
    for gate in gates:
        gate.write_bytes(b"x" * (TICKS // 2))
    seen = [server.events(job_id, until=TICKS // 2) for job_id in jobs]
    server.kill()
    began = time.monotonic()
    for gate in gates:
        gate.write_bytes(b"x" * TICKS)
    server.start()
    results.add(BACK, time.monotonic() - began)
    wrong = 0
    for job_id, before in zip(jobs, seen, strict=True):
        ids = [number for number, _, _ in before + server.events(job_id, after=before[-1][0])]
        wrong += len(set(range(TICKS + 2)).symmetric_difference(ids)) + len(ids) - len(set(ids))
    results.add(MISSED, wrong)


def _measure_loss(cluster: RayCluster, server: RayServer, results: Samples) -> None:
    """Kill one of four nodes, all of whose slots are in use, while jobs wait."""
    until(lambda: [node["state"] for node in server.nodes()].count("live") == NODES, "all nodes are there", WAIT_S)
    running = [server.submit("family") for _ in range(NODES * SLOTS)]
    pids = {job_id: server.first_token(job_id) for job_id in running}
    waiting = [server.submit("count", n=1) for _ in range(WAITING)]
    node = server.record(running[0])["node"]
    there = [job_id for job_id in running if server.record(job_id)["node"] == node]
    cluster.kill(address_of(cluster, pids[there[0]][0]))
    began = time.monotonic()
    until(gone([pid for job_id in there for pid in pids[job_id]]), "its processes are gone", WAIT_S)
    results.add(GONE, time.monotonic() - began)
    for job_id in there:
        error = until(_its_error(server, job_id), "it is told", WAIT_S)
        assert error["code"] == "node_lost", error
        results.add(TOLD, time.monotonic() - began)
    for job_id in set(running) - set(there):
        server.client.delete(f"/v1/jobs/{job_id}")
    results.add(UNRUN, sum(server.ended(job_id)["state"] != "completed" for job_id in waiting))


def _its_error(server: RayServer, job_id: str) -> Callable[[], dict[str, Any]]:
    return lambda: server.record(job_id)["error"] or {}


def figures(results: Samples) -> list[Figure]:
    two, four, told = results.median(TWO), results.median(FOUR), results.values.get(TOLD)
    scale = None if two is None or four is None else four / two
    return [
        Figure("a node is killed under load: the last of its jobs is told", LOST_S, max(told) if told else None, "s"),
        Figure("a node is killed under load: its processes are gone", 1.0, results.median(GONE), "s", False, 2),
        Figure("a node is killed under load: waiting jobs lost", 0, results.total(UNRUN), "", False, 0),
        Figure("the server is killed: it serves again, within the lease", LEASE_S, results.median(BACK), "s"),
        Figure("the server is killed: events missed or doubled", 0, results.total(MISSED), "", False, 0),
        Figure("an idle node", 2.0, results.median(IDLE), "% of a core"),
        Figure("sleeping jobs a second, 4 nodes to 2", 1.8, scale, "x", True, 2),
    ]


PARTS = {"four nodes": measure}

if __name__ == "__main__":
    runner.run(runner.command("ray", PARTS, figures, lambda _: []), __doc__ or "", examples=['--only "four nodes"'])
