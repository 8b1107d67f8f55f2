"""The state of a job, coloured: with its place in the queue, or the share that it reported as done.

Runs in: any machine. Returns text; prints nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from killable.api.cli.display.state_colours import colour_of
from killable.api.explanation.state_words import percent


def state_text(name: str) -> Text:
    return Text(name, colour_of(name))


def job_state(job: Mapping[str, Any]) -> Text:
    """Return a job's state, with its place in the queue (#1 is next) or the share that it reported as done.

    What no node of a cluster can take now has no place: `explain` says why.
    """
    name, queue = str(job["state"]), job.get("queue") or {}
    position = queue.get("position")
    if name == "queued" and queue.get("detail"):
        return state_text(name).append(" no node", "dim")
    if name == "queued" and position is not None:
        return state_text(name).append(f" #{position + 1}", "dim")
    done = percent(job.get("progress")) if name == "running" else None
    return state_text(name) if done is None else state_text(name).append(f" {done}%", "dim")
