"""Job types as MCP describes tools.

Runs in: api. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mcp_types import Tool, ToolAnnotations

from killable.supervisor.models import JobType
from killable.supervisor.records import PoolRecord


def is_tool(job_type: JobType) -> bool:
    """Return whether clients can call a type: it is available, and its values are JSON."""
    return job_type.available and job_type.codec == "json"


def tools_of(types: Sequence[JobType], pools: Sequence[PoolRecord]) -> list[Tool]:
    """Return the tools of a server, by name. Names of job types are valid names of tools."""
    sandboxes = {pool.name: pool.sandbox for pool in pools}
    return [
        Tool(
            name=each.name,
            description=_description(each),
            input_schema=each.input_schema,
            annotations=_annotations(each, sandboxes),
        )
        for each in sorted(types, key=lambda each: each.name)
        if is_tool(each)
    ]


def _description(job_type: JobType) -> str:
    run_s = job_type.limits["run_s"]
    bound = "" if run_s is None else f"Runs for {run_s:g} s at most."
    return "\n\n".join(part for part in (job_type.description, bound) if part)


def _annotations(job_type: JobType, sandboxes: Mapping[str, str]) -> ToolAnnotations | None:
    """Return what is known: of the sandbox that the kernel enforces, and what the author says of a rerun."""
    forbids = sandboxes.get(job_type.pool, "").split("; ")
    keeps_apart, writes_nothing = "no network" in forbids, "writes nothing" in forbids
    known = ToolAnnotations(
        read_only_hint=True if keeps_apart and writes_nothing else None,
        open_world_hint=False if keeps_apart else None,
        idempotent_hint=True if job_type.on_loss == "rerun" else None,
    )
    return known if known != ToolAnnotations() else None
