"""Machines of a real Ray cluster that are slow, or have another time of day. By hand, as Ray is an extra."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray")

from node_processes import GONE_S, actor_of, alive, both_are_live, state_of
from ray_cluster import RayCluster
from server import RayServer
from support.waiting import until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

STILL_S, ON_S = 5.0, 0.5
"""How long a slow machine's supervisor stands still and goes on, in turns."""
RUN_S = 2.0
FAST_S = 3600
FAST = f"""
import os, time
def fast(read, ahead):
    return lambda: read() + ahead
time.time, time.time_ns = fast(time.time, {FAST_S}), fast(time.time_ns, {FAST_S} * 10**9)
open(os.path.join(os.path.dirname(__file__), str(os.getpid())), "w").close()
"""
"""`sitecustomize.py` of a machine whose clock is an hour fast; a process that has read it leaves a file with its pid.
No namespace has a CLOCK_REALTIME of its own (time_namespaces(7)).
"""


@contextmanager
def slow(process: psutil.Process) -> Iterator[None]:
    over = threading.Event()

    def in_turns() -> None:
        while not over.is_set():
            process.suspend()
            over.wait(STILL_S)
            process.resume()
            over.wait(ON_S)

    turns = threading.Thread(target=in_turns)
    turns.start()
    try:
        yield
    finally:
        over.set()
        turns.join()


def test_a_slow_node_loses_nothing_and_ends_its_jobs_by_their_own_deadlines(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    server = RayServer(ray_cluster, tmp_path, lease_s=60, poll_s=1)
    try:
        gate = tmp_path / "gate"
        stream = server.submit("tick", n=20, gate=str(gate))
        until(lambda: server.record(stream)["started_at"], "it runs")
        node = server.record(stream)["node"]
        incarnation = next(each["incarnation"] for each in server.nodes() if each["name"] == node)
        late = server.submit("family", nodes={"node": node}, limits={"run_s": RUN_S, "grace_s": 0})
        pids = server.first_token(late)
        with slow(actor_of(pids[0])):
            until(lambda: state_of(server, node) == "suspect", "it is noticed")
            others = [server.submit("count", n=5) for _ in range(2)]
            gate.write_bytes(b"x" * 20)
            for job_id, tokens in ((stream, 20), *((other, 5) for other in others)):
                record = server.ended(job_id)
                assert (record["state"], record["attempts"], record["tokens"]) == ("completed", 1, tokens)
            end = server.ended(late)
            assert (end["error"]["code"], end["node"], alive(pids)) == ("timeout.run", node, [])
        assert ran_s(end) <= RUN_S + 2 * (STILL_S + ON_S) + GONE_S
        until(lambda: both_are_live(server), "it answers again")
        assert incarnation in [each["incarnation"] for each in server.nodes()], "it was never lost"
    finally:
        server.close()


def ran_s(record: dict[str, str]) -> float:
    return time_of(record["ended_at"]) - time_of(record["started_at"])


def time_of(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_a_machine_whose_clock_is_an_hour_fast_changes_no_time_that_is_told(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    clock = tmp_path / "clock"
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(FAST)
    ray_cluster.add(place := f"127.0.0.{10 + len(ray_cluster.nodes)}", PYTHONPATH=str(clock))
    began = time.time()
    server = RayServer(ray_cluster, tmp_path)
    try:
        there = {"place": place}
        done = server.ended(server.submit("count", n=5, nodes=there))
        late = server.submit("family", nodes=there, limits={"run_s": RUN_S, "grace_s": 0})
        pids = server.first_token(late)
        assert (clock / str(actor_of(pids[0]).pid)).exists(), "its supervisor has that clock"
        end = server.ended(late)
        assert (done["state"], end["error"]["code"], alive(pids)) == ("completed", "timeout.run", [])
        assert RUN_S - 0.1 <= ran_s(end) <= RUN_S + GONE_S
        for record in (done, end):
            times = [time_of(record[name]) for name in ("created_at", "started_at", "ended_at")]
            assert times == sorted(times) and began - 1 <= times[0] and times[-1] <= time.time() + 1, record
        lasting = server.submit("family", nodes=there)
        server.first_token(lasting)
        name = server.record(lasting)["node"]
        answer = server.client.post(f"/v1/nodes/{name}/drain", params={"deadline_s": 0})
        assert answer.json()["state"] == "draining"
        assert server.ended(lasting)["error"]["code"] == "node_drained"
    finally:
        server.close()
