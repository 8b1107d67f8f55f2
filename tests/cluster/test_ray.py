"""A server over a real Ray cluster. By hand, as Ray is an extra: make test-cluster."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray")

from node_processes import (
    GONE_S,
    actor_of,
    address_of,
    alive,
    both_are_live,
    gone,
    lost_by_its_lease,
    raylet_of,
)
from ray_cluster import RayCluster, environment
from server import RayServer
from support.waiting import until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_jobs_run_on_all_nodes_and_a_cancel_ends_the_whole_tree(server: RayServer) -> None:
    assert [node["state"] for node in server.nodes()] == ["live", "live"]
    jobs = [server.submit("count", n=100) for _ in range(4)]
    records = [server.ended(job_id) for job_id in jobs]
    assert {record["state"] for record in records} == {"completed"} and {record["tokens"] for record in records} == {
        100
    }
    assert len({record["node"] for record in records}) == 2
    job_id = server.submit("family")
    pids = server.first_token(job_id)
    assert alive(pids) == pids
    answer = server.client.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled"), answer.text
    certificate = server.record(job_id)["certificate"]
    assert alive(pids) == [] and certificate["tree_empty"] and certificate["node"], certificate


def test_a_node_that_is_killed_leaves_nothing_and_its_jobs_are_told(ray_cluster: RayCluster, server: RayServer) -> None:
    job_id = server.submit("family")
    pids = server.first_token(job_id)
    node = server.record(job_id)["node"]
    naps = [server.submit("nap") for _ in range(2)]
    until(lambda: all(server.record(nap)["started_at"] for nap in naps), "all run")
    elsewhere = [nap for nap in naps if server.record(nap)["node"] == node]
    ray_cluster.kill(address_of(ray_cluster, pids[0]))
    until(gone(pids), "its guards have ended all", GONE_S)
    assert lost_by_its_lease(server, job_id)["error"]["node"] == node
    for nap in elsewhere:
        done = server.ended(nap)
        assert (done["state"], done["result"], done["attempts"]) == ("completed", 2, 2) and done["node"] != node
    ray_cluster.add(f"127.0.0.{10 + len(ray_cluster.nodes)}")
    until(lambda: [each["state"] for each in server.nodes()].count("live") == 2, "a new node joins")
    log = server.log()
    assert log.count(f" node_lost node={node} ") == 1, "whoever counts the lost nodes counts it once"
    assert "[state-dump]" not in log, "of what Ray says there is one line each"


def test_a_server_that_is_killed_and_comes_back_goes_on_with_every_job(
    patient_server: RayServer, tmp_path: Path
) -> None:
    """Three readers miss nothing, and get nothing twice; a job that ends meanwhile has its result."""
    server = patient_server
    gates = [tmp_path / f"gate-{number}" for number in range(3)]
    jobs = [server.submit("tick", n=60, gate=str(gate)) for gate in gates]
    family = server.submit("family")
    pids = server.first_token(family)
    for gate in gates:
        gate.write_bytes(b"x" * 20)
    seen = [server.events(job_id, until=20) for job_id in jobs]
    waits = server.submit("count", n=7)
    records = [server.record(job_id) for job_id in (*jobs, family)]
    assert server.record(waits)["state"] == "queued" and len({record["node"] for record in records}) == 2
    incarnations = [node["incarnation"] for node in server.nodes()]
    server.kill()
    gates[0].write_bytes(b"x" * 60)
    for gate in gates[1:]:
        gate.write_bytes(b"x" * 40)
    until(lambda: not alive([records[0]["pid"]]), "one ends without a server")
    server.start()
    assert [node["incarnation"] for node in server.nodes()] == incarnations and alive(pids) == pids
    for gate in gates[1:]:
        gate.write_bytes(b"x" * 60)
    for job_id, before, record in zip(jobs, seen, records, strict=False):
        whole = before + server.events(job_id, after=before[-1][0])
        assert [number for number, _, _ in whole] == list(range(62))
        assert [data["text"] for _, name, data in whole if name == "token"] == [f" {number}" for number in range(60)]
        after = server.record(job_id)
        assert (after["state"], after["attempts"], after["pid"]) == ("completed", 1, record["pid"])
    assert server.ended(waits)["tokens"] == 7
    assert server.client.delete(f"/v1/jobs/{family}").json()["status"] == "cancelled" and not alive(pids)


def test_a_node_whose_actor_alone_is_killed_is_told_before_its_lease_is_over(patient_server: RayServer) -> None:
    server = patient_server
    job_id = server.submit("family")
    pids = server.first_token(job_id)
    node = server.record(job_id)["node"]
    actor_of(pids[0]).kill()
    error = server.ended(job_id)["error"]
    assert (error["code"], error["node"], error["fenced"], alive(pids)) == ("node_lost", node, "swept", [])
    assert [each["state"] for each in server.nodes()] == ["live", "live"], "it is back"


RAY_KILL = """
import sys, ray
ray.init(address=sys.argv[1], namespace="killable", log_to_driver=False)
ray.kill(ray.get_actor(sys.argv[2]))
"""


def test_what_ray_itself_kills_has_guards_that_live_to_end_its_jobs(
    ray_cluster: RayCluster, patient_server: RayServer
) -> None:
    """By its own settings Ray would send SIGKILL to all that an actor has started."""
    server = patient_server
    job_id = server.submit("family")
    pids = server.first_token(job_id)
    node = server.record(job_id)["node"]
    command = [sys.executable, "-c", RAY_KILL, ray_cluster.address, f"killable-{node}"]
    subprocess.run(command, env=environment(), check=True, timeout=120)
    until(gone(pids), "its guards have ended all", GONE_S)
    error = server.ended(job_id)["error"]
    assert (error["code"], error["node"], error["fenced"]) == ("node_lost", node, "swept")


def test_a_node_whose_raylet_alone_is_killed_ends_everything(ray_cluster: RayCluster, server: RayServer) -> None:
    job_id = server.submit("family")
    pids = server.first_token(job_id)
    raylet_of(pids[0]).kill()
    until(gone(pids), "Ray ends the actor, and its guards all else", GONE_S)
    lost_by_its_lease(server, job_id)
    ray_cluster.add(f"127.0.0.{10 + len(ray_cluster.nodes)}")
    until(lambda: both_are_live(server), "a new node joins")


def test_a_server_that_is_told_to_end_ends_its_jobs_in_order(server: RayServer) -> None:
    """Ray, too, would handle SIGTERM."""
    job_id = server.submit("family")
    pids = server.first_token(job_id)
    server.process.terminate()
    assert server.process.wait(60) == 0 and alive(pids) == []
    assert "*** SIGTERM" not in server.log()
    server.kill()
    server.start()
    assert server.record(job_id)["state"] == "cancelled"


def test_a_server_that_comes_back_after_the_lease_tells_what_has_ended(server: RayServer) -> None:
    family, nap = server.submit("family"), server.submit("nap")
    pids = server.first_token(family)
    until(lambda: server.record(nap)["started_at"], "it runs")
    node, naps = server.record(family)["node"], server.record(nap)["pid"]
    server.kill()
    until(gone([*pids, naps]), "every node has ended its jobs")
    server.start()
    record = server.ended(family)
    assert (record["error"]["code"], record["error"]["node"]) == ("node_lost", node)
    assert server.ended(nap)["ended_at"] and server.ended(server.submit("count", n=5))["tokens"] == 5


def test_a_server_that_is_killed_leaves_nothing_on_any_node(server: RayServer) -> None:
    jobs = [server.submit("family") for _ in range(2)]
    pids = [pid for job_id in jobs for pid in server.first_token(job_id)]
    assert alive(pids) == pids
    server.process.kill()
    until(gone(pids), "every node has ended its jobs")


def test_a_pool_has_the_machines_of_its_label_and_what_ray_takes_away_is_drained(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    ray_cluster.add(place := f"127.0.0.{10 + len(ray_cluster.nodes)}")
    server = RayServer(ray_cluster, tmp_path, more=f'nodes = {{ place = "!{place}" }}\n')
    try:
        others = [node["labels"]["place"] for node in server.nodes()]
        assert place not in others and len(others) >= 2
        nap = server.submit("nap", limits={"attempts_max": 2, "backoff_s": 0})
        until(lambda: server.record(nap)["started_at"], "it runs")
        name = server.record(nap)["node"]
        node = next(node for node in server.nodes() if node["name"] == name)
        ray_cluster.announce_end(node["labels"]["ray.io/node-id"], 11)
        until(lambda: next(n for n in server.nodes() if n["name"] == name)["state"] != "live", "its node is drained")
        record = server.ended(nap)
        assert (record["state"], record["attempts"]) == ("completed", 2) and record["node"] != name
    finally:
        server.close()


# ── what stands still: each ends by its lease, and what is told is true when it is told ──


def test_the_jobs_of_a_supervisor_that_stands_still_are_ended_by_its_guards_before_that_is_told(
    server: RayServer,
) -> None:
    job_id = server.submit("family")
    pids = server.first_token(job_id)
    actor = actor_of(pids[0])
    actor.suspend()
    try:
        lost_by_its_lease(server, job_id)
        assert alive(pids) == []
    finally:
        actor.resume()
    until(lambda: both_are_live(server), "another incarnation joins")


def test_a_whole_node_that_stands_still_ends_everything_when_it_goes_on(server: RayServer) -> None:
    job_id = server.submit("family")
    pids = server.first_token(job_id)
    actor = actor_of(pids[0])
    family = [psutil.Process(pid) for pid in pids]
    still = [actor, *{each.pid: each for each in (*actor.children(recursive=True), *family)}.values()]
    for process in still:
        process.suspend()
    try:
        lost_by_its_lease(server, job_id)
    finally:
        for process in still:
            with suppress(psutil.NoSuchProcess):  # one that goes on ends others
                process.resume()
    until(gone(pids), "its guards end everything")
    until(lambda: both_are_live(server), "another incarnation joins")


def test_a_raylet_that_stands_still_takes_nothing_from_its_node(server: RayServer, tmp_path: Path) -> None:
    job_id, family = server.submit("tick", n=3, gate=str(tmp_path / "gate")), server.submit("family")
    pids = server.first_token(family)
    raylet = raylet_of(pids[0])
    raylet.suspend()
    try:
        (tmp_path / "gate").write_bytes(b"xxx")
        record = server.ended(job_id)
        assert (record["state"], record["attempts"], record["tokens"]) == ("completed", 1, 3)
        assert server.client.delete(f"/v1/jobs/{family}").json()["status"] == "cancelled" and not alive(pids)
    finally:
        raylet.resume()


def test_a_server_that_stands_still_for_longer_than_the_lease_finds_its_nodes_empty(server: RayServer) -> None:
    job_id = server.submit("family")
    pids = server.first_token(job_id)
    server.process.send_signal(signal.SIGSTOP)
    try:
        until(gone(pids), "the node ends its jobs by itself")
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert server.ended(job_id)["error"]["code"] == "node_lost"
    until(lambda: both_are_live(server), "both nodes join again")
    assert server.ended(server.submit("count", n=5))["tokens"] == 5
