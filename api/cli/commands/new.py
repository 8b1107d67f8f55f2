"""`killable new`: write a starter project, whose server runs and whose tests pass as they are.

Runs in: any machine.
"""

from __future__ import annotations

import os
import re
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import click

from killable.api.cli.display import console, errors
from killable.api.cli.display.exit_codes import CommandExit
from killable.workers.errors import KillableError

FILES = {
    "jobs.py": "jobs.py.txt",
    "tests/test_jobs.py": "tests/test_jobs.py.txt",
    "killable.toml": "killable.toml.txt",
    "pyproject.toml": "pyproject.toml.txt",
    "Dockerfile": "Dockerfile.txt",
    "README.md": "README.md.txt",
    ".gitignore": "gitignore.txt",
    ".dockerignore": "dockerignore.txt",
}
"""Each file of the project, and what it is made from: not under its own name, or tools would take it for ours."""
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
"""The name of a distribution (PEP 508)."""


class CannotWrite(KillableError):
    """The project cannot be written there."""

    code = "cannot_write"
    exit_code = CommandExit.REFUSED


def new(folder: str, as_json: bool) -> None:
    with errors.reporting(as_json):
        path = Path(folder)
        written = write_project(path)
        if as_json:
            console.print_json({"folder": str(path.resolve()), "files": written})
            return
        stderr = console.stderr_console()
        stderr.print(f"wrote {', '.join(written)} to {folder}", highlight=False)
        stderr.print("next:", style="dim")
        for line in (f"cd {folder}", "pip install -e '.[dev]'", "killable serve --reload", "pytest"):
            click.echo(line)


def write_project(folder: Path) -> list[str]:
    """Write the files of a project named after its folder; return their names. Raise CannotWrite: the name is none of
    a project, or one of the files is there, and then nothing is written.
    """
    name = folder.resolve().name
    if _NAME.fullmatch(name) is None:
        raise CannotWrite(f"{name!r} is no name of a project: use letters, digits, '-', '_' and '.'")
    there = [each for each in FILES if os.path.lexists(folder / each)]
    if there:
        raise CannotWrite(f"{folder} has {', '.join(there)} already: nothing was written")
    marks = {"@NAME@": name, "@VERSION@": version("killable")}
    template = files("killable.api.cli.starter") / "files"
    for each, source in FILES.items():
        text = (template / source).read_text(encoding="utf-8")
        for mark, value in marks.items():
            text = text.replace(mark, value)
        target = folder / each
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    return list(FILES)
