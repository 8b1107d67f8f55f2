"""The command `killable`: one verb per function, one file per noun.

Runs in: any machine; `serve` and `demo` on Linux.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from killable.api.cli.verbs import Verbs

app = typer.Typer(
    name="killable",
    cls=Verbs,
    help="CPU-bound jobs in worker processes: a job you start, you can stop.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 completed or dead, 1 failed, 2 usage, 3 cancelled, 4 unknown id, 65 input refused, "
    "69 no server, 71 not possible here, 75 not now, 77 no key, 78 configuration, 124 timed out, 130 interrupted.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"killable {version('killable')}")
        raise typer.Exit


def _turn_colours_off(wanted: bool) -> None:
    if wanted:
        os.environ["NO_COLOR"] = "1"  # what every console of this process looks at


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="No colours; as NO_COLOR=1.", callback=_turn_colours_off, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    for stream_of_ours in (sys.stdout, sys.stderr):
        if isinstance(stream_of_ours, io.TextIOWrapper):
            # A job's text may hold what the terminal's encoding has no character for.
            stream_of_ours.reconfigure(errors="backslashreplace")
    app()
