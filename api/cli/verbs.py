"""The verbs of the command. Each is imported when it is run, so that `ps` does not load what only `serve` needs.

Runs in: any machine. Lists of verbs (`killable --help`, completion of a verb) are made from the table here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

import typer
import typer.core
import typer.main

from killable.api.cli import lean_commands
from killable.api.cli.lean_commands import VerbCommand

T = TypeVar("T")


class Verb(NamedTuple):
    """Where a verb is implemented, and what its help shows besides the docstring."""

    module: str
    """A module of `killable.api.cli.commands`."""
    function: str
    panel: str | None
    summary: str = ""
    """The first paragraph of the function's docstring, for lists of verbs."""
    examples: tuple[str, ...] = ()
    hidden: bool = False

    def entry(self, name: str) -> typer.core.TyperCommand:
        """Return the verb as lists show it, without its parameters and without an import."""
        return typer.core.TyperCommand(name, help=self.summary, hidden=self.hidden, rich_help_panel=self.panel)

    def command(self, name: str) -> Any:
        """Import the verb and return its Click command."""
        function = getattr(import_module(f"killable.api.cli.commands.{self.module}"), self.function)
        epilog = "Examples:\n\n" + "\n\n".join(self.examples) if self.examples else None
        alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
        alone.command(name, cls=VerbCommand, rich_help_panel=self.panel, epilog=epilog, hidden=self.hidden)(function)
        return typer.main.get_command(alone)


def _server(function: str, summary: str, *examples: str, module: str = "") -> Verb:
    return Verb(module or function, function, "Server", summary, examples)


def _job(function: str, summary: str, *examples: str, module: str = "") -> Verb:
    return Verb(module or function, function, "Jobs", summary, examples)


