"""`killable submit`: start a job and stream its output.

Runs in: any machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from killable.api.cli import interrupts
from killable.api.cli.display import console, errors
from killable.api.cli.display.exit_codes import CommandExit
from killable.api.cli.display.live_output import Follower
from killable.api.cli.parameters.command_client import open_client
from killable.api.cli.parameters.job_input import read_input, read_nodes, read_tags
from killable.api.cli.parameters.limit_options import limits_of
from killable.api.explanation import spelling
from killable.workers.errors import KillableError

if TYPE_CHECKING:
    from killable.api.client.client import JobHandle


def submit(
    type: str,
    members: tuple[str, ...],
    pairs: tuple[str, ...],
    document: str | None,
    detach: bool,
    tags: tuple[str, ...],
    priority: int,
    nodes: tuple[str, ...],
    callback_url: str | None,
    as_json: bool,
    url: str,
    **limits: Any,
) -> None:
    with errors.reporting(as_json), open_client(url) as client:
        given = read_input(client, type, [*members, *pairs], document)
        labels = read_tags(tags)
        selector = read_nodes(nodes)

        def start() -> JobHandle:
            in_force = limits_of(limits)
            return client.submit(
                type, given, limits=in_force, tags=labels, priority=priority, nodes=selector, callback_url=callback_url
            )

        if not detach:
            raise click.exceptions.Exit(_follow_or_cancel(start, as_json))
        with interrupts.delayed():
            job = start()
            console.print_json(job.accepted) if as_json else click.echo(job.id)


def _follow_or_cancel(start: Callable[[], JobHandle], as_json: bool) -> int:
    """Start a job and follow it to its end; an interrupt cancels it and keeps following it to its terminal event."""
    interrupts.treat_terminations_as_interrupts()
    stderr = console.stderr_console()
    follower: Follower | None = None
    try:
        with interrupts.delayed():  # a job whose id is not known here could not be cancelled
            follower = Follower(start(), as_json=as_json)
            if not as_json:
                stderr.print(follower.job.id, style="dim")
        follower.follow()
    except KeyboardInterrupt as interrupt:
        if follower is None:
            stderr.print("interrupted before the server answered; the job may have started (`killable ps` lists it)")
            raise
        return _cancel(follower, interrupts.reason_of(interrupt), as_json)
    except KillableError:
        raise
    except BaseException as error:  # `submit ... | head`, a full disk: the output can no longer be written
        if follower is not None:
            reason = "its reader has gone" if isinstance(error, OSError) else "its reader failed"
            with contextlib.suppress(KillableError), interrupts.delayed():  # a closed terminal sends SIGHUP, too
                follower.job.cancel(reason=reason, wait_s=0)
                stderr.print(f"{spelling.short(follower.job.id)} is cancelled: {reason}")
        raise
    return follower.finish()


def _cancel(follower: Follower, reason: str, as_json: bool) -> int:
    job, stderr = follower.job, console.stderr_console()
    try:
        with interrupts.delayed():  # the next Ctrl-C may end the wait, but not this request
            job.cancel(reason=reason, wait_s=0)
            if stderr.is_terminal:
                stderr.print()  # the terminal has echoed ^C
            stderr.print(f"cancelling {spelling.short(job.id)}; Ctrl-C again stops waiting for its end")
        follower.follow()
    except (KeyboardInterrupt, KillableError) as error:
        if isinstance(error, KillableError):
            errors.report(error, as_json)
        stderr.print(f"no certificate received; to see how the job ended: killable inspect {spelling.short(job.id)}")
        return CommandExit.INTERRUPTED
    return follower.finish()
