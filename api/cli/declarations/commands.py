"""The verbs of the part Commands of the command's help: what is typed, and what help says of it.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import click
from click import Argument, Option

from killable.api.cli.declarations.shared_options import limit_options
from killable.api.cli.declarations.verb_command import VerbCommand
from killable.api.cli.parameters.run_arguments import DEFAULT_SIGNAL, GRACE, LIMITS_OF_COMMANDS, MEMORY

EXAMPLE = "killable run --run-s 60 --grace-s 5 --memory 2GiB -- ffmpeg -i in.mp4 out.webm"


class RunCommand(VerbCommand):
    """A verb whose last arguments are a command with its own options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if isinstance(error, (click.NoSuchOption, click.MissingParameter)):
                raise click.UsageError(
                    f"{error.format_message()} The command follows --, as in: {EXAMPLE}", ctx
                ) from None
            raise


def _limits() -> Iterator[click.Option]:
    for option in limit_options():
        name = option.name or ""
        if name in LIMITS_OF_COMMANDS:
            option.help = LIMITS_OF_COMMANDS[name]
            if name == "memory_bytes":
                option.opts.insert(0, MEMORY)
            if name == "grace_s":
                option.opts.insert(0, GRACE)
            yield option


RUN = RunCommand(
    "run",
    """Run a command with limits, without a server; nothing of it is left when this ends.

    As timeout(1), but for the whole tree of processes, also if this process is
    killed. At a limit, or when this is asked to end by SIGTERM, SIGINT, SIGHUP
    or SIGQUIT, the command gets that signal, then its grace, then SIGKILL; other
    signals are passed on. What it leaves behind is killed. stdin, stdout, stderr
    and the terminal are the command's own. There is no limit but those given;
    SECONDS are 60, 5m or 1h30m, BYTES 512MiB or 2GiB.

    Exit code: the command's own; 124 at a time limit, 137 at another limit, 126 if
    the program cannot be executed, 127 if it is not found, 71 if no process can be
    made. Ends by the same signal as the command, in a shell 128 and its number.
    """,
    Argument(["argv"], nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND [ARGUMENT]...",
        help="The command with its arguments.",
    ),
    Option(
        ["-s", "--signal"], metavar="NAME", default=DEFAULT_SIGNAL,
        help="The signal that asks the command to end, at a limit: INT, HUP, 10, RTMIN+3.",
    ),
    Option(["--json", "as_json"], is_flag=True, help="Print how it ended on stderr, as one line of JSON."),
    Option(
        ["--report"], metavar="FILE", type=click.Path(),
        help="Write how it ended into this file, as JSON.",
    ),
    *_limits(),
    runs="run.run",
    examples=(
        EXAMPLE,
        "killable run --run-s 10m --json -- make test",
        "killable run --cpu-s 30 -- sh -c 'convert big.tif small.png && optipng small.png'",
    ),
    context_settings={"allow_interspersed_args": False},
)  # fmt: skip

COMMANDS = (RUN,)
