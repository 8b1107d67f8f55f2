"""Rows under columns that are drawn line by line: only what is on the screen costs anything.

Runs in: any machine. The cursor stays on its row, wherever that goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from killable.api.cli.display.console import visible
from killable.api.cli.display.fitted_table import GAP, Column, fitting

Members = Mapping[str, Any]
CURSOR = Style(reverse=True)
HEAD = Style(bold=True, underline=True)
WHEEL_ROWS = 3


class Grid(Widget, can_focus=True):
    """A table. Its owner gives it the rows that there are now."""

    class Chosen(Message):
        """Enter was pressed on a row."""

        def __init__(self, grid: Grid) -> None:
            super().__init__()
            self.grid = grid

    def __init__(
        self, columns: Sequence[Column], key: str, cells: Callable[[Members], Sequence[Text]], *, empty: str,
        id: str,
    ) -> None:  # fmt: skip
        """`key`: the member that tells rows apart. `empty`: what is said where there is none."""
        super().__init__(id=id)
        self._columns = columns
        self._key = key
        self._cells = cells
        self._empty = empty
        self._rows: Sequence[Members] = ()
        self._at = 0
        """The index of the row with the cursor."""
        self._cursor_key: str | None = None
        self._top = 0
        """The index of the first row on the screen."""
        self._widths = [len(column.title) for column in columns]
        """They only grow, so that nothing moves while numbers change."""
        self._hidden: frozenset[int] = frozenset()
        self._strips: list[Strip] | None = None
        """The lines as drawn; None: something has changed."""

    def rows_are(self, rows: Sequence[Members], *, hidden: frozenset[int] = frozenset(), empty: str = "") -> None:
        """Show these rows; `hidden` are columns that say nothing of any of them."""
        self._rows = rows
        self._empty = empty or self._empty
        self._hidden = hidden
        self._find_cursor()
        self._scroll()
        self.refresh()

    def fit_again(self) -> None:
        """Measure the columns anew: there are other rows."""
        self._widths = [len(column.title) for column in self._columns]
        self._cursor_key, self._at, self._top = None, 0, 0

    @property
    def chosen(self) -> Members | None:
        """The row with the cursor."""
        return self._rows[self._at] if self._at < len(self._rows) else None

    @property
    def place(self) -> str:
        return f"{min(self._at + 1, len(self._rows))}/{len(self._rows)}"

    def move(self, by: int) -> None:
        self._at = max(0, min(len(self._rows) - 1, self._at + by))
        chosen = self.chosen
        self._cursor_key = None if chosen is None else str(chosen[self._key])
        self._scroll()
        self.refresh()

    @property
    def page(self) -> int:
        """Rows that are on the screen at once."""
        return max(1, self.size.height - 1)

    def _find_cursor(self) -> None:
        if self._cursor_key is not None:
            found = next((i for i, row in enumerate(self._rows) if str(row[self._key]) == self._cursor_key), None)
            if found is not None:
                # What stands around the cursor stays where it is on the screen.
                self._top += found - self._at
                self._at = found
                return
        self._at = max(0, min(self._at, len(self._rows) - 1))

    def _scroll(self) -> None:
        if self._at < self._top:
            self._top = self._at
        elif self._at >= self._top + self.page:
            self._top = self._at - self.page + 1
        self._top = max(0, min(self._top, len(self._rows) - self.page))

    def on_resize(self, event: events.Resize) -> None:
        self._scroll()

    def on_key(self, event: events.Key) -> None:
        steps = {
            "up": -1, "k": -1, "down": 1, "j": 1, "pageup": -self.page, "pagedown": self.page, "ctrl+b": -self.page,
            "ctrl+f": self.page, "home": -len(self._rows), "g": -len(self._rows), "end": len(self._rows),
            "G": len(self._rows), "upper_g": len(self._rows),
        }  # fmt: skip
        if event.key in steps:
            event.stop()
            self.move(steps[event.key])
        elif event.key == "enter":
            event.stop()
            self.post_message(self.Chosen(self))

    def on_click(self, event: events.Click) -> None:
        row = self._top + event.y - 1
        if event.y >= 1 and row < len(self._rows):
            self.move(row - self._at)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self.move(WHEEL_ROWS)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self.move(-WHEEL_ROWS)

    def render_line(self, y: int) -> Strip:
        if self._strips is None:
            self._strips = self._drawn()
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width)

    def refresh(self, *regions: Region, **options: Any) -> Self:
        self._strips = None
        return super().refresh(*regions, **options)

    def _drawn(self) -> list[Strip]:
        """Return the lines on the screen. The widths of all that is seen come first, so that head and rows agree."""
        on_screen = [list(self._cells(row)) for row in self._rows[self._top : self._top + self.page]]
        for cells in on_screen:
            for index, cell in enumerate(cells):
                self._widths[index] = max(self._widths[index], cell.cell_len)
        shown_columns = [index for index in range(len(self._columns)) if index not in self._hidden]
        places, widths = fitting(
            [self._columns[i] for i in shown_columns], [self._widths[i] for i in shown_columns], self.size.width
        )
        shown = [(shown_columns[place], widths[place]) for place in places]
        strips = [self._line([Text(column.title) for column in self._columns], shown, HEAD)]
        for number, cells in enumerate(on_screen):
            is_chosen = self.has_focus and self._top + number == self._at
            strips.append(self._line(cells, shown, CURSOR if is_chosen else None))
        if not self._rows:
            strips.append(Strip([Segment(self._empty, Style(dim=True))]).adjust_cell_length(self.size.width))
        return strips

    def _line(self, cells: Sequence[Text], shown: Sequence[tuple[int, int]], style: Style | None) -> Strip:
        """Return one line, as wide as the table. Made of segments: a console would take ten times as long."""
        segments: list[Segment] = []
        used = 0
        for number, (index, width) in enumerate(shown):
            if number:
                segments.append(Segment(" " * GAP, style))
                used += GAP
            cell = cells[index]
            if cell.cell_len > width:
                cell = cell.copy()
                cell.truncate(width, overflow="ellipsis")
            missing = width - cell.cell_len
            if missing and self._columns[index].numeric:
                segments.append(Segment(" " * missing, style))
            segments += _segments(cell, style)
            if missing and not self._columns[index].numeric:
                segments.append(Segment(" " * missing, style))
            used += width
        if used < self.size.width:
            segments.append(Segment(" " * (self.size.width - used), style))
        return Strip(segments, max(used, self.size.width))


def _segments(cell: Text, style: Style | None) -> list[Segment]:
    """Return a cell as segments: its own style, then those of its spans, below that of the line."""
    own = Style.parse(str(cell.style)) if cell.style else Style()
    plain = visible(cell.plain).replace("\n", " ").replace("\t", " ")
    if not cell.spans:
        return [Segment(plain, own + style if style is not None else own)]
    segments, at = [], 0
    for span in sorted(cell.spans):
        if span.start > at:
            segments.append(Segment(plain[at : span.start], own + style if style is not None else own))
        inner = own + Style.parse(str(span.style))
        segments.append(Segment(plain[max(at, span.start) : span.end], inner + style if style is not None else inner))
        at = max(at, span.end)
    if at < len(plain):
        segments.append(Segment(plain[at:], own + style if style is not None else own))
    return segments
