"""The story of a cluster, on this machine: three nodes with streams and other jobs, of which one is killed.

Run by `make demo-cluster`. Takes a minute, most of it until Ray is there.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import psutil
from ray_cluster import RayCluster
from server import RayServer
from support.waiting import until


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    say("starting Ray: a head and three nodes on this machine")
    ray = RayCluster(nodes=3)
    try:
        with tempfile.TemporaryDirectory() as folder:
            server = RayServer(ray, Path(folder))
            try:
                return _story(ray, server)
            finally:
                server.close()
    finally:
        ray.close()


def _story(ray: RayCluster, server: RayServer) -> int:
    say(f"the server is at {server.url}; its nodes: {', '.join(node['name'] for node in server.nodes())}")
    streams = [server.submit("count", n=1000, pause_s=1.0) for _ in range(2)]
    family = server.submit("family")
    pids = server.first_token(family)
    naps = [server.submit("nap") for _ in range(3)]
    jobs = (*streams, family, *naps)
    until(lambda: all(server.record(job)["started_at"] for job in jobs), "every job runs")
    for job_id in jobs:
        record = server.record(job_id)
        say(f"  {record['job_id'][:12]} {record['type']:7} runs on {record['node']}")
    node = server.record(family)["node"]
    victim = next(address for address, each in ray.nodes.items() if _is_below(pids[0], each.pid))
    say(f"SIGKILL to {node}: to its raylet, and to its supervisor")
    ray.kill(victim)
    until(lambda: not [pid for pid in pids if psutil.pid_exists(pid)], "its guards end everything")
    say(f"  nothing is left of {len(pids)} processes there, of which one was a daemon")
    retried = next(nap for nap in naps if server.record(nap)["node"] == node)
    error = server.ended(family)["error"]
    say(f"  {family[:12]} family  ended {error['code']}: {error['message']}")
    for job_id in streams:
        if not server.record(job_id)["ended_at"]:
            server.client.delete(f"/v1/jobs/{job_id}")
            certificate = server.ended(job_id)["certificate"]
            say(
                f"  {job_id[:12]} count   cancelled on {certificate['node']}: its tree was empty after"
                f" {certificate['tree_empty']:.0f} ms, and the server knew after {certificate['relayed']:.0f} ms"
            )
    record = server.ended(retried)
    say(f"  {retried[:12]} nap     {record['state']} on {record['node']}, attempt {record['attempts']}")
    for each in server.nodes():
        say(f"  {each['name']} is {each['state']}")
    return 0


def _is_below(pid: int, root: int) -> bool:
    return psutil.pid_exists(pid) and root in [parent.pid for parent in psutil.Process(pid).parents()]


if __name__ == "__main__":
    sys.exit(main())
