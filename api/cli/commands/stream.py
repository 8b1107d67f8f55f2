"""`killable stream`: stream the output of a job from its first token.

Runs in: any machine.
"""

from __future__ import annotations

import click

from killable.api.cli.display import console, errors
from killable.api.cli.display.live_output import Follower
from killable.api.cli.parameters.command_client import open_client
from killable.api.cli.parameters.job_lookup import find_job
from killable.api.explanation import spelling


def stream(name: str, after: int | None, events: bool, as_json: bool, url: str) -> None:
    with errors.reporting(as_json), open_client(url) as client:
        follower = Follower(find_job(client, name), as_json=as_json, all_events=events, after=after)
        try:
            follower.follow()
        except KeyboardInterrupt:
            job = spelling.short(follower.job.id)
            console.stderr_console().print(f"{job} keeps running; to end it: killable kill {job}")
            raise
        raise click.exceptions.Exit(follower.finish())
