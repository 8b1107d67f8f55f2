"""What `serve` says when it is up: where it listens, its pools and their job types, and what guards the machine.

Runs in: supervisor.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from killable.api.cli import exits

if TYPE_CHECKING:
    from killable.supervisor.engine import Engine
    from killable.supervisor.job import JobType, PoolRecord

_PROOFS = {
    "cgroup+descendants": "cgroup.kill, and every descendant (proof cgroup+descendants)",
    "descendants": "every descendant (proof descendants; no writable cgroup: `killable doctor` says why)",
}
_STATE_STYLES = {"ready": "green", "broken": "red"}


async def print_to(engine: Engine, url: str, as_json: bool) -> None:
    """Print to stderr, or as one JSON document to stdout."""
    pools, types = await engine.pools(), await engine.job_types()
    if as_json:
        exits.print_json(
            {
                "url": url,
                "pid": os.getpid(),
                "version": version("killable"),
                "instance_id": engine.instance_id,
                "pools": [asdict(pool) for pool in pools],
                "job_types": [_type_members(job_type) for job_type in types],
            },
            one_line=True,
        )
        return
    console = exits.stderr_console()
    console.print(Text.assemble(("killable ", "bold"), version("killable"), "  ", (url, "bold cyan")))
    console.print(_pools_table(pools, types), soft_wrap=False)
    for text in (*_troubles(pools, types), *_guards(pools)):
        console.print(text)
    console.print("Ctrl-C ends every job with its grace, then this server", style="dim")


def _type_members(job_type: JobType) -> dict[str, object]:
    names = ("name", "description", "pool", "available", "unavailable_reason")
    return {name: getattr(job_type, name) for name in names}


def _pools_table(pools: Sequence[PoolRecord], types: Sequence[JobType]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("POOL", "STATE", "WORKERS", "START", "JOB TYPES"):
        table.add_column(name)
    for pool in pools:
        names = [job_type.name for job_type in types if job_type.pool == pool.name]
        table.add_row(
            pool.name,
            Text(pool.state, _STATE_STYLES.get(pool.state, "yellow")),
            str(pool.workers_max),
            pool.start_method,
            " ".join(names) or "-",
        )
    return table


def _troubles(pools: Sequence[PoolRecord], types: Sequence[JobType]) -> list[Text]:
    lines = []
    for pool in pools:
        if pool.detail:
            label = "broken: " if pool.state == "broken" else "note: "
            lines.append(Text.assemble((f"pool {pool.name} {label}", "bold yellow"), pool.detail.rstrip()))
    for job_type in types:
        if not job_type.available:
            lines.append(
                Text.assemble((f"{job_type.name} is unavailable: ", "bold yellow"), job_type.unavailable_reason)
            )
    return lines


def _guards(pools: Sequence[PoolRecord]) -> list[Text]:
    proofs = sorted({pool.proof for pool in pools})
    kills = "; ".join(_PROOFS.get(proof, proof) for proof in proofs)
    return [
        Text.assemble(("kills   ", "dim"), f"through pidfds, {kills}"),
        Text.assemble(("guards  ", "dim"), "one per pool: nothing outlives this server, even when it is killed"),
    ]
