"""`killable reload`: a server reads its keys again, and rolls its pools over to the code as it is now.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from killable.api.cli.display import console, errors
from killable.api.cli.display.exit_codes import CommandExit
from killable.api.cli.parameters.command_client import open_client
from killable.api.explanation import spelling


def reload(as_json: bool, url: str) -> None:
    with errors.reporting(as_json), open_client(url) as client:
        record = client.reload()
        console.print_json(record) if as_json else click.echo(reload_line(record))
        if not_read := record.get("not_read"):  # a server from before reads only the code
            for fault in () if as_json else not_read:
                console.stderr_console().print(f"killable: {spelling.plain(fault)}")
            raise click.exceptions.Exit(CommandExit.FAILED)


def reload_line(record: Mapping[str, Any]) -> str:
    """Return `pool main has the new code, after 1.2 s; new: b; gone: c (2 jobs that waited have failed)`."""
    pools = [spelling.plain(name) for name in record["pools"]]
    whose = f"pool {pools[0]} has" if len(pools) == 1 else f"pools {', '.join(pools)} have"
    failed = record["jobs_failed"]
    waited = f"{spelling.counted(failed, 'job')} that waited {'has' if failed == 1 else 'have'} failed"
    told = [
        f"{word}: {', '.join(map(spelling.plain, record[name]))}"
        for name, word in (("came", "new"), ("changed", "changed"), ("gone", "gone"))
        if record[name]
    ]
    lost = f" ({waited})" if failed else ""
    first = f"{whose} the new code, after {record['took_s']:.1f} s"
    return "; ".join((first, *told)) + lost
