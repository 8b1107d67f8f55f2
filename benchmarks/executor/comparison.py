"""What was asked of the Executor, what was measured, and what its peers reach beside it.

Runs in: the benchmark. Pure. The asked values are those of the project's issue "The Executor".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from figure import Figure
from rich.table import Table
from samples import RAW, Samples, beside

from executor import kills, speeds, warmth
from executor.measures import PEERS
from executor.peers import Killable, Library, Pebble, SpawningLibrary

COLUMNS = (RAW, *(name for name in PEERS if name != Killable.name))
SHORT = {Library.name: "stdlib", SpawningLibrary.name: "stdlib, spawn"}
"""In the table and the picture; ProcessPoolExecutor is a wide word."""
Statistic = Callable[[Samples, str], float | None]


def median(results: Samples, name: str) -> float | None:
    return results.median(name)


def p99(results: Samples, name: str) -> float | None:
    return results.percentile(name, 99)


def mapped(results: Samples, name: str) -> float | None:
    """Return the median at the best chunksize."""
    _, peer = name.split(" · ")
    medians = [results.median(beside(speeds.chunked(size), peer)) for size in speeds.CHUNKSIZES]
    return min((each for each in medians if each is not None), default=None)


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of ours, and the same of each peer: a number in its unit, or a word."""

    figure: Figure
    ours: float | None
    peers: dict[str, float] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    unit: str = "ms"
    at_least: bool = False
    digits: int = 2

    @property
    def best(self) -> str | None:
        """The peer that is best, the limit not being one."""
        rivals = [name for name in self.peers if name != RAW and name not in self.words]
        if not rivals:
            return None
        return (max if self.at_least else min)(rivals, key=self.peers.__getitem__)

    @property
    def winner(self) -> str | None:
        """The best peer, if it is better than ours."""
        best = self.best
        if best is None or self.ours is None:
            return None
        theirs = self.peers[best]
        return best if (theirs > self.ours if self.at_least else theirs < self.ours) else None

    def times_worse(self, peer: str) -> float | None:
        """How many times ours a peer takes, or how many times less it does; None without a ratio."""
        theirs = self.peers.get(peer)
        if not theirs or not self.ours or self.ours < 0 or theirs < 0 or peer in self.words:
            return None
        return self.ours / theirs if self.at_least else theirs / self.ours

    def cell(self, peer: str) -> str:
        if peer in self.words:
            return self.words[peer]
        return shown(self.peers[peer], self.digits) if peer in self.peers else "–"

    def as_json(self) -> dict[str, object]:
        return {
            "what": self.figure.what, "unit": self.unit, "killable": self.ours,
            "peers": self.peers | self.words, "best peer": self.best, "wins": self.winner,
        }  # fmt: skip


def short(peer: str) -> str:
    return SHORT.get(peer, peer)


def shown(value: float, digits: int) -> str:
    return f"{value:,.{digits if abs(value) < 100 else 0}f}"


@dataclass(frozen=True, slots=True)
class Asked:
    """One line as it is asked for: a plain bound in the unit, or a ratio to what the same run measured."""

    measure: str
    bound: float
    unit: str = "ms"
    what: str = ""
    statistic: Statistic = median
    at_least: bool = False
    digits: int = 2
    ratio_to: str | None = None
    """To which peer's value of this line the bound is a ratio."""
    asked_as: str = ""
    ratio_of: Statistic | None = None
    """What is taken of that peer, where it is not the same statistic."""

    def row(self, results: Samples) -> Row:
        what = self.what or self.measure.removesuffix(f", {self.unit}")
        ours = self.statistic(results, beside(self.measure, Killable.name))
        peers = {
            peer: value
            for peer in COLUMNS
            if (value := self.statistic(results, beside(self.measure, peer))) is not None
        }
        words = {peer: word for peer in COLUMNS if (word := results.words.get(beside(self.measure, peer), ""))}
        return Row(self._figure(what, ours, results), ours, peers, words, self.unit, self.at_least, self.digits)

    def _figure(self, what: str, ours: float | None, results: Samples) -> Figure:
        own_word = results.words.get(beside(self.measure, Killable.name), "")
        if self.ratio_to is None:
            return Figure(what, self.bound, ours, self.unit, self.at_least, self.digits, self.asked_as, own_word)
        theirs = (self.ratio_of or self.statistic)(results, beside(self.measure, self.ratio_to))
        if self.statistic is mapped:  # a speed: the other way round
            ratio = theirs / ours if ours and theirs else None
        else:
            ratio = ours / theirs if ours is not None and theirs else None
        unit = f"× {short(self.ratio_to)}"
        return Figure(what, self.bound, ratio, unit, self.at_least or self.statistic is mapped, 2, note=own_word)


