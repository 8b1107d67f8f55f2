"""The verbs of the part Jobs of the command's help: what is typed, and what help says of it.

Runs in: any machine.
"""

from __future__ import annotations

from pathlib import Path

import click
from click import Argument, IntRange, Option

from killable.api.cli.declarations.shared_options import JOB, JSON, REASON, URL, limit_options
from killable.api.cli.declarations.verb_command import VerbCommand
from killable.api.cli.parameters import completion
from killable.api.cli.parameters.option_values import seconds

ON_A_SCREEN = 40
"""Rows shown in a terminal by default: few enough that the first ones stay visible."""

SUBMIT = VerbCommand(
    "submit",
    """Start a job and stream its output. Ctrl-C cancels it and waits until it is dead.

    Tokens go to stdout, everything else to stderr. If a job streams nothing, its
    result is printed. SECONDS are 60, 5m or 1h30m, BYTES 512MiB or 2GiB; where
    a limit is optional, `none` removes it.
    """,
    Argument(
        ["type"], metavar="TYPE", shell_complete=completion.job_types, help="Job type; `killable types` lists them."
    ),
    Argument(["members"], nargs=-1, metavar="[NAME=VALUE]...", help="Members of the input, as with -i."),
    Option(
        ["-i", "pairs"],
        multiple=True,
        metavar="NAME=VALUE",
        help="A member of the input; NAME=@FILE takes the content of a file, of any kind for bytes, or uploads it.",
    ),
    Option(["--input", "document"], metavar="JSON", help="The whole input: JSON, @FILE, or - for stdin."),
    Option(["-d", "--detach"], is_flag=True, help="Print the job id and return; the job keeps running."),
    Option(
        ["--tag", "tags"],
        multiple=True,
        metavar="KEY=VALUE",
        help="A tag to select by in ps and kill. May be repeated.",
    ),
    Option(["--priority"], type=int, default=0, help="Higher priorities start earlier."),
    Option(
        ["--nodes"],
        multiple=True,
        metavar="LABEL=VALUE",
        help="A label of the machines of a cluster that may run it: zone=a, zone=!a, zone=in(a,b). May be repeated.",
    ),
    Option(
        ["--callback-url"],
        metavar="URL",
        help="Where the server sends how the job ended, as a signed webhook.",
    ),
    JSON,
    URL,
    *limit_options(),
    runs="submit.submit",
    examples=(
        'killable submit generate -i prompt="Tell me about the sea" -i max_tokens=64',
        "killable submit tokenize -i text=@book.txt --run-s 5m --tag team=search -d",
    ),
)

STREAM = VerbCommand(
    "stream",
    "Stream a job's output from the first token, also after its end. Ctrl-C leaves the job running.",
    JOB,
    Option(["--after"], type=int, metavar="N", help="Start after event N."),
    Option(["--events"], is_flag=True, help="Print every event, one per line: id, name, data."),
    JSON,
    URL,
    runs="stream.stream",
    examples=(
        "killable stream job-3f2a91c0",
        "killable stream 3f2a --after 17 --events",
    ),
)

RESULT = VerbCommand(
    "result",
    """Print what a job returned.

    Exit code if there is no result: 1 failed, 3 cancelled, 75 not ended yet, 124
    timed out.
    """,
    JOB,
    Option(
        ["--wait"],
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="Wait up to this long for the job to end: 30s, 5m.",
    ),
    JSON,
    URL,
    runs="result.result",
    examples=("killable result 3f2a --wait 30s",),
)

FILES = VerbCommand(
    "files",
    """List the files that a job has saved, or download those that are named.

    A file is saved under its name in this folder, or as -o says. It is printed
    where it is. A download that breaks goes on from there.
    """,
    JOB,
    Argument(["wanted"], nargs=-1, metavar="[NAME]...", help="Files to download; none: list them."),
    Option(
        ["-o", "--output"], metavar="PATH", type=click.Path(path_type=Path),
        help="Where to save it: a file, or a folder.",
    ),
    JSON,
    URL,
    runs="files.files",
    examples=(
        "killable files 3f2a",
        "killable files 3f2a out.webm -o videos/",
    ),
)  # fmt: skip

WAIT = VerbCommand(
    "wait",
    """Wait until jobs have ended, and print the id, state and error code of each. Ctrl-C leaves them running.

    The lines come in the order of the arguments. Exit code: 0 if all jobs have
    completed, 75 if one had not ended by the timeout, 4 for an unknown id; else
    that of the first job that did not complete: 1 failed, 3 cancelled, 124 timed
    out.
    """,
    Argument(
        ["jobs"],
        nargs=-1,
        required=True,
        metavar="JOB...",
        shell_complete=completion.jobs,
        help="Job ids or unique prefixes of them.",
    ),
    Option(
        ["--timeout"],
        type=seconds,
        metavar="SECONDS",
        help="Wait at most this long for all of them: 30s, 5m. Default: without a limit.",
    ),
    JSON,
    URL,
    runs="wait.wait",
    examples=(
        "killable wait 3f2a 91c0",
        "killable wait 3f2a --timeout 5m --json",
    ),
)

