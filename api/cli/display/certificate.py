"""The certificate of a job's end: in one line, and as a table of its phases.

Runs in: any machine. Returns text and tables; prints nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from killable.api.cli.display.record_table import cell
from killable.api.explanation.spelling import counted, milliseconds
from killable.api.explanation.state_words import PHASES

PHASE_WORDS = {
    "term_sent": "SIGTERM sent",
    "delivered": "signal delivered",
    "acknowledged": "acknowledged",
    "kill_sent": "SIGKILL sent",
    "exited": "exited",
    "reaped": "reaped",
    "tree_empty": "tree empty",
    "slot_ready": "slot ready",
}


def death_line(certificate: Mapping[str, Any] | None) -> str:
    """Return `dead after 1.3 ms (SIGTERM acknowledged 0.4 ms, tree empty 1.3 ms, 1 process)`, or similar."""
    if certificate is None:
        return "how its process ended is not known"
    if not any(phase in certificate for phase in PHASES):
        return "dead (it had no process)"
    parts = []
    if "acknowledged" in certificate:
        parts.append(f"SIGTERM acknowledged {milliseconds(certificate['acknowledged'])}")
    elif "delivered" in certificate:
        parts.append(f"SIGTERM delivered {milliseconds(certificate['delivered'])}, not acknowledged")
    elif "term_sent" in certificate:
        parts.append("SIGTERM not delivered")
    if "kill_sent" in certificate:
        parts.append(f"SIGKILL {milliseconds(certificate['kill_sent'])}")
    if "tree_empty" not in certificate:
        return f"NOT PROVEN DEAD ({', '.join(parts)})" if parts else "NOT PROVEN DEAD"
    tree_empty = milliseconds(certificate["tree_empty"])
    parts += [f"tree empty {tree_empty}", counted(1 + certificate.get("processes_swept", 0), "process", "processes")]
    return f"dead after {tree_empty} ({', '.join(parts)})"


def certificate_table(certificate: Mapping[str, Any]) -> Group:
    """Return the phases with their times since the request, then its other members, then the stack."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    asked = "requested" in certificate
    for phase in PHASES:
        happened = phase in certificate
        if happened or (asked and phase in ("delivered", "acknowledged", "kill_sent") and "term_sent" in certificate):
            when = _moment(float(certificate[phase])) if happened else "-"
            table.add_row(PHASE_WORDS[phase], Text(when, "" if happened else "dim"))
    rest = {name: value for name, value in certificate.items() if name not in (*PHASES, "requested", "stack")}
    for name, value in rest.items():
        table.add_row(name, cell(name, value))
    stack = str(certificate.get("stack") or "").rstrip()
    # Folded also on a console with soft_wrap, which cuts the long lines of a group.
    return Group(table, Text(stack, overflow="fold", no_wrap=False)) if stack else Group(table)


def _moment(ms: float) -> str:
    """Return when a phase was, so that phases within a second can be told apart."""
    return f"{ms:.0f} ms" if 100 <= ms < 1000 else milliseconds(ms)
