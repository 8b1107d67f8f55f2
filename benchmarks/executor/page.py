"""What is published of one run: benchmarks/peers.json, and of it the figures of docs/explanation/peers.md and README.

    python benchmarks/executor/page.py      write page and README anew from peers.json

Runs in: the benchmark | a program of its own, and the test that holds page and README to the file. Standard library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "peers.json"
PAGE = ROOT / "docs" / "explanation" / "peers.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- written by `make peers` -->\n", "<!-- end -->\n"
KILLABLE, RAW = "killable", "raw kill"
STDLIB, SPAWN = "ProcessPoolExecutor", "ProcessPoolExecutor (spawn)"
RAW_TITLE = "a bare SIGKILL"
HEAVY = "worker dead → next job's first line, preload of 1 s and 200 MB"
README_LINES = {
    "cancel → dead, native call that holds the GIL, p50": "cancel until a native call is dead, without grace",
    "alive after a cancel (of child, setsid, double fork)": "still alive after it, of three kinds of child",
    HEAVY: "next start after losing a worker that takes 1 s to load",
    "cancel, timeout, SEGV, KILL, exit 3, MemoryError: distinct errors": "six ways to end, told apart by their type",
    "no-op calls, results fetched": "calls a second that do nothing",
}
"""What README says of a figure."""


class Comparison(TypedDict):
    """A figure of each peer: a number, or a text where there is none."""

    section: str
    what: str
    unit: str
    at_least: bool
    """The greatest value is the best."""
    values: dict[str, float | str]


class Described(TypedDict):
    """A peer."""

    version: str
    python: str
    """The versions of Python that it runs on."""
    packages: int
    """How many others its installation brings."""
    link: str
    is_system: bool


class Document(TypedDict):
    """All of peers.json."""

    date: str
    took_s: int
    quick: bool
    machine: dict[str, Any]
    other_load: float
    """Share of all processors that other programs used meanwhile, 0 to 1."""
    was_busy: bool
    """Whether that is so much that README says it."""
    peers: dict[str, Described]
    figures: list[Comparison]


def publish(document: Document) -> list[Path]:
    """Write the file, and the figures of page and README. Return what was written."""
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(replaced(PAGE.read_text(), figures(document)))
    README.write_text(replaced(README.read_text(), readme(document)))
    return [RESULTS, PAGE, README]


def read() -> Document:
    document: Document = json.loads(RESULTS.read_text())
    return document


def replaced(text: str, lines: str) -> str:
    """Return a document with these lines between its two marks. Raise ValueError without them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN.strip()} and {END.strip()}")
    return f"{before}{begin}\n{lines}\n{end}{after}"


# ── the page ──


def figures(document: Document) -> str:
    libraries = [name for name, peer in document["peers"].items() if not peer["is_system"] and name != SPAWN]
    systems = [name for name, peer in document["peers"].items() if peer["is_system"]]
    parts = [_conditions(document), _peers(document), "## Where another one is better", _lost(document)]
    for section in dict.fromkeys(each["section"] for each in document["figures"]):
        lines = [each for each in document["figures"] if each["section"] == section]
        raw = [RAW] if any(RAW in each["values"] for each in lines) else []
        parts += [f"## {section}", _compared(lines, [*libraries, *raw])]
    if systems:
        lines = [each for each in document["figures"] if set(systems) & set(each["values"])]
        parts += ["## Task systems", _compared(lines, [KILLABLE, *systems])]
    return "\n\n".join(parts) + "\n"


def _conditions(document: Document) -> str:
    machine = document["machine"]
    how = "a short run" if document["quick"] else "a whole run"
    return (
        f"Measured on {document['date']} in {how} of {document['took_s'] / 60:.0f} minutes, on {machine['cores']} cores"
        f" of {machine['cpu']}, Linux {machine['kernel']}, Python {machine['python']}; other programs used"
        f" {document['other_load']:.0%} of the processors meanwhile."
    )


