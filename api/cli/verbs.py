"""The verbs of the command. Each is imported on first use, so that `ps` does not load what only `serve` needs.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any, NamedTuple

import typer
import typer.core
import typer.main


class Verb(NamedTuple):
    """Where a verb is implemented, and what its help shows besides the docstring."""

    module: str
    """A module of `killable.api.cli.commands`."""
    function: str
    panel: str | None
    examples: tuple[str, ...] = ()
    hidden: bool = False

    def command(self, name: str) -> Any:
        """Import the verb and return its Click command."""
        function = getattr(import_module(f"killable.api.cli.commands.{self.module}"), self.function)
        epilog = "Examples:\n\n" + "\n\n".join(self.examples) if self.examples else None
        alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
        alone.command(name, rich_help_panel=self.panel, epilog=epilog, hidden=self.hidden)(function)
        return typer.main.get_command(alone)


def _server(function: str, *examples: str, module: str = "") -> Verb:
    return Verb(module or function, function, "Server", examples)


def _job(function: str, *examples: str, module: str = "") -> Verb:
    return Verb(module or function, function, "Jobs", examples)


VERBS = {
    "serve": _server("serve", "killable serve", "killable serve my_jobs.py --port 8000"),
    "submit": _job(
        "submit",
        'killable submit generate -i prompt="Tell me about the sea" -i max_tokens=64',
        "killable submit tokenize -i text=@book.txt --run-s 5m --tag team=search -d",
    ),
    "stream": _job(
        "stream", "killable stream job-3f2a91c0", "killable stream 3f2a --after 17 --events", module="submit"
    ),
    "result": _job("result", "killable result 3f2a --wait 30s", module="submit"),
    "logs": _job("logs", "killable logs 3f2a", "killable logs 3f2a -f -n 20"),
    "ps": _job("ps", "killable ps", "killable ps -a -n 20 --type tokenize --tag team=search"),
    "inspect": _job("inspect", "killable inspect 3f2a", "killable inspect w-7 --json"),
    "explain": _job("explain", "killable explain 3f2a"),
    "kill": _job(
        "kill",
        "killable kill 3f2a 91c0",
        "killable kill --type generate --now --reason 'wrong prompt'",
        "killable kill w-7",
    ),
    "config": _server(
        "config",
        "killable config my_jobs.py",
        "killable config --example > killable.toml",
        "KILLABLE_SERVER__PORT=8000 killable config --no-import --json",
    ),
    "check": _server("check", "killable check", "killable check my_jobs.py --json"),
    "workers": _server("workers", "killable workers", "killable workers --json"),
    "types": _server("types", "killable types", "killable types tokenize", module="workers"),
    "metrics": _server("metrics", "killable metrics", "killable metrics --text"),
    "drain": _server("drain", "killable drain --deadline 5m", "killable drain --off"),
    "shutdown": _server(
        "shutdown", "killable shutdown", "killable shutdown --deadline 5m --grace 2s --reason 'new release'"
    ),
    "doctor": Verb(
        "doctor", "doctor", "Machine", ("killable doctor", "killable doctor --url http://127.0.0.1:7833 --json")
    ),
    "demo": Verb("demo", "demo", "Machine", ("killable demo",)),
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
