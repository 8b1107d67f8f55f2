"""`killable submit`, `stream`, `result`: start a job, stream its output, fetch its result.

Runs in: any machine.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from killable.api.cli import interrupts
from killable.api.cli.display import console, errors, render
from killable.api.cli.display.exit_codes import CommandExit
from killable.api.cli.display.follow import Follower, print_value
from killable.api.cli.parameters import completion
from killable.api.cli.parameters.arguments import read_input, read_tags
from killable.api.cli.parameters.job_lookup import find_job
from killable.api.cli.parameters.limit_options import with_limit_options
from killable.api.cli.parameters.options import JobName, Json, Url, open_client, seconds
from killable.api.client.addresses import DEFAULT_URL
from killable.workers.errors import KillableError

if TYPE_CHECKING:
    from killable.api.client.client import JobHandle


@with_limit_options
def submit(
    type: Annotated[
        str,
        typer.Argument(
            metavar="TYPE",
            help="Job type; `killable types` lists them.",
            show_default=False,
            autocompletion=completion.job_types,
        ),
    ],
    members: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE", help="Members of the input, as with -i.")
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "-i",
            metavar="NAME=VALUE",
            help="A member of the input; NAME=@FILE takes the content of a file, of any kind for bytes.",
        ),
    ] = None,
    document: Annotated[
        str | None, typer.Option("--input", metavar="JSON", help="The whole input: JSON, @FILE, or - for stdin.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("-d", "--detach", help="Print the job id and return; the job keeps running.")
    ] = False,
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="KEY=VALUE", help="A tag to select by in ps and kill. May be repeated."),
    ] = None,
    priority: Annotated[int, typer.Option("--priority", help="Higher priorities start earlier.")] = 0,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    *,
    limits: dict[str, Any],
) -> None:
    """Start a job and stream its output. Ctrl-C cancels it and waits until it is dead.

    Tokens go to stdout, everything else to stderr. If a job streams nothing, its
    result is printed. SECONDS are 60, 5m or 1h30m, BYTES 512MiB or 2GiB; where
    a limit is optional, `none` removes it.
    """
    with errors.reporting(as_json), open_client(url) as client:
        given = read_input(client, type, [*(members or ()), *(pairs or ())], document)
        labels = read_tags(tags or [])

        def start() -> JobHandle:
            return client.submit(type, given, limits=limits, tags=labels, priority=priority)

        if not detach:
            raise typer.Exit(_follow_or_cancel(start, as_json))
        with interrupts.delayed():
            job = start()
            console.print_json(job.accepted) if as_json else typer.echo(job.id)


def stream(
    name: JobName,
    after: Annotated[int | None, typer.Option("--after", metavar="N", help="Start after event N.")] = None,
    events: Annotated[bool, typer.Option("--events", help="Print every event, one per line: id, name, data.")] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Stream a job's output from the first token, also after its end. Ctrl-C leaves the job running."""
    with errors.reporting(as_json), open_client(url) as client:
        follower = Follower(find_job(client, name), as_json=as_json, all_events=events, after=after)
        try:
            follower.follow()
        except KeyboardInterrupt:
            job = render.short(follower.job.id)
            console.stderr_console().print(f"{job} keeps running; to end it: killable kill {job}")
            raise
        raise typer.Exit(follower.finish())


def result(
    name: JobName,
    wait: Annotated[
        float,
        typer.Option(
            "--wait", parser=seconds, metavar="SECONDS", help="Wait up to this long for the job to end: 30s, 5m."
        ),
    ] = 0.0,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Print what a job returned.

    Exit code if there is no result: 1 failed, 3 cancelled, 75 not ended yet, 124
    timed out.
    """
    with errors.reporting(as_json), open_client(url) as client:
        value = find_job(client, name).result(wait_s=wait)
        if not as_json:
            print_value(value)
        elif isinstance(value, bytes):
            console.print_json({"base64": base64.b64encode(value).decode()})
        else:
            console.print_json(value)


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
    except KeyboardInterrupt:
        if follower is None:
            stderr.print("interrupted before the server answered; the job may have started (`killable ps` lists it)")
            raise
        return _cancel(follower, as_json)
    except KillableError:
        raise
    except BaseException as error:  # `submit ... | head`, a full disk: the output can no longer be written
        if follower is not None:
            reason = "its reader has gone" if isinstance(error, OSError) else "its reader failed"
            with contextlib.suppress(KillableError), interrupts.delayed():  # a closed terminal sends SIGHUP, too
                follower.job.cancel(reason=reason, wait_s=0)
                stderr.print(f"{render.short(follower.job.id)} is cancelled: {reason}")
        raise
    return follower.finish()


def _cancel(follower: Follower, as_json: bool) -> int:
    job, stderr = follower.job, console.stderr_console()
    try:
        with interrupts.delayed():  # the next Ctrl-C may end the wait, but not this request
            job.cancel(reason="Ctrl-C", wait_s=0)
            if stderr.is_terminal:
                stderr.print()  # the terminal has echoed ^C
            stderr.print(f"cancelling {render.short(job.id)}; Ctrl-C again stops waiting for its end")
        follower.follow()
    except (KeyboardInterrupt, KillableError) as error:
        if isinstance(error, KillableError):
            errors.report(error, as_json)
        stderr.print(f"no certificate received; to see how the job ended: killable inspect {render.short(job.id)}")
        return CommandExit.INTERRUPTED
    return follower.finish()
