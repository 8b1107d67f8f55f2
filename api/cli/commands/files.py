"""`killable files`: list the files that a job has saved, and download some.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from killable.api.cli.display import console, errors
from killable.api.cli.display.fitted_table import Column, Listing
from killable.api.cli.parameters.command_client import open_client
from killable.api.cli.parameters.job_lookup import find_job
from killable.api.explanation import spelling
from killable.workers.errors import Refused


def files(name: str, wanted: tuple[str, ...], output: Path | None, as_json: bool, url: str) -> None:
    if output is not None and not wanted:
        raise click.UsageError("-o needs the NAME of a file to download")
    with errors.reporting(as_json), open_client(url) as client:
        job = find_job(client, name)
        if not wanted:
            _list(job.files(), as_json)
            return
        if output is not None and len(wanted) > 1 and not output.is_dir():
            raise Refused(f"{len(wanted)} files need a folder, and {output} is none", code="invalid")
        saved = [str(job.download(each, Path() if output is None else output)) for each in wanted]
        if as_json:
            console.print_json({"files": saved})
        else:
            console.print_lines(map(Text, saved))


def _list(found: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        console.print_json({"files": found})
    elif found:
        table = Listing([Column("NAME", cut=True), Column("SIZE", numeric=True), Column("TYPE", 1, cut=True)])
        for each in found:
            table.add(each["name"], spelling.size(each["size"]), each["content_type"])
        console.print_table(table)
    else:
        console.stderr_console().print("the job has saved no file", style="dim")
