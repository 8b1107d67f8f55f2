"""What `serve` prints when it is up: its address, its pools and their job types, who has access, how jobs are killed.

Runs in: supervisor.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from killable.api.cli.display import console
from killable.api.cli.display.job_state import state_text
from killable.api.cli.display.record_table import short_value
from killable.api.explanation import spelling
from killable.api.http.host_and_origin import is_loopback
from killable.supervisor.linux.inherited_environment import withheld
from killable.workers.authoring.limits_and_caps import value_of

if TYPE_CHECKING:
    from killable.api.cli.server.configuration import InForce
    from killable.supervisor.engine import Engine
    from killable.supervisor.models import JobType
    from killable.supervisor.records import NodeRecord, PoolRecord

logger = logging.getLogger("killable.server")

_PROOFS = {
    "cgroup+descendants": "cgroup.kill, and SIGKILL to every descendant (proof: cgroup+descendants)",
    "descendants": "SIGKILL to every descendant (proof: descendants; no writable cgroup, `killable doctor` shows why)",
}
NODES_MAX = 4
"""Nodes that are named; `killable nodes` has all."""


async def print_to(engine: Engine, in_force: InForce, url: str, as_json: bool) -> None:
    """Print to stderr, or as one JSON document to stdout. A log in JSON gets a record instead of lines for people."""
    pools, types, nodes = await engine.pools(), await engine.job_types(), await engine.nodes()
    members = {
        "url": url,
        "pid": os.getpid(),
        "version": version("killable"),
        "instance_id": engine.instance_id,
        "pools": [pool._asdict() for pool in pools],
        "job_types": [_type_members(job_type) for job_type in types],
        "keys": key_members(in_force),
        "operator_socket": in_force.config.server.operator_socket or None,
    }
    if as_json:
        console.print_json(members, one_line=True)
        return
    if in_force.config.server.log_format == "json":
        logger.info("serving", extra=members)
        return
    stderr = console.stderr_console()
    stderr.print(Text.assemble(("killable ", "bold"), version("killable"), "  ", (url, "bold cyan")))
    stderr.print(pools_table(pools, types), soft_wrap=False)
    ending = _nodes(nodes, in_force) if nodes else _guards()
    about = (*troubles(pools, types), *sandboxes(pools), *_kills(pools), *ending)
    for text in (*about, *_withheld(in_force), *_access(in_force)):
        stderr.print(text)
    stderr.print(_ending(in_force.config.server.drain_s), style="dim")


def _ending(drain_s: float) -> str:
    """Return what Ctrl-C does."""
    drains = f"refuses new jobs, lets the others finish for {spelling.setting(drain_s)}, then " if drain_s else ""
    return f"Ctrl-C {drains}ends every job with its grace, then this server; a second Ctrl-C kills at once"


def key_members(in_force: InForce) -> list[dict[str, Any]]:
    """Return the names and roles of the API keys, never the keys."""
    return [{"name": key.name, "role": key.role} for key in in_force.keys]


def _access(in_force: InForce) -> list[Text]:
    server = in_force.config.server
    where = server.uds or server.host
    keys = ", ".join(f"{key.name} ({key.role})" for key in in_force.keys)
    who = f"with a key: {keys}" if keys else f"no key: anyone who can connect to {where} may start and stop jobs"
    lines = [Text.assemble(("access  ", "dim"), who)]
    if server.operator_socket:
        lines.append(Text.assemble(("        ", "dim"), f"operators: unix:{server.operator_socket}, without a key"))
    if not server.uds and not is_loopback(server.host.strip("[]").lower()):
        lines.append(
            Text.assemble(
                ("        ", "dim"), "plain HTTP, so keys can be read in transit: put a proxy with TLS in front"
            )
        )
        if server.host.strip("[]") in ("0.0.0.0", "::") and not server.allowed_hosts:
            names = "other machines are refused (421) until server.allowed_hosts lists the host names that they use"
            lines.append(Text.assemble(("note: ", "bold yellow"), names))
    if len(in_force.keys) > 1:
        shared = [pool.name for pool in in_force.config.settings.pools if pool.jobs_per_worker_max != 1]
        words = "uses workers again, for other keys too: a hostile job can read later inputs (jobs_per_worker_max)"
        lines += [Text.assemble((f"pool {name} note: ", "bold yellow"), words) for name in shared]
    return lines


def _type_members(job_type: JobType) -> dict[str, object]:
    names = ("name", "description", "pool", "available", "unavailable_reason")
    return {name: getattr(job_type, name) for name in names}


def pools_table(pools: Sequence[PoolRecord], types: Sequence[JobType]) -> Table:
    """Return a table with the columns POOL STATE WORKERS START JOB TYPES."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("POOL", "STATE", "WORKERS", "START", "JOB TYPES"):
        table.add_column(name)
    for pool in pools:
        names = [job_type.name for job_type in types if job_type.pool == pool.name]
        table.add_row(
            pool.name,
            state_text(pool.state),
            str(pool.workers_max),
            pool.start_method,
            " ".join(names) or "-",
        )
    return table


def troubles(pools: Sequence[PoolRecord], types: Sequence[JobType]) -> list[Text]:
    """Return what is broken or degraded, with tracebacks and install commands, and limits that a cap has lowered."""
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
        lines += [
            Text.assemble(
                (f"{job_type.name} note: ", "bold yellow"),
                f"{source} lowers its {limit} to {short_value(limit, value_of(job_type.limits, limit))}",
            )
            for limit, source in job_type.limit_sources.items()
            if f".{source}".endswith(f".caps.{limit}")
        ]
    return lines


def sandboxes(pools: Sequence[PoolRecord]) -> list[Text]:
    """Return what the jobs of each pool with a sandbox may not do."""
    return [Text.assemble(("sandbox ", "dim"), f"{pool.name}: {pool.sandbox}") for pool in pools if pool.sandbox]


def _withheld(in_force: InForce) -> list[Text]:
    """Return the variables of this server that look like secrets, and that its jobs do not get."""
    names = {name for pool in in_force.config.settings.pools for name in withheld(os.environ, pool.environment)}
    told = f"jobs do not get {', '.join(sorted(names))}; list what they need under environment of their pool"
    return [Text.assemble(("secrets ", "dim"), told)] if names else []


def _kills(pools: Sequence[PoolRecord]) -> list[Text]:
    proofs = sorted({pool.proof for pool in pools})
    kills = "; ".join(_PROOFS.get(proof, proof) for proof in proofs)
    return [Text.assemble(("kills   ", "dim"), f"by pidfd: {kills}")]


def _guards() -> list[Text]:
    what = "one per pool: ends all jobs when this server is killed; when both are, the next start does"
    return [Text.assemble(("guards  ", "dim"), what)]


def _nodes(nodes: Sequence[NodeRecord], in_force: InForce) -> list[Text]:
    """Return which machines of a cluster there are, and what ends their jobs without this server."""
    names = [each.name if each.state == "live" else f"{each.name} ({each.state})" for each in nodes[:NODES_MAX]]
    more = f" and {len(nodes) - NODES_MAX} more" if len(nodes) > NODES_MAX else ""
    lease = spelling.setting(in_force.config.cluster.lease_s)
    ends = f"a node that has heard nothing from this server for {lease} ends all its jobs by itself"
    return [Text.assemble(("nodes   ", "dim"), f"{', '.join(names)}{more}"), Text.assemble(("lease   ", "dim"), ends)]
