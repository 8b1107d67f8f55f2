"""The arguments and options that several verbs take.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from killable.api.cli.declarations.verb_command import PanelOption
from killable.api.cli.parameters import completion
from killable.api.cli.parameters.option_values import LimitOption
from killable.api.client.addresses import DEFAULT_URL
from killable.workers.authoring.limits_and_caps import LIMITS, Unit

JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON: one document, or one line per event.")
URL = click.Option(
    ["--url"], envvar="KILLABLE_URL", show_envvar=True, default=DEFAULT_URL, metavar="URL",
    help="Address of the server: http://HOST:PORT or unix:PATH.",
)  # fmt: skip
FILE = click.Path(path_type=Path, readable=False)
"""A path. Whoever opens it tells what is wrong with it."""
TARGET = click.Argument(
    ["target"], required=False, metavar="[MODULE_OR_FILE]", type=click.Path(readable=False),
    help="Your jobs. Default: the pools of killable.toml, or the built-in ones.",
)  # fmt: skip
CONFIG_FILE = click.Option(
    ["--config"], metavar="FILE", type=FILE, help="Default: $KILLABLE_CONFIG or ./killable.toml."
)
JOB = click.Argument(["name"], metavar="JOB", help="Job id, or a unique prefix of it.", shell_complete=completion.jobs)
REASON = click.Option(
    ["--reason"], metavar="TEXT", default="", show_default=False, help="Reason, recorded in the certificate."
)

_METAVARS = {Unit.SECONDS: "SECONDS", Unit.BYTES: "BYTES", Unit.COUNT: "NUMBER"}


def limit_options() -> Iterator[click.Option]:
    """Yield the options that set limits, one for each: `--run-s` sets `run_s`."""
    for name, limit in LIMITS.items():
        names, text = [f"--{name.replace('_', '-')}", name], f"{limit.bounds[0].upper()}{limit.bounds[1:]}."
        if limit.unit is Unit.OPERATIONS:
            yield PanelOption(names, panel="Limits", multiple=True, metavar="NAME=SECONDS", help=text)
        else:
            metavar = _METAVARS[limit.unit]
            yield PanelOption(names, panel="Limits", type=LimitOption(name), metavar=metavar, help=text)
