"""What people see: durations, sizes, tables of jobs and workers, records, certificates, deaths in one line.

Runs in: any machine. Returns text and tables; prints nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

SHORT_CHARS = len("job-3f2a91c0")
"""What of an id people are shown: 32 bits, and every command takes a unique prefix."""

_STATE_STYLES = {
    "queued": "cyan",
    "running": "blue",
    "stopping": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "timed_out": "magenta",
    "idle": "green",
    "busy": "blue",
    "spawning": "cyan",
    "quarantined": "red",
}
PHASES = ("term_sent", "delivered", "acknowledged", "kill_sent", "exited", "reaped", "tree_empty", "slot_ready")
_PHASE_WORDS = {
    "term_sent": "SIGTERM sent",
    "delivered": "signal delivered",
    "acknowledged": "acknowledged",
    "kill_sent": "SIGKILL sent",
    "exited": "exited",
    "reaped": "reaped",
    "tree_empty": "tree empty",
    "slot_ready": "slot ready",
}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def duration(seconds: float | None) -> str:
    """Return a time as people read it: 0.4 ms, 12 ms, 1.3 s, 4m05s, 2h03m, 3d04h."""
    if seconds is None:
        return "-"
    if seconds < 0.0995:
        ms = seconds * 1000
        return f"{ms:.1f} ms" if ms < 9.95 else f"{ms:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def setting(seconds: float) -> str:
    """Return a time as people set it: 0.5 s, 5 s, 10m, 2h."""
    for unit, unit_s in (("h", 3600), ("m", 60)):
        if seconds >= unit_s and seconds % unit_s == 0:
            return f"{seconds / unit_s:g}{unit}"
    return duration(seconds) if seconds % 1 and seconds > 10 else f"{seconds:.3g} s"


def milliseconds(ms: float) -> str:
    return duration(ms / 1000)


def size(count: int | None) -> str:
    """Return bytes as people read them: 512 B, 12 KiB, 1.5 GiB."""
    if count is None:
        return "-"
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1023.5 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:.0f} {unit}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 token`, `2 tokens`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}".replace(",", " ")


def short(job_id: str) -> str:
    """Return the part of an id that people are shown."""
    return job_id[:SHORT_CHARS]


def plain(text: object) -> str:
    """Return one line that cannot move a terminal's cursor."""
    return _CONTROL.sub("�", " ".join(str(text).split("\n")))


def state(name: str) -> Text:
    return Text(name, _STATE_STYLES.get(name, ""))


def age_s(moment: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds since an RFC 3339 time, never negative: two machines' clocks differ."""
    if moment is None:
        return None
    then = datetime.fromisoformat(moment)
    return max(0.0, ((now or datetime.now(UTC)) - then).total_seconds())


def lasted_s(record: Mapping[str, Any]) -> float | None:
    """Return how long a job took, from its acceptance to its end."""
    if not record.get("ended_at"):
        return None
    ended = datetime.fromisoformat(record["ended_at"])
    return age_s(record["created_at"], ended)


def death(certificate: Mapping[str, Any] | None) -> str:
    """Return `dead after 1.3 ms (SIGTERM acknowledged 0.4 ms, tree empty 1.3 ms, 1 process)`, or what else is known."""
    if not certificate or not any(phase in certificate for phase in PHASES):
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


def ended_by(record: Mapping[str, Any]) -> str:
    """Return a state with its cause: `cancelled by user`, `timed_out timeout.run`, `failed exception`."""
    name = str(record.get("state") or record.get("status"))
    certificate, error = record.get("certificate") or {}, record.get("error") or {}
    by = certificate.get("by") or error.get("by")
    if name == "cancelled":
        return f"cancelled by {by}" if by else name
    return f"{name} ({error['code']})" if error.get("code") else name


def jobs_table(jobs: Sequence[Mapping[str, Any]], workers: Iterable[Mapping[str, Any]], *, wide: bool) -> Table:
    """Return JOB TYPE STATE AGE TOKENS WORKER PID CPU RSS; `wide`: with full ids."""
    table = _table("JOB", "TYPE", "STATE", "AGE>", "TOKENS>", "WORKER", "PID>", "CPU>", "RSS>")
    holders = {worker["job_id"]: worker for worker in workers if worker.get("job_id")}
    for job in jobs:
        worker = holders.get(job["job_id"], {})
        name = job["job_id"] if wide else short(job["job_id"])
        age = duration(age_s(job["created_at"]))
        table.add_row(name, job["type"], state(job["state"]), age, str(job["tokens"]), *_process_cells(worker))
    return table


def _process_cells(worker: Mapping[str, Any]) -> tuple[str, str, str, str]:
    cpu = worker.get("cpu")
    return (
        str(worker.get("worker_id") or "-"),
        str(worker.get("pid") or "-"),
        "-" if cpu is None else f"{cpu:.0%}",
        size(worker.get("rss_bytes")),
    )


def facts_table(members: Mapping[str, Any]) -> Table:
    """Return members as two columns; what is empty is left out, long text keeps its lines."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in members.items():
        if value not in (None, "", {}, []):
            table.add_row(name, _cell(name, value))
    return table


def _cell(name: str, value: Any) -> Text:
    if name in ("state", "status"):
        return state(str(value))
    if isinstance(value, Mapping) and not any(isinstance(member, (Mapping, list)) for member in value.values()):
        return Text("  ".join(f"{key}={_short_value(key, member)}" for key, member in value.items()))
    return Text(_short_value(name, value))


def _short_value(name: str, value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value).replace("null", "none")
    if name.endswith("_bytes") and isinstance(value, int):
        return size(value)
    if name.endswith("_s") and isinstance(value, (int, float)):
        return setting(float(value))
    if name == "cpu":
        return f"{value:.0%}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def certificate_table(certificate: Mapping[str, Any]) -> Group:
    """Return the phases with their times since the request, then everything else that is known, then the stack."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    asked = "requested" in certificate
    for phase in PHASES:
        happened = phase in certificate
        if happened or (asked and phase in ("delivered", "acknowledged", "kill_sent") and "term_sent" in certificate):
            when = milliseconds(certificate[phase]) if happened else "-"
            table.add_row(_PHASE_WORDS[phase], Text(when, "" if happened else "dim"))
    rest = {name: value for name, value in certificate.items() if name not in (*PHASES, "requested", "stack")}
    for name, value in rest.items():
        table.add_row(name, _cell(name, value))
    stack = str(certificate.get("stack") or "").rstrip()
    return Group(table, Text(stack, overflow="fold")) if stack else Group(table)


def _table(*columns: str) -> Table:
    """Return an empty table; a column whose name ends in > holds numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", border_style="dim")
    for name in columns:
        table.add_column(name.removesuffix(">"), justify="right" if name.endswith(">") else "left", no_wrap=True)
    return table
