"""A program that is head and node in one process, and runs a job that never ends; a test freezes it.

Runs in: a process of a test. argv: the pool of the job as JSON, the job type. Prints a line of JSON with the pids of
the job, one with how the job has ended, and ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from support.engines import Cluster

from killable.supervisor.cluster.lease import Times
from killable.supervisor.models import Submission
from killable.supervisor.settings import PoolSpec, Settings

LEASE_S = 2.0


def say(**members: Any) -> None:
    print(json.dumps(members), flush=True)


async def run(pool: dict[str, Any], job_type: str) -> None:
    spec = PoolSpec(**{**pool, "modules": tuple(pool["modules"])})
    cluster = Cluster(("a",), Times(lease_s=LEASE_S, poll_s=0.2, patience_s=0.5))
    head = cluster.head(Settings(pools=(spec,)))
    await head.start()
    try:
        job = await head.submit(Submission(job_type, b"{}"))
        async for events in head.events(job.job_id):
            tokens = [json.loads(event.data)["value"] for event in events if event.name == "token"]
            if tokens:
                say(pids=[(await head.get(job.job_id)).pid, *tokens[0]])
        ended = await head.get(job.job_id)
        say(error=ended.error, certificate=ended.certificate)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    finally:
        await head.close(grace_s=0)


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1]), sys.argv[2]))
