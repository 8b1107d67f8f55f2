"""The command `killable`: one verb per function, one file per noun.

Runs in: any machine; `serve` and `demo` on Linux.
"""

from __future__ import annotations

import io
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from killable.api.cli.check import check
from killable.api.cli.config import config
from killable.api.cli.demo import demo
from killable.api.cli.doctor import doctor
from killable.api.cli.drain import drain
from killable.api.cli.explain import explain
from killable.api.cli.inspect import inspect
from killable.api.cli.kill import kill
from killable.api.cli.logs import logs
from killable.api.cli.metrics import metrics
from killable.api.cli.ps import ps
from killable.api.cli.serve import serve
from killable.api.cli.shutdown import shutdown
from killable.api.cli.submit import result, stream, submit
from killable.api.cli.workers import types, workers

app = typer.Typer(
    name="killable",
    help="CPU-bound jobs in worker processes: a job you start, you can stop.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 completed or dead, 1 failed, 2 usage, 3 cancelled, 4 unknown id, 65 input refused, "
    "69 no server, 71 not possible here, 75 not now, 77 no key, 78 configuration, 124 timed out, 130 interrupted.",
)


def _verb(function: object, panel: str, *examples: str) -> None:
    epilog = "Examples:\n\n" + "\n\n".join(examples)
    app.command(rich_help_panel=panel, epilog=epilog)(function)  # type: ignore[type-var]


_verb(serve, "Server", "killable serve", "killable serve my_jobs.py --port 8000")
_verb(
    submit,
    "Jobs",
    'killable submit generate -i prompt="Tell me of the sea" -i max_tokens=64',
    "killable submit tokenize -i text=@book.txt --run-s 5m --tag team=search -d",
)
_verb(stream, "Jobs", "killable stream job-3f2a91c0", "killable stream 3f2a --after 17 --events")
_verb(result, "Jobs", "killable result 3f2a --wait 30s")
_verb(logs, "Jobs", "killable logs 3f2a", "killable logs 3f2a -f -n 20")
_verb(ps, "Jobs", "killable ps", "killable ps -a -n 20 --type tokenize --tag team=search")
_verb(inspect, "Jobs", "killable inspect 3f2a", "killable inspect w-7 --json")
_verb(explain, "Jobs", "killable explain 3f2a")
_verb(
    kill,
    "Jobs",
    "killable kill 3f2a 91c0",
    "killable kill --type generate --now --reason 'wrong prompt'",
    "killable kill w-7",
)
_verb(
    config,
    "Server",
    "killable config my_jobs.py",
    "killable config --example > killable.toml",
    "KILLABLE_SERVER__PORT=8000 killable config --no-import --json",
)
_verb(check, "Server", "killable check", "killable check my_jobs.py --json")
_verb(workers, "Server", "killable workers", "killable workers --json")
_verb(types, "Server", "killable types", "killable types tokenize")
_verb(metrics, "Server", "killable metrics", "killable metrics --text")
_verb(drain, "Server", "killable drain --deadline 5m", "killable drain --off")
_verb(shutdown, "Server", "killable shutdown", "killable shutdown --deadline 5m --grace 2s --reason 'new release'")
_verb(doctor, "Machine", "killable doctor", "killable doctor --url http://127.0.0.1:7833 --json")
_verb(demo, "Machine", "killable demo")
for word, function in (("cancel", kill), ("stop", kill), ("list", ps), ("status", inspect)):
    app.command(word, hidden=True)(function)  # what people try first


def _print_version(wanted: bool) -> None:
    if wanted:
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
