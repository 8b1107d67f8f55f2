"""The colour of each state, the same wherever one is shown: in ps, workers, inspect, explain, nodes, top.

Runs in: any machine. The word stands beside the colour: who sees none (NO_COLOR, a pipe, colour blindness) loses
nothing.
"""

from __future__ import annotations

COLOURS = {
    # jobs
    "queued": "cyan",
    "running": "blue",
    "stopping": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "timed_out": "magenta",
    # workers
    "spawning": "cyan",
    "idle": "green",
    "busy": "blue",
    "leaving": "yellow",
    "quarantined": "red",
    # nodes and pools
    "joining": "cyan",
    "live": "green",
    "ready": "green",
    "starting": "cyan",
    "broken": "red",
    "suspect": "yellow",
    "draining": "yellow",
    "lost": "red",
    "refused": "red",
    "released": "",
}
"""Names of the eight colours that every terminal has; its owner decides how they look. Waiting is cyan, work blue, good
green, ending by request yellow, ended by a clock magenta, broken red."""


def colour_of(state: str) -> str:
    """Return the colour of a state; none for one of a newer server."""
    return COLOURS.get(state, "")
