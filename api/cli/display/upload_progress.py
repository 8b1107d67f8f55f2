"""Upload a file and show in a terminal how far it is.

Runs in: any machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from killable.api.cli.display.console import stderr_console
from killable.api.client.events import Record
from killable.api.client.file_source import FileSource

if TYPE_CHECKING:
    from killable.api.client.client import Client


def upload(client: Client, source: FileSource) -> Record:
    """Upload a file and return its record. Nothing is shown where stderr is no terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
               TimeRemainingColumn())  # fmt: skip
    console = stderr_console(soft_wrap=False)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"uploading {source.name}", total=source.size)
        source.on_sent = lambda sent: progress.update(task, completed=sent)
        return client.upload(source)