def _peers(document: Document) -> str:
    rows = [
        (
            f"[{name}]({peer['link']})" if "://" in peer["link"] else name,
            peer["version"],
            peer["python"],
            str(peer["packages"]),
        )
        for name, peer in document["peers"].items()
        if name != SPAWN
    ]
    return _table(("", "version", "Python", "packages that it brings"), rows)


def _lost(document: Document) -> str:
    """Name everything that some peer does better, the greatest difference first."""
    found = []
    for each in document["figures"]:
        best = better(each)
        if best is not None:
            ours, theirs = each["values"][KILLABLE], each["values"][best]
            assert isinstance(ours, float | int) and isinstance(theirs, float | int)
            times = max(ours, theirs) / min(ours, theirs) if min(ours, theirs) > 0 else None
            found.append((times, (_title(each), _cell(each, KILLABLE), _cell(each, best, with_spawn=False), best)))
    if not found:
        return "In nothing that was measured."
    found.sort(key=lambda one: -(one[0] or float("inf")))
    rows = [(*cells, "" if times is None else f"{times:.3g}") for times, cells in found]
    return _table(("", KILLABLE, "the best", "which is", "times as good"), rows)


def better(each: Comparison) -> str | None:
    """Return the best peer if it is better than killable. A bare SIGKILL is a limit and no peer."""
    ours = each["values"].get(KILLABLE)
    numbers = {name: value for name, value in _numbers(each).items() if name not in (KILLABLE, RAW)}
    if not isinstance(ours, float | int) or not numbers:
        return None
    best = (max if each["at_least"] else min)(numbers, key=numbers.__getitem__)
    return best if (numbers[best] > ours if each["at_least"] else numbers[best] < ours) else None


def _numbers(each: Comparison) -> dict[str, float]:
    return {name: value for name, value in each["values"].items() if isinstance(value, float | int)}


def _compared(lines: Sequence[Comparison], names: Sequence[str]) -> str:
    rows = [(_title(each), *(_cell(each, name) for name in names)) for each in lines]
    return _table(("", *(RAW_TITLE if name == RAW else name for name in names)), rows)


def _title(each: Comparison) -> str:
    return f"{each['what']}, {each['unit']}"


def _cell(each: Comparison, name: str, with_spawn: bool = True) -> str:
    """Return a value; bold for the best of all."""
    values = each["values"]
    text = _text(values.get(name, "–"))
    numbers = {peer: value for peer, value in _numbers(each).items() if peer != RAW}
    if name in numbers and numbers[name] == (max if each["at_least"] else min)(numbers.values()):
        text = f"**{text}**"
    if name == STDLIB and SPAWN in values and with_spawn:
        text += f" (spawn: {_text(values[SPAWN])})"
    return text


def _text(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


# ── README ──


def readme(document: Document) -> str:
    """Return a table of a few figures, and where they come from."""
    names = [name for name, peer in document["peers"].items() if not peer["is_system"] and name != SPAWN]
    found = {each["what"]: each for each in document["figures"]}
    rows = [(what + (": **we lose**" if better(each) else ""), *_readme_cells(each, names))
            for name, what in README_LINES.items() if (each := found.get(name))]  # fmt: skip
    run = "make peers ARGS=--quick" if document["quick"] else "make peers"
    busy = " that other programs used too" if document["was_busy"] else ""
    return (
        f"{_table(('', *names), rows)}\n\nMedians of `{run}` on {document['machine']['cores']} cores{busy},"
        f" {document['date']}. [All figures](docs/explanation/peers.md), and who is better where.\n"
    )


def _readme_cells(each: Comparison, names: Sequence[str]) -> Iterator[str]:
    unit = " ms" if each["unit"] == "ms" else ""
    for name in names:
        text = _cell(each, name, with_spawn=False)
        has_unit = isinstance(each["values"].get(name), float | int)
        yield f"{text[:-2]}{unit}**" if has_unit and text.endswith("**") else text + (unit if has_unit else "")


if __name__ == "__main__":
    for path in publish(read()):
        print(path.relative_to(ROOT))
