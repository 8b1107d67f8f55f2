"""`killable run`, when Click has read its arguments: those that `plain_run` does not read are help or have a fault.

Runs in: Linux.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from killable.api.cli.parameters.limit_options import limits_of
from killable.api.cli.parameters.run_arguments import LimitFault, RunArguments, limits_of_command
from killable.api.cli.running_command import ReportNotWritable, run_and_tell, signal_number


def run(argv: tuple[str, ...], signal: str, as_json: bool, report: str | None, **options: Any) -> None:
    if sys.platform != "linux":
        raise click.ClickException("commands can be run on Linux only")
    number = signal_number(signal)
    if number is None:
        raise click.BadParameter(f"{signal!r} is no signal; kill -l lists them", param_hint="--signal")
    if report == "":
        raise click.BadParameter("expected the name of a file; got ''", param_hint="--report")
    try:
        limits = limits_of_command(limits_of(options))
        asked = RunArguments(argv, signal, as_json, report or "", limits)
        code = run_and_tell(asked, number)
    except LimitFault as error:
        raise click.BadParameter(str(error), param_hint=error.option) from None
    except ReportNotWritable as error:
        raise click.BadParameter(str(error), param_hint="--report") from None
    raise click.exceptions.Exit(code)
