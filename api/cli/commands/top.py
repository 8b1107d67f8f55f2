"""`killable top`: the server now, in a terminal.

Runs in: any machine.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from killable.api.cli.display import errors
from killable.api.cli.display.exit_codes import CommandExit
from killable.workers.errors import KillableError

if TYPE_CHECKING:
    from killable.api.cli.top.top_app import TopApp


class CannotShow(KillableError):
    """There is no terminal, or what draws in it is not installed."""

    code = "cannot_show"
    exit_code = CommandExit.USAGE


def top(url: str) -> None:
    with errors.reporting(as_json=False):
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise CannotShow("top needs a terminal; `killable ps --watch` prints a line for each change")
        app = _app(url)
        code = app.run()
        raise click.exceptions.Exit(CommandExit.FAILED if code is None else code)


def _app(url: str) -> TopApp:
    """Make the application. Raise CannotShow without Textual, Unreachable or Refused for an address or a key."""
    try:
        import textual  # noqa: F401
    except ImportError as error:
        raise CannotShow(f"top needs Textual: pip install 'killable[top]' ({error})") from error
    from killable.api.cli.top.top_app import TopApp
    from killable.api.client.async_client import AsyncClient

    client = AsyncClient(url, retries=0)
    return TopApp(client, client.address)
