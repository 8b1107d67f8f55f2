"""What a head costs: processor time for each job, for each idle node, and what a slot costs among many nodes.

    python benchmarks/bench_cluster.py [--nodes 1000] [--jobs 5000]

Head and nodes are in one process, on virtual time: nothing waits, so the processor time of the process is that of both.
What a node's own supervisor costs is not in it, nor Ray's carrying of the messages. The figures are for both sides; the
head has a little more than half of them (--profile shows which).
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import sys
import time
from pathlib import Path

TESTS = str(Path(__file__).parents[1] / "tests")
sys.path.insert(0, TESTS)

from sim.cluster_simulation import ClusterSimulation  # noqa: E402
from support.virtual_loop import run  # noqa: E402

IDLE_S = 30.0


async def measure(nodes: int, jobs: int) -> None:
    began = time.process_time()
    async with ClusterSimulation(nodes=nodes, workers=4) as sim:
        gc.freeze()
        say(f"{nodes} nodes join", time.process_time() - began, nodes, "a node")
        began = time.process_time()
        await asyncio.sleep(IDLE_S)
        say(f"{nodes} idle nodes for {IDLE_S:g} s", time.process_time() - began, nodes * IDLE_S, "a node and second")
        began = time.process_time()
        for _ in range(jobs):
            await sim.submit(run_s=1.0, tokens=0)
        say(f"{jobs} submissions", time.process_time() - began, jobs, "a job")
        began = time.process_time()
        await sim.ended()
        say(f"{jobs} jobs run, one reader each", time.process_time() - began, jobs, "a job")
        gc.unfreeze()


def say(what: str, took_s: float, number: float, each: str) -> None:
    print(f"{what:32} {took_s:8.2f} s   {took_s / number * 1e6:8.0f} µs {each}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--profile", action="store_true", help="which functions it goes to")
    arguments = parser.parse_args()
    if not arguments.profile:
        run(measure(arguments.nodes, arguments.jobs))
        return
    profile = cProfile.Profile()
    profile.enable()
    run(measure(arguments.nodes, arguments.jobs))
    pstats.Stats(profile).sort_stats("cumulative").print_stats("killable", 40)


if __name__ == "__main__":
    main()
