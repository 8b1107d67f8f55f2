"""The verbs of the command, in the order and the parts of `killable --help`.

Runs in: any machine.
"""

from __future__ import annotations

from typing import Any

import click

from killable.api.cli.declarations.commands import COMMANDS
from killable.api.cli.declarations.jobs import INSPECT, JOBS, KILL, PS
from killable.api.cli.declarations.machine import MACHINE
from killable.api.cli.declarations.server import SERVER

PANELS = {"Server": SERVER, "Jobs": JOBS, "Commands": COMMANDS, "Machine": MACHINE}
# The names that other tools use.
ALIASES = (KILL.alias("cancel"), KILL.alias("stop"), PS.alias("list"), INSPECT.alias("status"))
VERBS = {str(verb.name): verb for verb in (*SERVER, *JOBS, *COMMANDS, *MACHINE, *ALIASES)}

NO_VERB, INTERRUPTED = 2, 130
"""Exit codes where no verb runs; verbs have their own (`CommandExit`)."""


class Verbs(click.Group):
    """The group of all verbs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, commands=dict(VERBS))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, VERBS))
        for panel, verbs in PANELS.items():
            with formatter.section(panel):
                formatter.write_dl([(str(verb.name).ljust(width), verb.summary) for verb in verbs])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())  # Click's own way writes it to stderr, where no pager gets it
            ctx.exit(NO_VERB)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None
