"""The report of a run for a terminal: the machine, tables of figures, histograms.

Runs in: any machine. Returns renderables; prints nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from killable.api.cli.bench.machine import NOISE_MAX, words
from killable.api.cli.bench.percentiles import median
from killable.api.cli.bench.results import OWN, SHARE, Results, Row
from killable.api.cli.display.certificate import PHASE_WORDS
from killable.api.cli.display.fitted_table import Column, Listing

CANCELS, RATES, MEMORY, RECOVERY, SERVER, LOAD = "cancel", "rate", "memory", "recovery", "server", "load"
BLOCKS = " ▁▂▃▄▅▆▇█"
COLUMNS, NAME_COLUMNS_MAX = 80, 40
"""Of histograms."""
LEFT_OUT = ("term_sent", "slot_ready", "reaped", "exited")
"""Of the phases: where there is no room, in this order."""
BUSY_LOAD = 0.5
"""Load per core at the start, above which the machine is busy."""


def section_of(row: Row) -> str:
    """Return the section that a row stands in."""
    return RATES if row.unit == "/s" else row.part.partition("-")[0]


def number(value: float | None) -> str:
    """Return three figures of a number, or all that stand before the point."""
    if value is None:
        return "-"
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:,.{digits}f}".replace(",", " ")


def is_busy(machine: Mapping[str, Any], noise: Sequence[float]) -> bool:
    """Return whether the machine disturbed what was measured."""
    return max(noise, default=0.0) > NOISE_MAX or machine["load"][0] > BUSY_LOAD * machine["cores"]


def head(document: Mapping[str, Any]) -> Iterator[Text]:
    """Yield the lines about the machine, above the tables."""
    machine = document["machine"]
    yield Text(f"killable {document['version']} on {words(machine)}, {'' if machine['root'] else 'not '}as root")
    noise = " then ".join(f"{share:.0%}".replace("%", " %") for share in document["noise"])
    yield Text(f"load {machine['load'][0]:.1f}, machine noise {noise}, seed {document['seed']}")
    if is_busy(machine, document["noise"]):
        yield Text(
            "The machine is busy with other things: times are longer than they would be, and differ from run to run.",
            "yellow",
        )


def sections(results: Results) -> Iterator[RenderableType]:
    """Yield the tables of all that was measured, and the histograms."""
    rows = {name: [row for row in results.rows if section_of(row) == name and row.p50 is not None] for name in
            (CANCELS, RATES, MEMORY, RECOVERY, SERVER, LOAD)}  # fmt: skip
    if rows[CANCELS]:
        yield _cancels(rows[CANCELS])
        yield _phases(rows[CANCELS])
    if rows[RATES]:
        yield _rates(rows[RATES])
    for name, title in ((RECOVERY, "AFTER A KILL, ms"), (SERVER, "SERVER, ms")):
        if rows[name]:
            yield _plain(title, rows[name])
    if rows[MEMORY]:
        yield _memory(rows[MEMORY])
    if rows[LOAD]:
        yield _load(rows[LOAD])
    timed = [row for row in results.rows if row.unit == "ms" and row.values]
    if timed:
        yield histograms(timed)


def _cancels(rows: Iterable[Row]) -> Listing:
    listing = Listing((
        Column("CANCEL → DEAD, ms", cut=True), Column("N", drop=2, numeric=True), Column("P50", numeric=True),
        Column("P99", numeric=True), Column("WORST", numeric=True), Column("TOLD", drop=1, numeric=True),
        Column("BARE KILL", numeric=True), Column("RATIO", numeric=True),
    ))  # fmt: skip
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.1f} ×"
        listing.add(
            row.what, str(len(row.values)), Text(number(row.p50), "bold"), number(row.p99), number(row.worst),
            number(median(row.told)), number(median(row.bare)), ratio,
        )  # fmt: skip
    return listing


def _phases(rows: Sequence[Row]) -> Listing:
    names = [name for name in PHASE_WORDS if any(name in row.phases for row in rows)]
    titles = [PHASE_WORDS[name].upper().replace("SIGNAL ", "").replace(" SENT", "") for name in names]
    columns = [
        Column(title, drop=LEFT_OUT.index(name) + 1 if name in LEFT_OUT else 0, numeric=True)
        for name, title in zip(names, titles, strict=True)
    ]
    listing = Listing((Column("CERTIFICATE, ms"), *columns))
    for row in rows:
        listing.add(row.what, *(number(median(row.phases.get(name, []))) for name in names))
    return listing


def _plain(title: str, rows: Iterable[Row]) -> Listing:
    listing = Listing(
        (Column(title, cut=True), Column("N", drop=1, numeric=True), Column("P50", numeric=True),
         Column("P99", drop=2, numeric=True), Column("WORST", numeric=True))
    )  # fmt: skip
    for row in rows:
        listing.add(row.what, str(len(row.values)), Text(number(row.p50), "bold"), number(row.p99), number(row.worst))
    return listing


def _rates(rows: Iterable[Row]) -> Listing:
    listing = Listing(
        (Column("A SECOND", cut=True), Column("N", drop=1, numeric=True), Column("P50", numeric=True),
         Column("LEAST", drop=2, numeric=True))
    )  # fmt: skip
    for row in rows:
        listing.add(row.what, str(len(row.values)), Text(number(row.p50), "bold"), number(row.worst))
    return listing


def _memory(rows: Sequence[Row]) -> Listing:
    listing = Listing(
        (Column("MEMORY, MiB", cut=True), Column("N", drop=1, numeric=True), Column("ITS SHARE (PSS)", numeric=True),
         Column("ITS OWN (USS)", numeric=True))
    )  # fmt: skip
    own = {row.what: row for row in rows if row.unit == OWN}
    for row in rows:
        if row.unit == SHARE:
            listing.add(row.what, str(len(row.values)), Text(number(row.p50), "bold"), number(own[row.what].p50))
    return listing


def _load(rows: Iterable[Row]) -> Listing:
    listing = Listing((
        Column("LOAD: EVENT → READER, ms", cut=True), Column("EVENTS", numeric=True), Column("LOST", numeric=True),
        Column("P50", numeric=True), Column("P99", numeric=True), Column("WORST", drop=2, numeric=True),
        Column("EVENTS/S", drop=3, numeric=True), Column("SERVER MiB", drop=1, numeric=True),
    ))  # fmt: skip
    for row in rows:
        lost, facts = row.facts.get("lost"), row.facts
        listing.add(
            row.what, number(facts.get("events", 0)).partition(".")[0],
            Text("-" if lost is None else f"{lost:.0f}", "bold red" if lost else "bold green"),
            Text(number(row.p50), "bold"), number(row.p99), number(row.worst), number(facts.get("events_per_s")),
            f"{number(facts.get('server_mib_before'))} → {number(facts.get('server_mib_most'))}"
            if "server_mib_most" in facts else "-",
        )  # fmt: skip
    return listing


# ── histograms ──


def histograms(rows: Sequence[Row]) -> Text:
    """Return a line for each row and each bare kill beside one: how often each time came, on a logarithmic axis."""
    lines = [(row.what, row.values, "cyan") for row in rows]
    lines = [line for row, line in zip(rows, lines, strict=True) for line in
             (line, *([("  bare SIGKILL", row.bare, "dim")] if row.bare else []))]  # fmt: skip
    every = [value for _, values, _ in lines for value in values]
    low = math.floor(math.log10(max(1e-3, min(every))))
    high = max(low + 1, math.ceil(math.log10(max(1e-3, *every))))
    title = "how often, ms"
    name_columns = min(NAME_COLUMNS_MAX, max(len(title), *(len(what) for what, _, _ in lines)) + 2)
    last = f"{10.0**high:g}"
    wide = max(4, (COLUMNS - name_columns - len(last)) // (high - low))
    drawn = Text(title.ljust(name_columns), "bold")
    for decade in range(low, high + 1):
        drawn.append(f"{10.0**decade:g}".ljust(wide if decade < high else 0), "dim")
    for what, values, style in lines:
        drawn.append(f"\n{_cut(what, name_columns).ljust(name_columns)}", "" if style == "cyan" else style)
        drawn.append(_bars(values, low, high, wide), style)
    return drawn


def _cut(what: str, columns: int) -> str:
    return what if len(what) < columns else what[: columns - 2] + "…"


def _bars(values: Sequence[float], low: int, high: int, wide: int) -> str:
    counts = [0] * ((high - low) * wide + 1)
    for value in values:
        counts[min(len(counts) - 1, max(0, int((math.log10(max(1e-9, value)) - low) * wide)))] += 1
    most = max(counts)
    return "".join(BLOCKS[math.ceil(count / most * (len(BLOCKS) - 1))] if count else "·" for count in counts)
