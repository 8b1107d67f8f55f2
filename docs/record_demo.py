"""Record `killable demo` in a pseudo-terminal and draw the recording: `make demo-picture`.

Writes docs/_static/demo.cast (asciicast v2: play it with `asciinema play`) and docs/_static/demo.svg. With --draw only
the picture is drawn, from the recording that is there. The demo only appends text, so this needs no terminal emulator:
SGR sequences set the style, and lines are wrapped where a terminal of that width does it.
"""

from __future__ import annotations

import codecs
import fcntl
import html
import json
import os
import pty
import re
import struct
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

STATIC = Path(__file__).parent / "_static"
CAST, PICTURE = STATIC / "demo.cast", STATIC / "demo.svg"
COLUMNS, ROWS = 106, 80
COMMAND = "killable demo"

FONT_SIZE, CELL_WIDTH, LINE_HEIGHT = 14, 8.4, 19
MARGIN, BAR = 16, 34
FOREGROUND, BACKGROUND, FRAME, FAINT = "#d6dae0", "#14171c", "#2a2f37", "#8a929e"
RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN = "#ef6b73", "#7fd18b", "#e6c15c", "#6fb1f2", "#c792ea", "#62cfd6"
COLOURS = dict(zip(range(31, 37), (RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN), strict=True))
"""By SGR code, as far as the demo has them."""
LONGEST_PAUSE_S = 1.2
"""In the picture: a model that loads is no news."""
FIRST_S, FADE_S = 0.4, 0.12
SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")
PATH = re.compile(r'File\s+"[^"]*/site-packages/(killable/[^"]+)",\s+line\s+(\d+)\s+in')
"""Where this machine keeps the package is nobody's business, and the line fits without it."""

FACT = re.compile(
    r"(cause|by|reason|grace_s|last_signal|exit_code|exit_signal|proof|processes_swept|max_rss_bytes|user_s|system_s|tokens"
    r"|last_sequence) "
)
"""Rows of a certificate that the picture leaves out; the recording has them."""

Event = tuple[float, str]


class Style(NamedTuple):
    colour: str = FOREGROUND
    bold: bool = False
    dim: bool = False
    italic: bool = False


class Cell(NamedTuple):
    text: str
    style: Style
    at: float
    """Seconds after the start at which it is there."""


# ── recording ──


def record() -> list[Event]:
    """Run the demo and return what it wrote, with the seconds at which it did. Raise SystemExit when it failed."""
    command = Path(sys.executable).with_name("killable")
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
    environment.pop("NO_COLOR", None)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command, [str(command), "demo"], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    started, events = time.monotonic(), []
    decoder = codecs.getincrementaldecoder("utf-8")()
    while data := _read(terminal):
        events.append((round(time.monotonic() - started, 3), decoder.decode(data)))
        sys.stdout.write(events[-1][1])
        sys.stdout.flush()
    os.close(terminal)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0:
        raise SystemExit(f"the demo ended with exit code {status}; nothing is written")
    return events


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # EIO: the other side is closed
        return b""


def without_paths(events: Sequence[Event]) -> list[Event]:
    """Return the events with paths of the package alone. What was written in several pieces is one piece then."""
    text = "".join(piece for _, piece in events)
    times = [at for at, piece in events for _ in piece]
    pieces: list[Event] = []
    place = 0
    for found in PATH.finditer(text):
        pieces += _pieces(text, times, place, found.start())
        pieces.append((times[found.start()], f'File "{"".join(found[1].split())}", line {found[2]} in'))
        place = found.end()
    return pieces + _pieces(text, times, place, len(text))


def _pieces(text: str, times: Sequence[float], begin: int, end: int) -> list[Event]:
    return [
        (at, "".join(text[place] for place in places)) for at, places in groupby(range(begin, end), times.__getitem__)
    ]


def write_cast(events: Sequence[Event], path: Path) -> None:
    head = {"version": 2, "width": COLUMNS, "height": ROWS, "title": COMMAND}
    lines = [json.dumps(head), *(json.dumps([at, "o", text], ensure_ascii=False) for at, text in events)]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def read_cast(path: Path) -> list[Event]:
    _, *lines = path.read_text("utf-8").splitlines()
    return [(at, text) for at, _, text in map(json.loads, lines)]


# ── drawing ──


