"""What is asked before something is ended, and the page of keys.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static


class Question(ModalScreen[bool]):
    """Asks yes or no. Enter means no: a key that is pressed too often ends nothing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,Y", "answer(True)", "yes"),
        Binding("n,N,escape,enter,q,ctrl+c", "answer(False)", "no"),
    ]

    def __init__(self, title: str, lines: Sequence[str]) -> None:
        super().__init__()
        self._title = title
        self._lines = lines

    def compose(self) -> ComposeResult:
        text = Text(self._title, "bold")
        for line in self._lines:
            text.append(f"\n{line}", "not bold")
        text.append("\n\n").append(" y ", "reverse").append(" yes     ", "not bold")
        text.append(" n ", "reverse").append(" no", "not bold")
        with Vertical(id="question"):
            yield Static(text, markup=False)

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


HELP = (
    ("↑ ↓  j k", "the row before, the next"),
    ("PgUp PgDn  g G", "a page, the first, the last"),
    ("1 2 3 4 5", "jobs, workers, pools, ends by code, nodes (Tab: the next)"),
    ("Enter", "inspect: story, certificate, stack, output"),
    ("/", "filter: words, or type:tick state:failed tag:team=a code:crash"),
    ("", "also id: tenant: node: worker:   Esc removes the filter"),
    ("a", "list active jobs, all, ended ones, failed ones"),
    ("s  S", "sort by the next column, backwards"),
    ("p", "pause, go on"),
    ("q  Ctrl-C", "quit; jobs go on"),
)
ENDS = (("c", "cancel the job: SIGTERM, its grace, then SIGKILL"), ("K", "kill the job or the worker at once"))


class Help(ModalScreen[None]):
    """The keys. Any key closes it."""

    def __init__(self, *, may_end: bool) -> None:
        """`may_end`: whether the key may cancel jobs."""
        super().__init__()
        self._may_end = may_end

    def compose(self) -> ComposeResult:
        text = Text("Keys", "bold")
        for key, words in (*HELP, *(ENDS if self._may_end else ())):
            text.append(f"\n{key:<16}", "bold").append(words, "not bold")
        text.append("\n\nCPU is of one core, now; memory is what a job's memory_bytes counts.", "not bold dim")
        with Vertical(id="help"):
            yield Static(text, markup=False)

    def on_key(self, event: events.Key) -> None:
        event.stop()
        event.prevent_default()
        self.dismiss(None)
