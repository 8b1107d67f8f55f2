"""Why this project is there: what asyncio and threads cannot stop, the benchmark's own work, is stopped here."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from support.supervising import StartSupervisor

from killable.supervisor.models import Submission
from killable.supervisor.settings import PoolSpec

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ASK = """
import dataclasses, json, sys
from cooperative import MECHANISMS, time_to_stop
def measure(mechanism):
    while True:
        measured = time_to_stop(sys.argv[1], mechanism, 0.3)
        if measured.cpu_s > 0 or measured.stopped_ms is not None:  # else it had no processor all the while
            return dataclasses.asdict(measured)
print(json.dumps([measure(mechanism) for mechanism in MECHANISMS]))
"""


@pytest.mark.row("H9")
@pytest.mark.row("H5")
@pytest.mark.parametrize("workload", ["python_loop", "native_loop"])
async def test_asking_politely_never_stops_it_and_a_cancel_does(workload: str, supervisor: StartSupervisor) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ASK, workload, cwd=BENCHMARKS, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    answers = json.loads(out)
    assert [answer["mechanism"] for answer in answers] == ["asyncio task", "thread"]
    assert all(answer["stopped_ms"] is None and answer["cpu_s"] > 0 for answer in answers), answers

    server = await supervisor(PoolSpec("bench", (str(BENCHMARKS / "workloads.py"),), workers=1))
    record = await server.submit(Submission(workload, b"{}"))
    async for _batch in server.events(record.job_id):
        break
    record = await server.cancel(record.job_id, grace_s=0)
    assert record.state == "cancelled" and record.certificate is not None
    assert record.certificate["exit_signal"] == "SIGKILL" and "tree_empty" in record.certificate
