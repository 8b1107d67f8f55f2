"""A table that fits the terminal: columns are shortened, then left out, rather than wrapped.

Runs in: any machine. Returns renderables; prints nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

GAP = 2
CUT_CHARS_MIN = 8
"""A shortened column keeps at least so many characters."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `drop`: the order in which columns are left out for lack of room, 1 first; 0: never. `cut`: may be
    shortened.
    """

    title: str
    drop: int = 0
    numeric: bool = False
    cut: bool = False


@dataclass(slots=True)
class Listing:
    """Rows under columns. Which columns are shown is decided when it is rendered, by the width."""

    columns: Sequence[Column]
    rows: list[Sequence[Text]] = field(default_factory=list)

    def add(self, *cells: str | Text) -> None:
        self.rows.append([cell if isinstance(cell, Text) else Text(cell) for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown, widths = fitting(self.columns, self._widths(), options.max_width)
        table = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
            header_style="bold",
            border_style="dim",
        )
        for index in shown:
            column = self.columns[index]
            table.add_column(
                column.title, justify="right" if column.numeric else "left", no_wrap=True, overflow="ellipsis",
                max_width=widths[index],
            )  # fmt: skip
        for row in self.rows:
            table.add_row(*(row[index] for index in shown))
        yield table

    def _widths(self) -> list[int]:
        cells = [[row[index].cell_len for row in self.rows] for index in range(len(self.columns))]
        return [max([len(column.title), *cells[index]]) for index, column in enumerate(self.columns)]


def fitting(columns: Sequence[Column], widths: Sequence[int], room: int) -> tuple[list[int], list[int]]:
    """Return the indexes of the columns that are shown, and every column's width.

    Columns are shortened first, then left out in their order.
    """
    shown, cut = list(range(len(columns))), list(widths)

    def excess() -> int:
        return sum(cut[index] for index in shown) + GAP * (len(shown) - 1) - room

    def shorten() -> None:
        for index in reversed(shown):  # the columns on the left identify the row
            if columns[index].cut and excess() > 0:
                cut[index] = max(min(widths[index], CUT_CHARS_MIN), cut[index] - excess())

    shorten()
    for index in sorted((i for i in shown if columns[i].drop), key=lambda i: columns[i].drop):
        if excess() <= 0:
            break
        shown.remove(index)
        cut = list(widths)
        shorten()
    return shown, cut
