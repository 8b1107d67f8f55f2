"""The command `killable` as Click knows it: a function for each verb, a file for each group of verbs.

Runs in: any machine; `serve` and `demo` on Linux.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys

import click

from killable.api.cli.parameters.completion_scripts import completion_options
from killable.api.cli.verbs import Verbs

UNWRITABLE = 71
"""The exit code where no verb runs and stdout cannot be written; verbs have their own (`CommandExit.OS`)."""


def _turn_colours_off(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        os.environ["NO_COLOR"] = "1"  # read by every console of this process


@click.group(
    "killable",
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="Exit codes: 0 success, 1 failed, 2 usage error, 3 job cancelled, 4 unknown job, worker or type, "
    "65 request refused, 69 server unreachable, 71 not possible on this machine, 75 try again later, "
    "77 API key missing or refused, 78 configuration error, 124 job timed out, 130 interrupted.",
)
@click.version_option(package_name="killable", message="killable %(version)s", help="Print the version.")
@click.option(
    "--no-color", is_flag=True, is_eager=True, expose_value=False, callback=_turn_colours_off,
    help="Print without colours, as with NO_COLOR=1.",
)  # fmt: skip
@completion_options
def app() -> None:
    """Run CPU-bound jobs in worker processes that can always be stopped."""


def run_verb() -> None:
    """Run the verb that the arguments name, and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A job's output may contain characters that the encoding of the terminal lacks.
            stream.reconfigure(errors="backslashreplace")
    # httpx has a command of its own, which it imports where click and rich are installed. None: an ImportError.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    try:
        app()
    except OSError as error:  # of help or version, as verbs report their own: stdout is closed, or its disk is full
        with contextlib.suppress(OSError, ValueError):
            click.echo(f"killable: {error}", err=True)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what it holds would fail once more
        sys.exit(UNWRITABLE)
