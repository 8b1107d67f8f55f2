"""Measure what a head of a cluster costs: processor time for each node that joins or is idle, submission and job.

Runs in: the benchmark. Head and nodes are in one process, on virtual time: nothing waits, so the processor time of the
process is that of both. What a node's own supervisor costs is not in it, nor Ray's carrying of the messages. The
targets are the figures of docs/explanation/cluster.md, with as much again for a slower machine.
"""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial
from pathlib import Path

import runner
from measurement import Figure, Samples
from trial_plan import QUICK, Plan

TESTS = str(Path(__file__).parents[1] / "tests")
sys.path.insert(0, TESTS)

from sim.cluster_simulation import ClusterSimulation  # noqa: E402
from support.virtual_loop import run  # noqa: E402

IDLE_S = 30.0
JOBS = 5000
QUICK_JOBS = 500
NODES = (10, 100, 1000)
MEASURES = {
    "a node joins": 8200.0,
    "an idle node, each second": 180.0,
    "a submission": 740.0,
    "a job, from its order to its last event": 4800.0,
}
"""What is measured, and its bound in microseconds."""


async def measure(nodes: int, plan: Plan, results: Samples) -> None:
    jobs = QUICK_JOBS if plan.kills == QUICK.kills else JOBS  # a plan knows no jobs of a cluster
    await asyncio.to_thread(run, measure_virtually(nodes, jobs, results))


async def measure_virtually(nodes: int, jobs: int, results: Samples) -> None:
    number = {
        "a node joins": nodes,
        "an idle node, each second": nodes * IDLE_S,
        "a submission": jobs,
        "a job, from its order to its last event": jobs,
    }
    marks = [time.process_time()]
    async with ClusterSimulation(nodes=nodes, workers=4) as sim:
        marks.append(time.process_time())
        await asyncio.sleep(IDLE_S)
        marks.append(time.process_time())
        for _ in range(jobs):
            await sim.submit(run_s=1.0, tokens=0)
        marks.append(time.process_time())
        await sim.ended()
        marks.append(time.process_time())
    for what, began, ended in zip(MEASURES, marks, marks[1:], strict=False):
        results.add(sample_name(what, nodes), (ended - began) / number[what] * 1e6)


def sample_name(what: str, nodes: int) -> str:
    return f"{what} · {nodes} nodes, µs"


def figures(results: Samples) -> list[Figure]:
    return [
        Figure(f"{what}, {nodes} nodes", bound, results.median(sample_name(what, nodes)), "µs", False, 0)
        for what, bound in MEASURES.items()
        for nodes in NODES
    ]


PARTS = {f"{nodes} nodes": partial(measure, nodes) for nodes in NODES}

if __name__ == "__main__":
    runner.run(runner.command("cluster", PARTS, figures, lambda _: []), __doc__ or "", examples=['--only "1000 nodes"'])