LOGS = VerbCommand(
    "logs",
    """Print what a job wrote to its stdout and stderr, also after its end. For its tokens: `killable stream`.

    Ctrl-C leaves the job running.
    """,
    JOB,
    Option(["-f", "--follow"], is_flag=True, help="Follow the output until the job ends."),
    Option(["-n", "--tail"], type=IntRange(min=0), metavar="N", help="Start with the last N lines."),
    JSON,
    URL,
    runs="logs.logs",
    examples=(
        "killable logs 3f2a",
        "killable logs 3f2a -f -n 20",
    ),
)

PS = VerbCommand(
    "ps",
    """List jobs with their worker processes: running ones first, then the queue in its order.

    STATE shows the place in the queue (#1 is next) or the progress that the job
    reported (45%), ERROR why it ended, RAN how long its function ran. CPU is a
    share of one core, averaged over the worker's life. A wide terminal shows
    more columns. With --watch the list is drawn again each second until Ctrl-C;
    where no terminal is, each change is a line, until nobody reads them.
    """,
    Option(["-a", "--all", "all_jobs"], is_flag=True, help="Include ended jobs."),
    Option(
        ["--state"],
        metavar="STATE",
        shell_complete=completion.states,
        help="queued, running, stopping, completed, failed, cancelled, timed_out or active.",
    ),
    Option(["--type"], metavar="TYPE", shell_complete=completion.job_types, help="Only jobs of this type."),
    Option(["--tag"], metavar="KEY=VALUE", help="Only jobs with this tag."),
    Option(["--node"], metavar="NODE", help="Only jobs on this machine of a cluster."),
    Option(
        ["-n", "--limit"],
        type=IntRange(min=0),
        metavar="N",
        help=f"List at most N jobs; 0: all. Default: {ON_A_SCREEN} in a terminal, all in a pipe.",
    ),
    Option(["--full"], is_flag=True, help="Print full ids."),
    Option(["-w", "--watch"], is_flag=True, help="Go on, and show each change."),
    JSON,
    URL,
    runs="ps.ps",
    examples=(
        "killable ps",
        "killable ps --watch",
        "killable ps -a -n 20 --type tokenize --tag team=search",
    ),
)

INSPECT = VerbCommand(
    "inspect",
    "Show one job with its error and its certificate (how its process ended), or one worker process.",
    Argument(
        ["name"],
        metavar="JOB|WORKER",
        shell_complete=completion.jobs_and_workers,
        help="Job id or a unique prefix of it, or worker id.",
    ),
    JSON,
    URL,
    runs="inspect.inspect",
    examples=(
        "killable inspect 3f2a",
        "killable inspect w-7 --json",
    ),
)

EXPLAIN = VerbCommand(
    "explain",
    """Explain how a job ended and why: its request, the rule that ended it, each step with its time, what to change.

    The last paragraph names the one setting that would have changed the outcome,
    or states that no setting would.
    """,
    JOB,
    JSON,
    URL,
    runs="explain.explain",
    examples=("killable explain 3f2a",),
)

KILL = VerbCommand(
    "kill",
    """Kill jobs with every process that they started, and wait until all are dead.

    A worker id kills that process: its job, if it has one, is cancelled, and a
    new worker takes its place. Exit code: 0 dead (also if an earlier cancel
    ended the job), 1 already ended otherwise, 4 unknown id.
    """,
    Argument(
        ["names"],
        nargs=-1,
        metavar="[JOB]...",
        shell_complete=completion.killable_names,
        help="Job ids or unique prefixes of them; full worker ids.",
    ),
    Option(
        ["--grace", "--grace-s"],
        type=seconds,
        metavar="SECONDS",
        help="Time for clean-up before SIGKILL: 2s. It can only shorten the job's own.",
    ),
    Option(["--now"], is_flag=True, help="Send SIGKILL at once, without grace."),
    REASON,
    Option(["--type"], metavar="TYPE", shell_complete=completion.job_types, help="Kill all active jobs of this type."),
    Option(["--tag"], metavar="KEY=VALUE", help="Kill all active jobs with this tag."),
    Option(["--node"], metavar="NODE", help="Kill all active jobs on this machine of a cluster."),
    Option(["--all", "all_jobs"], is_flag=True, help="Kill all active jobs."),
    Option(["--dry-run"], is_flag=True, help="List what would be killed, and kill nothing."),
    JSON,
    URL,
    runs="kill.kill",
    examples=(
        "killable kill 3f2a 91c0",
        "killable kill --type generate --now --reason 'wrong prompt'",
        "killable kill w-7",
    ),
)

JOBS = (SUBMIT, STREAM, RESULT, FILES, WAIT, LOGS, PS, INSPECT, EXPLAIN, KILL)
