"""The command `killable`: a function for each verb, a file for each group of verbs.

Runs in: any machine; `serve` and `demo` on Linux.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from typing import Annotated

import typer

from killable.api.cli.verbs import Verbs

app = typer.Typer(
    name="killable",
    cls=Verbs,
    help="Run CPU-bound jobs in worker processes that can always be stopped.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 success, 1 failed, 2 usage error, 3 job cancelled, 4 unknown job, worker or type, "
    "65 request refused, 69 server unreachable, 71 not possible on this machine, 75 try again later, "
    "77 API key missing or refused, 78 configuration error, 124 job timed out, 130 interrupted.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"killable {version('killable')}")
        raise typer.Exit


def _turn_colours_off(wanted: bool) -> None:
    if wanted:
        os.environ["NO_COLOR"] = "1"  # read by every console of this process


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    no_color: Annotated[
        bool,
        typer.Option(
            "--no-color", help="Print without colours, as with NO_COLOR=1.", callback=_turn_colours_off, is_eager=True
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A job's output may contain characters that the encoding of the terminal lacks.
            stream.reconfigure(errors="backslashreplace")
    # httpx has a command of its own, which it imports where click and rich are installed. None: an ImportError.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    gc.disable()  # until the verb runs (`lean_commands`): imports make no garbage, and take a tenth less time without
    app()