VERBS = {
    "serve": _server(
        "serve",
        "Run the server. Ctrl-C ends every job with its grace, then the server; a second Ctrl-C kills at once.",
        "killable serve",
        "killable serve my_jobs.py --port 8000",
    ),
    "submit": _job(
        "submit",
        "Start a job and stream its output. Ctrl-C cancels it and waits until it is dead.",
        'killable submit generate -i prompt="Tell me about the sea" -i max_tokens=64',
        "killable submit tokenize -i text=@book.txt --run-s 5m --tag team=search -d",
    ),
    "stream": _job(
        "stream",
        "Stream a job's output from the first token, also after its end. Ctrl-C leaves the job running.",
        "killable stream job-3f2a91c0",
        "killable stream 3f2a --after 17 --events",
        module="submit",
    ),
    "result": _job("result", "Print what a job returned.", "killable result 3f2a --wait 30s", module="submit"),
    "wait": _job(
        "wait",
        "Wait until jobs have ended, and print the id, state and error code of each. Ctrl-C leaves them running.",
        "killable wait 3f2a 91c0",
        "killable wait 3f2a --timeout 5m --json",
    ),
    "logs": _job(
        "logs",
        "Print what a job wrote to its stdout and stderr, also after its end. For its tokens: `killable stream`.",
        "killable logs 3f2a",
        "killable logs 3f2a -f -n 20",
    ),
    "ps": _job(
        "ps",
        "List jobs with their worker processes: running ones first, then the queue in its order.",
        "killable ps",
        "killable ps -a -n 20 --type tokenize --tag team=search",
    ),
    "inspect": _job(
        "inspect",
        "Show one job with its error and its certificate (how its process ended), or one worker process.",
        "killable inspect 3f2a",
        "killable inspect w-7 --json",
    ),
    "explain": _job(
        "explain",
        "Explain how a job ended and why: its request, the rule that ended it, each step with its time, what to"
        " change.",
        "killable explain 3f2a",
    ),
    "kill": _job(
        "kill",
        "Kill jobs with every process that they started, and wait until all are dead.",
        "killable kill 3f2a 91c0",
        "killable kill --type generate --now --reason 'wrong prompt'",
        "killable kill w-7",
    ),
    "config": _server(
        "config",
        "Show every value in force and its source: flag, variable, line of the file, decorator or default.",
        "killable config my_jobs.py",
        "killable config --example > killable.toml",
        "KILLABLE_SERVER__PORT=8000 killable config --no-import --json",
    ),
    "keys": _server(
        "keys",
        "Make, list or revoke API keys.",
        "killable keys make dashboard --role submit --expires 30d",
        "killable keys make ci --role submit --visibility own --file ./keys",
        "killable keys list",
        "killable keys revoke dashboard",
    ),
    "check": _server(
        "check",
        "Check the configuration: start every pool once and report every fault.",
        "killable check",
        "killable check my_jobs.py --json",
    ),
    "workers": _server(
        "workers",
        "List the server's worker processes: idle ones, busy ones with their jobs, and those that are stopping.",
        "killable workers",
        "killable workers --json",
    ),
    "nodes": _server(
        "nodes",
        "List the machines of a cluster (`serve --ray`), each with the jobs that it runs and may run.",
        "killable nodes",
        "killable nodes --drain gpu-3-1a2b3c",
    ),
    "tenants": _server(
        "tenants",
        "List the tenants with what each has now and may have: waiting and running jobs, kept results, streams.",
        "killable tenants",
        "killable tenants --json",
    ),
    "types": _server(
        "types",
        "List the job types with their inputs; with TYPE, show one in full: schema, limits, caps.",
        "killable types",
        "killable types tokenize",
        module="workers",
    ),
    "metrics": _server(
        "metrics",
        "Show the server's metrics: jobs by outcome since its start, its current load, the latency of cancels.",
        "killable metrics",
        "killable metrics --text",
    ),
    "drain": _server(
        "drain",
        "Refuse new jobs and let the accepted ones finish. Returns at once; `ps` shows what is left.",
        "killable drain --deadline 5m",
        "killable drain --off",
    ),
    "shutdown": _server(
        "shutdown",
        "Stop the server: refuse new jobs, end every job with its grace, then exit. Waits until the server is gone.",
        "killable shutdown",
        "killable shutdown --deadline 5m --grace 2s --reason 'new release'",
    ),
    "journal": _server(
        "journal",
        "Check, copy or save the file in which a server keeps its jobs.",
        "killable journal verify ./jobs.journal",
        "killable journal backup ./jobs.journal ./jobs.backup",
        "killable journal salvage ./jobs.journal ./saved.journal --json",
    ),
    "doctor": Verb(
        "doctor",
        "doctor",
        "Machine",
        "Test what the server needs of this machine, and report what is missing and how to get it.",
        ("killable doctor", "killable doctor --url http://127.0.0.1:7833 --json"),
    ),
    "demo": Verb(
        "demo",
        "demo",
        "Machine",
        "Stream a language model, cancel it mid-sentence, kill a job stuck in native code, and leave no process"
        " behind.",
        ("killable demo",),
    ),
    # Aliases: the names that other tools use.
    "cancel": Verb("kill", "kill", None, hidden=True),
    "stop": Verb("kill", "kill", None, hidden=True),
    "list": Verb("ps", "ps", None, hidden=True),
    "status": Verb("inspect", "inspect", None, hidden=True),
}


class _OnDemand(MutableMapping[str, Any]):
    """Commands by name, as Typer's group expects them. Imports each on first access."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = VERBS[name].command(name)
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


class Verbs(typer.core.TyperGroup):
    """The group of all verbs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _OnDemand()
        self._only_listed = False

    def get_params(self, ctx: Any) -> Any:
        return lean_commands.with_values_as_given(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)  # Typer's own looks at each command, which imports it

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        verb = VERBS.get(cmd_name)
        return verb.entry(cmd_name) if verb is not None and self._only_listed else super().get_command(ctx, cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        lean_commands.prepare_help()
        self._listing(lambda: super(Verbs, self).format_help(ctx, formatter))

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        return self._listing(lambda: super(Verbs, self).shell_complete(ctx, incomplete))

    def _listing(self, act: Callable[[], T]) -> T:
        """Do what needs only the names and summaries of the verbs: no verb is imported."""
        self._only_listed = True
        try:
            return act()
        finally:
            self._only_listed = False