def _cancels() -> Iterator[Asked]:
    for workload, measure in kills.CANCELS.items():
        what = measure.removesuffix(", ms")
        yield Asked(measure, 1.5, what=f"{what}, p50", ratio_to=RAW)
        if not workload.startswith("hoards"):
            yield Asked(measure, 3.0, what=f"{what}, p99", statistic=p99, ratio_to=RAW, ratio_of=median)


ASKED = (
    *_cancels(),
    Asked(kills.OVERSHOOT, 5.0),
    Asked(kills.NEW_JOB, 1.0),
    Asked(kills.NEIGHBOUR, 1.0, asked_as="undisturbed: ≤ 1 ms"),
    Asked(kills.CHILDREN, 0.0, unit="", digits=0, statistic=partial(Samples.percentile, percent=100)),
    Asked(kills.OWNER, 50.0),
    Asked(kills.TYPES, 6.0, unit="", digits=0, at_least=True),
    Asked(speeds.FIRST_LINE, 0.08, what="submit → first line, idle warm worker, p50", digits=3),
    Asked(speeds.FIRST_LINE, 0.2, what="submit → first line, idle warm worker, p99", digits=3, statistic=p99),
    Asked(
        speeds.BUSY_FIRST_LINE, 0.2, what="the same while another thread of the program computes, p99", digits=3,
        statistic=p99,
    ),
    Asked(speeds.NOOPS, 1.75, unit="jobs/s", digits=0, at_least=True, ratio_to=Pebble.name),
    Asked(speeds.MAP, 1.0, what="map of 100,000 small items, best chunksize", statistic=mapped, ratio_to=Library.name),
    Asked(speeds.BYTES, 0.7, ratio_to=Library.name),
    Asked(warmth.SPARE, 2.0),
    Asked(warmth.NO_SPARE, 40.0),
    Asked(speeds.STREAM, 2.5, unit="tokens/s", digits=0, at_least=True, ratio_to=Library.name),
    Asked(speeds.FIRST_TOKEN, 0.5),
    Asked(warmth.USS, 12.0, unit="MB", digits=1),
    Asked(speeds.COLD, 1.0, ratio_to=SpawningLibrary.name),
)  # fmt: skip


def rows(results: Samples) -> list[Row]:
    """Return every line of which something was measured."""
    return [row for asked in ASKED if (row := asked.row(results)).ours is not None or row.peers or row.words]


def table(rows: list[Row]) -> Table:
    """Return all in one table; the best of a line is bold, a peer that is better than ours is red."""
    columns = [column for column in COLUMNS if any(row.cell(column) != "–" for row in rows)]
    drawn = Table(title="asked, measured, and what others reach in the same run", title_justify="left")
    drawn.add_column("what")
    for name in ("asked", "reached", "", Killable.name, *map(short, columns)):
        drawn.add_column(name, justify="right")
    drawn.add_column("better")
    for row in rows:
        figure, winner = row.figure, row.winner
        style = {"ok": "green", "MISS": "bold red", "not measured": "yellow"}[figure.verdict]
        reached = "–" if figure.measured is None else f"{figure.measured:,.{figure.digits}f}"
        ours = figure.note or ("–" if row.ours is None else f"{shown(row.ours, row.digits)} {row.unit}".rstrip())
        drawn.add_row(
            figure.what, figure.asked, reached, f"[{style}]{figure.verdict}[/]",
            f"[bold]{ours}[/]" if winner is None else ours,
            *(f"[bold red]{row.cell(column)}[/]" if column == winner else row.cell(column) for column in columns),
            "" if winner is None else short(winner),
        )  # fmt: skip
    return drawn


def links() -> dict[str, str]:
    return {name: peer.link for name, peer in PEERS.items()}


def in_words(rows: list[Row]) -> Iterator[str]:
    """Yield what the table does not say."""
    for name, link in links().items():
        yield f"{name}{f' ({SHORT[name]})' if name in SHORT else ''}: used as in {link}"
    absent = [name for name in PEERS if name != Killable.name and all(row.cell(name) == "–" for row in rows)]
    if absent:
        yield f"not measured here: {', '.join(absent)}"
    yield (
        f"{Killable.name}'s p50 and p99 of a cancel are both beside the p50 of the raw kill; peers load a preload as an"
        " initializer; where a peer cannot stop a job, its worker is killed from outside for the recovery"
    )
    won = [f"{row.figure.what}: {short(row.winner)}" for row in rows if row.winner]
    yield "a peer is better in: " + ("; ".join(won) or "nothing")