def draw(events: Sequence[Event]) -> str:
    """Return an SVG in which the lines appear as they came, and stay. Where nothing moves it shows all of them."""
    rows = folded(screen(shortened(events)))
    times = sorted({cell.at for row in rows for cell in row})
    width = round(2 * MARGIN + COLUMNS * CELL_WIDTH)
    height = BAR + 2 * MARGIN + LINE_HEIGHT * (len(rows) + 1)
    prompt = [Cell(character, Style(bold=index > 1), 0.0) for index, character in enumerate(f"$ {COMMAND}")]
    shown = "\n".join(_line(number, row) for number, row in enumerate([prompt, *rows]))
    delays = "\n".join(f".t{_number(at)}{{animation-delay:{at:.2f}s}}" for at in times)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" \
width="{width}" height="{height}" role="img" aria-label="A terminal in which killable demo runs">
<style>
text {{ font: {FONT_SIZE}px ui-monospace, "DejaVu Sans Mono", "Liberation Mono", Menlo, Consolas, monospace; \
fill: {FOREGROUND}; white-space: pre }}
.b {{ font-weight: bold }}
.i {{ font-style: italic }}
@media (prefers-reduced-motion: no-preference) {{
@keyframes appear {{ from {{ fill-opacity: 0 }} }}
tspan {{ animation: appear {FADE_S}s both }}
{delays}
}}
</style>
<rect width="{width}" height="{height}" rx="8" fill="{BACKGROUND}"/>
<path d="M0 {BAR}V8a8 8 0 0 1 8-8H{width - 8}a8 8 0 0 1 8 8V{BAR}z" fill="{FRAME}"/>
<circle cx="20" cy="{BAR // 2}" r="5.5" fill="{RED}"/>
<circle cx="39" cy="{BAR // 2}" r="5.5" fill="{YELLOW}"/>
<circle cx="58" cy="{BAR // 2}" r="5.5" fill="{GREEN}"/>
{shown}
</svg>
"""


def _number(at: float) -> str:
    return f"{round(at * 100)}"


def _line(number: int, row: Sequence[Cell]) -> str:
    y = BAR + MARGIN + LINE_HEIGHT * (number + 1) - 5
    spans: list[str] = []
    column = 0
    for (style, at), group in groupby(row, key=lambda cell: (cell.style, cell.at)):
        text = _text(list(group))
        if text.strip():
            lead = len(text) - len(text.lstrip())
            spans.append(_span(text.strip(), column + lead, style, at))
        column += len(text)
    return f'<text y="{y}" xml:space="preserve">{"".join(spans)}</text>' if spans else ""


def _span(text: str, column: int, style: Style, at: float) -> str:
    classes = [f"t{_number(at)}"] + ["b"] * style.bold + ["i"] * style.italic
    colour = FAINT if style.dim and style.colour == FOREGROUND else style.colour
    fill = "" if colour == FOREGROUND else f' fill="{colour}"'
    x, length = MARGIN + column * CELL_WIDTH, len(text) * CELL_WIDTH
    place = f'x="{x:.1f}" textLength="{length:.1f}"'
    return f'<tspan class="{" ".join(classes)}" {place}{fill}>{html.escape(text, quote=False)}</tspan>'


def shortened(events: Sequence[Event]) -> Iterator[Event]:
    """Yield the events with no pause longer than LONGEST_PAUSE_S."""
    before, shown = 0.0, FIRST_S
    for at, text in events:
        shown += min(at - before, LONGEST_PAUSE_S)
        before = at
        yield round(shown, 2), text


def screen(events: Iterator[Event]) -> list[list[Cell]]:
    """Return the rows that a terminal shows in the end."""
    rows: list[list[Cell]] = [[]]
    style = Style()
    for at, text in events:
        for is_sequence, part in _split(text):
            if is_sequence:
                style = _changed(style, part)
                continue
            for character in part:
                if character == "\n":
                    rows.append([])
                elif character != "\r":
                    if len(rows[-1]) == COLUMNS:
                        rows.append([])
                    rows[-1].append(Cell(character, style, at))
    while rows and not _text(rows[-1]).strip():
        rows.pop()
    return rows


def folded(rows: Sequence[list[Cell]]) -> list[list[Cell]]:
    """Return the rows with the facts of each certificate as one row that says how many they are."""
    shown: list[list[Cell]] = []
    for is_fact, group in groupby(rows, key=lambda row: FACT.match(_text(row)) is not None):
        found = list(group)
        if is_fact:
            note = f"⋯ {len(found)} more lines"
            shown.append([Cell(character, Style(dim=True), found[0][0].at) for character in note])
        else:
            shown += found
    return shown


def _text(row: Sequence[Cell]) -> str:
    return "".join(cell.text for cell in row)


def _split(text: str) -> Iterator[tuple[bool, str]]:
    place = 0
    for found in SEQUENCE.finditer(text):
        yield False, text[place : found.start()]
        if found[2] == "m":
            yield True, found[1]
        place = found.end()
    yield False, text[place:]


def _changed(style: Style, codes: str) -> Style:
    for code in map(int, (codes or "0").split(";")):
        if code == 0:
            style = Style()
        elif code in COLOURS:
            style = style._replace(colour=COLOURS[code])
        else:
            style = style._replace(
                bold=style.bold or code == 1, dim=style.dim or code == 2, italic=style.italic or code == 3
            )
    return style


def main(arguments: Sequence[str]) -> None:
    """Record, unless told only to draw; then draw."""
    STATIC.mkdir(exist_ok=True)
    if "--draw" not in arguments:
        write_cast(without_paths(record()), CAST)
    PICTURE.write_text(draw(read_cast(CAST)), "utf-8")
    print(f"wrote {CAST.name} and {PICTURE.name} in {STATIC}")


if __name__ == "__main__":
    main(sys.argv[1:])
