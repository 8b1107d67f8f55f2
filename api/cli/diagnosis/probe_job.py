"""The self-check of `doctor`: submit, stream and cancel a job on a supervisor in this process.

Runs in: any process of a person's (Linux). No server is needed, and nothing is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from killable.api.cli.diagnosis.check_result import Check
from killable.api.cli.display.certificate import death_line
from killable.api.explanation import spelling
from killable.workers.errors import KillableError

if TYPE_CHECKING:
    from killable.supervisor.records import JobRecord
    from killable.supervisor.supervisor import Supervisor

ALL_S_MAX = 20.0
"""Seconds for all of it. It takes half a second on a working machine."""
_PROOFS = {
    "cgroup+descendants": ("ok", "cgroup.kill, and SIGKILL to every descendant", ""),
    "descendants": (
        "warn",
        "SIGKILL to every descendant, one by one",
        "a writable cgroup v2 also catches processes that hide from the search for descendants",
    ),
}


async def self_check() -> Sequence[Check]:
    """Return its checks: the time to the first token, the time to death, and the proof of death."""
    try:
        return await _bounded()
    except TimeoutError:
        advice = "the machine is too busy, or it forbids something that a worker needs; the checks above may show what"
        return [Check("self-check", "fail", f"not finished within {ALL_S_MAX:g} s", advice)]
    except (KillableError, OSError) as error:
        return [Check("self-check", "fail", str(error), "the checks above may show why")]


async def _bounded() -> Sequence[Check]:
    from killable.supervisor.settings import PoolSpec, Settings
    from killable.supervisor.supervisor import Supervisor

    pool = PoolSpec("doctor", ("killable.workers.builtin.probe",), workers=1)
    supervisor = Supervisor(Settings(pools=(pool,)))
    try:
        async with asyncio.timeout(ALL_S_MAX):
            began = time.perf_counter()
            await supervisor.start()
            warm_s = time.perf_counter() - began
            warm = Check("self-check: start", "ok", f"a warm worker after {spelling.duration(warm_s)}")
            await _probe(supervisor)  # the first job includes imports that a running server has done already
            return [warm, *await _probe(supervisor)]
    finally:
        await supervisor.close(grace_s=0)


async def _probe(supervisor: Supervisor) -> list[Check]:
    """Start the probe, wait for its first token, cancel it."""
    from killable.supervisor.models import Submission

    began = time.perf_counter()
    job = await supervisor.submit(Submission("probe", b"{}"))
    async for events in supervisor.events(job.job_id):
        if any(event.name == "token" for event in events):
            break
    token_s = time.perf_counter() - began
    began = time.perf_counter()
    record = await supervisor.cancel(job.job_id, by="user", reason="self-check", wait_s=ALL_S_MAX)
    dead_s = time.perf_counter() - began
    return [
        Check("self-check: submit → first token", "ok", spelling.duration(token_s)),
        _death(record, dead_s),
        _proof(record),
    ]


def _death(record: JobRecord, dead_s: float) -> Check:
    name, certificate = "self-check: cancel → dead", record.certificate or {}
    found = f"{spelling.duration(dead_s)}: {death_line(certificate)}"
    if record.state == "cancelled" and "tree_empty" in certificate:
        return Check(name, "ok", found)
    return Check(name, "fail", f"{record.state}: {found}", "a cancelled job cannot be proven dead on this machine")


def _proof(record: JobRecord) -> Check:
    proof = str((record.certificate or {}).get("proof", ""))
    if proof not in _PROOFS:
        return Check("self-check: proof", "fail", "none", "it is not proven that the process of the probe is gone")
    status, how, advice = _PROOFS[proof]
    return Check("self-check: proof", "ok" if status == "ok" else "warn", f"{proof}: {how}", advice)
