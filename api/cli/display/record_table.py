"""Members of a record as a table of names and values.

Runs in: any machine. Returns text and tables; prints nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from killable.api.cli.display.job_state import state_text
from killable.api.explanation.spelling import setting, share, size
from killable.api.explanation.state_words import progress_text
from killable.workers.authoring.limits_and_caps import flat


def facts_table(members: Mapping[str, Any]) -> Table:
    """Return members as two columns; empty ones are left out, long text keeps its line breaks."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in members.items():
        if value not in (None, "", {}, []):
            table.add_row(name, cell(name, value))
    return table


def cell(name: str, value: Any) -> Text:
    if name in ("state", "status"):
        return state_text(str(value))
    if name == "progress" and isinstance(value, Mapping):
        return Text(progress_text(value))
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
