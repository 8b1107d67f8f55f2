"""`killable logs`: print what a job wrote to its stdout and stderr.

Runs in: any machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from killable.api.cli.display import console, errors
from killable.api.cli.parameters.command_client import open_client
from killable.api.cli.parameters.job_lookup import events_so_far, find_job

if TYPE_CHECKING:
    from killable.api.client.client import Event


def logs(name: str, follow: bool, tail: int | None, as_json: bool, url: str) -> None:
    with errors.reporting(as_json), open_client(url) as client:
        job = find_job(client, name)
        if follow and tail is None:
            _print(job.events(), as_json)
            return
        record = job.record()
        past = events_so_far(job, record)
        _print(past if tail is None else deque((event for event in past if event.name == "log"), tail), as_json)
        if follow:
            _print(job.events(after=record["events"] - 1), as_json)


def _print(events: Iterable[Event], as_json: bool) -> None:
    for event in events:
        if event.name != "log":
            continue
        if as_json:
            console.print_json({"id": event.id, "event": event.name, "data": event.data}, one_line=True)
        else:
            console.write(event.data.get("text", "") + "\n")
