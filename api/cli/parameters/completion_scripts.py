"""The options that show or install the script with which a shell completes the words of this command.

Runs in: any machine with bash, zsh or fish.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

SHELLS = ("bash", "zsh", "fish")
OWN_SHELL = "own"
"""The shell that has started this."""
VARIABLE = "_KILLABLE_COMPLETE"

F = TypeVar("F", bound=Callable[..., None])


def completion_options(function: F) -> F:
    """Add `--install-completion` and `--show-completion`."""
    shell: dict[str, Any] = {
        "metavar": "[SHELL]", "type": click.Choice((*SHELLS, OWN_SHELL)), "is_flag": False, "flag_value": OWN_SHELL,
        "is_eager": True, "expose_value": False,
    }  # fmt: skip
    show = "Show completion for the current shell, or for another one, to copy it or customize the installation."
    function = click.option("--show-completion", callback=_show, help=show, **shell)(function)
    install = f"Install completion for the current shell, or for another one: {', '.join(SHELLS)}."
    return click.option("--install-completion", callback=_install, help=install, **shell)(function)


def _show(ctx: click.Context, parameter: click.Parameter, shell: str | None) -> None:
    if shell is not None and not ctx.resilient_parsing:
        click.echo(script_of(ctx.command, named(shell)))
        ctx.exit()


def _install(ctx: click.Context, parameter: click.Parameter, shell: str | None) -> None:
    if shell is not None and not ctx.resilient_parsing:
        name = named(shell)
        path = install(name, script_of(ctx.command, name), Path.home())
        click.echo(f"{name} completion installed in {path}\nCompletion will take effect once you restart the terminal")
        ctx.exit()


def named(shell: str) -> str:
    """Return the shell that is meant. Raise click.UsageError if the own one is not known."""
    if shell != OWN_SHELL:
        return shell
    import shellingham  # type: ignore[import-untyped]

    try:
        found: str = shellingham.detect_shell()[0]
    except shellingham.ShellDetectionFailure:
        found = "unknown"
    if found not in SHELLS:
        raise click.UsageError(f"the current shell is {found}; name one of {', '.join(SHELLS)}")
    return found


def script_of(command: click.Command, shell: str) -> str:
    """Return the script with which a shell completes the words of the command."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None, shell
    return made(command, {}, "killable", VARIABLE).source().strip() + "\n"


def install(shell: str, script: str, home: Path) -> Path:
    """Write a shell's script where it reads it at its next start. Return the path."""
    path = home / {"bash": ".bash_completions/killable.sh", "zsh": ".zfunc/_killable",
                   "fish": ".config/fish/completions/killable.fish"}[shell]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script)
    if shell == "bash":
        _append(home / ".bashrc", f"source '{path}'")
    elif shell == "zsh":
        _append(home / ".zshrc", "fpath+=~/.zfunc; autoload -Uz compinit; compinit")
    return path


def _append(file: Path, line: str) -> None:
    """Add a line to a file that does not have it."""
    text = file.read_text() if file.exists() else ""
    if line not in text.splitlines():
        file.write_text(f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{line}\n")
