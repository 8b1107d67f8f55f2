"""Format durations, sizes, states, records and certificates for people.

Runs in: any machine. Returns text and tables; prints nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from killable.api.client.input_encoding import is_bytes
from killable.workers.authoring import units
from killable.workers.authoring.limits import flat
from killable.workers.errors import LOST

SHORT_CHARS = len("job-3f2a91c0")
"""Length of a displayed id: 32 bits of it. Every command accepts a unique prefix."""

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
    """Return a measured time: 0.4 ms, 12 ms, 1.3 s, 4m05s, 2h03m, 3d04h."""
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
    """Return a time as in a setting: 0.5 s, 5 s, 10m, 2h."""
    for unit, unit_s in (("h", 3600), ("m", 60)):
        if seconds >= unit_s and seconds % unit_s == 0:
            return f"{seconds / unit_s:g}{unit}"
    return duration(seconds) if seconds % 1 and seconds > 10 else f"{seconds:.3g} s"


def milliseconds(ms: float) -> str:
    return duration(ms / 1000)


def size(count: int | None) -> str:
    """Return a size: 512 B, 12 KiB, 1.5 GiB; "-" for one that is not known."""
    return "-" if count is None else units.size(count)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 token`, `2 tokens`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}".replace(",", " ")


def short(job_id: str) -> str:
    """Return the part of an id that is displayed."""
    return job_id[:SHORT_CHARS]


def plain(text: object) -> str:
    """Return the text in one line, without control characters: it must not move a terminal's cursor."""
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


def is_lost(record: Mapping[str, Any]) -> bool:
    """Return whether a job was lost with its server or its machine; then only its record is left."""
    return (record.get("error") or {}).get("code") in LOST


def ended_by(record: Mapping[str, Any]) -> str:
    """Return a state with its cause: `cancelled by user`, `timed_out timeout.run`, `failed exception`."""
    name = str(record.get("state") or record.get("status"))
    certificate, error = record.get("certificate") or {}, record.get("error") or {}
    by = certificate.get("by") or error.get("by")
    if name == "cancelled":
        return f"cancelled by {by}" if by else name
    return f"{name} ({error['code']})" if error.get("code") else name


def progress(reported: Mapping[str, Any] | None) -> str:
    """Return the last progress that a job reported: `45%, 9 of 20 chunks`, `9 chunks`; empty when it reported none."""
    if not reported or not isinstance(reported.get("done"), (int, float)):
        return ""
    done, total, unit = reported["done"], reported.get("total"), plain(reported.get("unit") or "")
    share_ = percent(reported)
    words = f"{_count(done)} of {_count(total)}" if isinstance(total, (int, float)) else _count(done)
    return f"{'' if share_ is None else f'{share_}%, '}{words} {unit}".rstrip()


def percent(reported: Mapping[str, Any] | None) -> int | None:
    """Return 0 to 100, or None if the job reports no total."""
    total = (reported or {}).get("total")
    done = (reported or {}).get("done")
    if not isinstance(total, (int, float)) or not isinstance(done, (int, float)) or total <= 0:
        return None
    return max(0, min(100, int(100 * done / total)))


def _count(number: float) -> str:
    return f"{number:,.0f}".replace(",", " ") if float(number).is_integer() else f"{number:.3g}"


def job_state(job: Mapping[str, Any]) -> Text:
    """Return a job's state, with its place in the queue (#1 is next) or the share that it reported as done."""
    name = str(job["state"])
    position = (job.get("queue") or {}).get("position")
    if name == "queued" and position is not None:
        return state(name).append(f" #{position + 1}", "dim")
    done = percent(job.get("progress")) if name == "running" else None
    return state(name) if done is None else state(name).append(f" {done}%", "dim")


def share(cpu: float | None) -> str:
    """Return a share of one core as a percentage."""
    return "-" if cpu is None else f"{cpu:.0%}"


def signature(schema: Mapping[str, Any]) -> str:
    """Return an input's members in Python style: `text: string, chunk: integer = 4000`."""
    required = set(schema.get("required", ()))
    parts = []
    for name, member in schema.get("properties", {}).items():
        type_ = kind(member)
        default = f" = {json.dumps(member['default'])}" if "default" in member else "" if name in required else " = ..."
        parts.append(f"{name}{f': {type_}' if type_ else ''}{default}")
    return plain(", ".join(parts)) or "-"


def kind(member: Mapping[str, Any]) -> str:
    """Return the type of a member's schema: `bytes`, `integer|null`, `"fast"|"slow"`; empty if it names none."""
    if is_bytes(member):
        return "bytes"
    if "enum" in member:
        return "|".join(json.dumps(value) for value in member["enum"])
    if isinstance(member.get("type"), str):
        return str(member["type"])
    if isinstance(member.get("type"), list):
        return "|".join(str(name) for name in member["type"])
    forms = member.get("anyOf") or member.get("oneOf") or ()
    return "|".join(filter(None, map(kind, forms)))


def facts_table(members: Mapping[str, Any]) -> Table:
    """Return members as two columns; empty ones are left out, long text keeps its line breaks."""
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
    if name == "progress" and isinstance(value, Mapping):
        return Text(progress(value))
    if name in ("limits", "caps", "limit_sources"):
        members = ((limit, whole, each) for limit, whole, each in flat(value) if each != {})
        return Text("  ".join(f"{whole}={short_value(limit, each)}" for limit, whole, each in members))
    if isinstance(value, Mapping) and not any(isinstance(member, (Mapping, list)) for member in value.values()):
        return Text("  ".join(f"{key}={short_value(key, member)}" for key, member in value.items()))
    return Text(short_value(name, value))


def short_value(name: str, value: Any) -> str:
    """Return a value in the unit that its name shows."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value).replace("null", "none")
    if name.endswith("_bytes") and isinstance(value, int):
        return size(value)
    if name.endswith("_s") and isinstance(value, (int, float)):
        return setting(float(value))
    if name == "cpu" and isinstance(value, (int, float)):
        return share(value)
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def certificate_table(certificate: Mapping[str, Any]) -> Group:
    """Return the phases with their times since the request, then its other members, then the stack."""
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
    # Folded also on a console with soft_wrap, which cuts the long lines of a group.
    return Group(table, Text(stack, overflow="fold", no_wrap=False)) if stack else Group(table)


def pid(worker: Mapping[str, Any]) -> str:
    """Return the process id of a worker, or a dash."""
    return str(worker.get("pid") or "-")
