"""Is this the output that a page shows?

What differs from run to run counts for nothing: spans, sizes, ids, numbers with a point or of three digits and more,
where a line is broken and how wide a column is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

ANY_LINES = "..."
"""A line of a page that stands for any number of lines."""
JOB_ID = re.compile(r"job-[0-9a-f]{8}[0-9a-f-]*")
SHORT_ID = len("job-3f2a91c0")

_MASKS = tuple(
    (re.compile(pattern, re.MULTILINE), instead)
    for pattern, instead in (
        (r"^kills  +.*", "KILLS"),  # what there is of it differs from machine to machine
        (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "ID"),
        (JOB_ID.pattern, "JOB"),
        (r"\bw-\d+\b", "WORKER"),
        (r"\b[0-9a-f]{32}\b", "HEX"),
        (r"\b0x[0-9a-f]+\b", "ADDRESS"),
        (r"\b\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d+)?Z)?", "DATE"),
        (r"\b\d\d:\d\d:\d\d(\.\d+)?", "TIME"),
        (r"(less than )?\b\d[\d,.]*\s*(µs|ms|s|min|h)\b", "SPAN"),
        (r"\b\d[\d,.]*\s+(B|KiB|MiB|GiB)\b", "SIZE"),
        (r"\b\d+%", "PERCENT"),
        (r"\d+ ended in the last minute", "N ended in the last minute"),
        (r"\b\d+\.\d+(e[+-]?\d+)?\b|\b\d{3,}\b", "N"),
        (r"\b(cgroup\+)?descendants\b", "PROOF"),
        (r"[─━]+", "─"),
        (r"\s+", " "),
        (r" SPAN the next worker was ready in its place", ""),  # perhaps not yet
        (r', ?"slot_ready(_ms)?": ?N', ""),  # perhaps not yet
    )
)


def masked(lines: Sequence[str]) -> str:
    """Return the lines as one, without what may differ."""
    text = "\n".join(lines)
    for pattern, instead in _MASKS:
        text = pattern.sub(instead, text)
    return text.strip()


def is_shown(shown: Sequence[str], printed: Sequence[str]) -> bool:
    """Tell whether the lines that a page shows are those that were printed."""
    parts: list[list[str]] = [[]]
    for line in shown:
        if line == ANY_LINES:
            parts.append([])
        else:
            parts[-1].append(line)
    pattern = ".*".join(re.escape(masked(part)) for part in parts)
    return re.fullmatch(pattern, masked(printed)) is not None


def ids_of(shown: Sequence[str], printed: Sequence[str], known: Collection[str]) -> Mapping[str, str]:
    """Return which real job stands for which of the page, by their ids, whole and short, in the order of both.

    Those that are known stand in both as the page has them.
    """
    on_page, here = (
        [each for each in dict.fromkeys(JOB_ID.findall("\n".join(lines))) if each not in known]
        for lines in (shown, printed)
    )
    meant = {}
    for of_page, real in zip(on_page, here, strict=False):
        meant[of_page] = real
        meant[of_page[:SHORT_ID]] = real[:SHORT_ID]
    return meant
