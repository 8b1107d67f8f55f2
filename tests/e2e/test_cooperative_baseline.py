"""The benchmark's CPU-bound work: asyncio and threads cannot stop it, a cancel of killable does."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from support.supervisor_fixture import StartSupervisor

from killable.supervisor.models import Submission
from killable.supervisor.settings import PoolSpec

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MEASURE = """
import dataclasses, json, sys
from cooperative_cancel import MECHANISMS, time_to_stop
def measure(mechanism):
    while True:
        measured = time_to_stop(sys.argv[1], mechanism, 0.3)
        if measured.cpu_s > 0 or measured.stopped_ms is not None:  # otherwise the child got no processor time; repeat
            return dataclasses.asdict(measured)
print(json.dumps([measure(mechanism) for mechanism in MECHANISMS]))
"""


@pytest.mark.row("H9")
@pytest.mark.row("H5")
@pytest.mark.parametrize("workload", ["python_loop", "native_loop"])
async def test_a_cooperative_cancel_never_stops_it_and_a_kill_does(workload: str, supervisor: StartSupervisor) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MEASURE, workload, cwd=BENCHMARKS, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    outcomes = json.loads(out)
    assert [outcome["mechanism"] for outcome in outcomes] == ["asyncio task", "thread"]
    assert all(outcome["stopped_ms"] is None and outcome["cpu_s"] > 0 for outcome in outcomes), outcomes

    server = await supervisor(PoolSpec("bench", (str(BENCHMARKS / "jobs.py"),), workers=1))
    record = await server.submit(Submission(workload, b"{}"))
    async for _batch in server.events(record.job_id):
        break
    record = await server.cancel(record.job_id, grace_s=0)
    assert record.state == "cancelled" and record.certificate is not None
    assert record.certificate["exit_signal"] == "SIGKILL" and "tree_empty" in record.certificate
