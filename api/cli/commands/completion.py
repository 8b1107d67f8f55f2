"""`killable completion`: the script with which a shell completes the words of this command.

Runs in: any machine.
"""

from __future__ import annotations

import click

from killable.api.cli.parameters.completion_scripts import OWN_SHELL, named, script_of


def completion(shell: str | None) -> None:
    click.echo(script_of(click.get_current_context().find_root().command, named(shell or OWN_SHELL)), nl=False)
