"""A verb as Click knows it: help needs no more than this, and running it imports what it does.

Runs in: any machine.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Sequence
from importlib import import_module
from itertools import groupby
from typing import Any

import click

OPTIONS = "Options"


class PanelOption(click.Option):
    """An option that help lists below a heading of its own."""

    def __init__(self, *arguments: Any, panel: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.panel = panel


def panel_of(option: click.Parameter) -> str:
    """Return the heading that help lists an option below."""
    return option.panel if isinstance(option, PanelOption) else OPTIONS


class VerbCommand(click.Command):
    """A verb. `runs`: the function of `killable.api.cli.commands` that it calls, as `module.function`.

    `without_json`: why it has no `--json`; empty: it has.
    """

    def __init__(
        self, name: str, text: str, *params: click.Parameter, runs: str, examples: Sequence[str] = (),
        without_json: str = "", **more: Any,
    ) -> None:  # fmt: skip
        text = inspect.cleandoc(text)
        # \b keeps the lines of a paragraph as they are (Click, "Preventing Rewrapping").
        epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
        summary = text.partition("\n\n")[0].replace("\n", " ")
        super().__init__(name, params=[*params], help=text, short_help=summary, epilog=epilog, **more)
        self.summary = summary
        self.runs = runs
        self.examples = examples
        self.without_json = without_json

    def alias(self, name: str) -> VerbCommand:
        """Return the same verb under a name that help does not list."""
        return VerbCommand(name, self.help or "", *self.params, runs=self.runs, examples=self.examples, hidden=True)

    def function(self) -> Any:
        """Import what the verb does."""
        module, _, name = self.runs.partition(".")
        return getattr(import_module(f"killable.api.cli.commands.{module}"), name)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        for panel, members in groupby(sorted(options, key=lambda each: panel_of(each) != OPTIONS), key=panel_of):
            with formatter.section(panel):
                formatter.write_dl([row for each in members if (row := each.get_help_record(ctx))])

    def invoke(self, ctx: click.Context) -> Any:
        function = self.function()
        gc.enable()
        return ctx.invoke(function, **ctx.params)
