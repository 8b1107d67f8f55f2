"""`killable bench`: measure on this machine what killable does on it, with a server of its own.

Runs in: any process of a person's (Linux; with `--server` any machine). Leaves nothing behind.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from killable.api.cli.commands.serve import require_linux
from killable.api.cli.display import console, errors
from killable.api.cli.display.exit_codes import CommandExit

if TYPE_CHECKING:
    from killable.api.cli.bench.plan import Plan
    from killable.api.cli.bench.results import Results, Row
    from killable.api.cli.bench.session import CallPart, ServerPart
    from killable.api.cli.declarations.machine import BenchAction

SEED_MAX = 10**6


def bench(
    action: BenchAction | None,
    only: tuple[str, ...],
    quick: bool,
    repeat: int,
    seed: int | None,
    picture: Path | None,
    server: str | None,
    names: bool,
    as_json: bool,
) -> None:
    if server is not None and (action is not None or only):
        raise click.UsageError("--server asks for what is harmless there: no load, and no part by its name")
    with errors.reporting(as_json):
        from killable.api.cli import interrupts

        if picture is not None:
            _check_picture(picture)
        interrupts.treat_terminations_as_interrupts()
        run = _Run(quick, repeat, random.randrange(SEED_MAX) if seed is None else seed, as_json)
        if server is not None:
            run.ask(server)
        else:
            require_linux("bench")
            parts = run.parts(action, only)
            if names:
                click.echo("\n".join(dict.fromkeys(part.name for part in parts)))
                return
            run.measure(parts)
        run.report(picture, as_json)
        raise click.exceptions.Exit(run.exit_code)


def _check_picture(path: Path) -> None:
    """Raise BadParameter before anything is measured, and not after a minute."""
    from killable.api.cli.bench.picture import why_not

    wrong = why_not(path)
    if wrong:
        raise click.BadParameter(wrong, param_hint="--picture")


class _Run:
    """One run: what it measures, and how it is told."""

    def __init__(self, quick: bool, repeat: int, seed: int, is_for_programs: bool) -> None:
        from killable.api.cli.bench.plan import FULL, QUICK
        from killable.api.cli.bench.results import Results
        from killable.api.cli.display.status_line import StatusLine

        self.plan: Plan = QUICK if quick else FULL
        self.results: Results = Results()
        self._repeat, self._seed = repeat, seed
        self._began = time.monotonic()
        self._noise: list[float] = []
        self._machine: dict[str, Any] = {}
        self._server: str | None = None
        self._stderr = console.stderr_console()
        self._line = StatusLine(self._stderr)
        self._is_for_programs = is_for_programs

    @property
    def exit_code(self) -> int:
        if self.results.is_interrupted:
            return CommandExit.INTERRUPTED
        return CommandExit.FAILED if self.results.failures else CommandExit.OK

    def parts(self, action: BenchAction | None, only: tuple[str, ...]) -> list[ServerPart | CallPart]:
        """Return the parts to run. Raise BadParameter for a name that none has."""
        from killable.api.cli.bench import session

        chance = random.Random(self._seed)
        every = session.load_test(self.plan.streams) if action == "load" else session.measurements(chance)
        for text in only:
            if not session.chosen(every, [text]):
                listed = ", ".join(dict.fromkeys(part.name for part in every))
                raise click.BadParameter(f"no part has {text!r} in its name; there are {listed}", param_hint="--only")
        return session.chosen(every, only)

    def measure(self, parts: list[ServerPart | CallPart]) -> None:
        from killable.api.cli.bench import machine, session

        try:
            self._look_at_machine()
            self.results.on_row = self._show_row
            session.run(parts, self.plan, self._repeat, self.results, self._show)
            if not self.results.is_interrupted:
                self._noise.append(machine.noise())
        except KeyboardInterrupt:
            self.results.is_interrupted = True
        self._line.clear()

    def ask(self, url: str) -> None:
        """Measure a server that was there before, with nothing that could harm it."""
        from killable.api.cli.bench import running_server
        from killable.api.cli.parameters.command_client import open_client

        try:
            self._look_at_machine()
            with open_client(url) as client:
                self._server = client.address
                self._show(f"asking {client.address}")
                running_server.measure(client, self.plan, self.results)
        except KeyboardInterrupt:
            self.results.is_interrupted = True
        finally:
            self._line.clear()

    def _look_at_machine(self) -> None:
        from killable.api.cli.bench import machine

        self._machine = machine.describe()
        self._show("the machine's own noise")
        self._noise.append(machine.noise())

    def _show(self, what: str) -> None:
        """Say what is being measured: in a line that goes again, or where stderr is no terminal in one of its own. A
        program that asked for JSON has stderr for errors.
        """
        if self._line.is_live:
            self._line.show(Text(f"{time.monotonic() - self._began:3.0f} s  {what}", "dim"))
        elif not self._is_for_programs:
            self._stderr.print(what)

    def _show_row(self, row: Row) -> None:
        if self._line.is_live:
            self._show(f"{row.part}: {row.what}, {len(row.values)} measured")

    def report(self, picture: Path | None, as_json: bool) -> None:
        """Print what was measured, and draw it."""
        document = self._document()
        if as_json:
            console.print_json(document)
        else:
            self._print(document)
        if picture is not None and self.results.rows:
            from killable.api.cli.bench.picture import draw

            draw(self.results, document, picture)
            self._stderr.print(f"picture: {picture}")
        for failure in self.results.failures:
            self._stderr.print(Text.assemble(("FAILED ", "bold red"), failure))
        if self.results.is_interrupted:
            self._stderr.print("interrupted: what is above had been measured until then; nothing is left running")

    def _print(self, document: dict[str, Any]) -> None:
        from killable.api.cli.bench import tables

        console.print_lines(tables.head(document))
        for section in tables.sections(self.results):
            click.echo()
            console.print_table(section)
        console.print_lines(Text(f"note: {remark}", "yellow") for remark in self._remarks())

    def _remarks(self) -> list[str]:
        found = list(self.results.remarks)
        for row in self.results.rows:
            if row.facts.get("bare_left"):
                each = row.facts["bare_left"] / max(1, len(row.bare))
                found.append(f"{row.what}: a bare SIGKILL leaves {each:.0f} of its processes alive, killable none")
        return found

    def _document(self) -> dict[str, Any]:
        from importlib.metadata import version

        return {
            "version": version("killable"),
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "took_s": round(time.monotonic() - self._began, 1),
            "arguments": sys.argv[1:],
            "seed": self._seed,
            "plan": {**asdict(self.plan), "passes": self._repeat},
            "server": self._server,
            "machine": self._machine,
            "noise": [round(share, 3) for share in self._noise],
            "rows": [row.as_json() for row in self.results.rows],
            "remarks": self.results.remarks,
            "failures": self.results.failures,
            "interrupted": self.results.is_interrupted,
        }
