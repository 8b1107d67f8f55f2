"""command.md: every verb of `killable` with its arguments and options, from what `--help` is made of."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any, get_type_hints

import typer.main

from killable.api.cli import app
from killable.api.cli.verbs import VERBS, Verb
from pages.markdown import code, document, fence, first_sentence, prose, slug, table

VALUES = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}
PANELS = ("Jobs", "Server", "Machine")
OPTION_COLUMNS = ("Option", "Default", "Meaning")


def page() -> str:
    shown = {name: verb for name, verb in VERBS.items() if not verb.hidden}
    assert {verb.panel for verb in shown.values()} == set(PANELS)
    sections: list[str] = []
    for panel in PANELS:
        named = [(name, verb) for name, verb in shown.items() if verb.panel == panel]
        overview = (
            (f"[`{name}`](#{slug(f'killable {name}')})", first_sentence(_help(_command(name)))) for name, _ in named
        )
        sections += [f"## {panel}", table(("Verb", "What it does"), overview)]
        sections += [part for name, verb in named for part in _verb(name, verb)]
    options = table(OPTION_COLUMNS, map(_row, typer.main.get_command(app).params))
    return document("The command", INTRO, options, COMMON_INTRO, table(OPTION_COLUMNS, COMMON), _aliases(), *sections)


def _command(name: str) -> Any:
    return VERBS[name].command(name)


def _verb(name: str, verb: Verb) -> Iterable[str]:
    command = _command(name)
    function = getattr(import_module(f"killable.api.cli.commands.{verb.module}"), verb.function)
    hints = get_type_hints(function)
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = " ".join(["killable", name, *(["[OPTIONS]"] if options else []), *map(_usage, arguments)])
    yield f"### `killable {name}`"
    yield fence(usage)
    yield prose(_help(command))
    yield table(("Argument", "Meaning"), ((code(each.metavar), _about(each)) for each in arguments))
    own = [each for each in options if _row(each) not in COMMON]
    for panel, group in groupby(own, key=lambda each: each.rich_help_panel or ""):
        yield f"**{panel}**" if panel else ""
        yield table(OPTION_COLUMNS, (_row(each, hints.get(each.name, str)) for each in group))
    common = [code(each.opts[0]) for each in options if each not in own]
    yield f"Common options: {', '.join(common)}." if common else ""
    yield fence("\n".join(verb.examples), "sh") if verb.examples else ""


def _help(command: Any) -> str:
    return inspect.cleandoc(command.help or "").replace("\\[", "[")


def _usage(argument: Any) -> str:
    text = argument.metavar + ("..." if argument.nargs != 1 else "")
    return text if argument.required else f"[{text}]"


def _row(option: Any, kind: Any = str) -> tuple[str, ...]:
    value = "" if option.is_flag else f" {option.metavar or _value(kind)}"
    names = sorted((*option.opts, *option.secondary_opts), key=len)
    return ", ".join(code(f"{name}{value}") for name in names), _default(option), _about(option)


def _value(kind: Any) -> str:
    kinds = [kind, *getattr(kind, "__args__", ())]
    return next((VALUES[each] for each in kinds if each in VALUES), "TEXT")


def _default(option: Any) -> str:
    if option.is_flag or option.default in (None, "", []) or callable(option.default):
        return ""
    return code(f"{option.default:g}" if isinstance(option.default, float) else str(option.default))


def _about(parameter: Any) -> str:
    text = re.sub(r"\\\[", "[", parameter.help or "")
    return f"{text} Variable: `{parameter.envvar}`.".strip() if parameter.envvar else text


def _aliases() -> str:
    hidden: Mapping[str, Verb] = {name: verb for name, verb in VERBS.items() if verb.hidden}
    names = ", ".join(f"{code(name)} is {code(verb.function)}" for name, verb in hidden.items())
    return f"Aliases of verbs: {names}."


COMMON = [_row(each) for each in _command("ps").params if each.name in ("as_json", "url")]
"""Options of many verbs; shown once."""
COMMON_INTRO = "Common options, of each verb that names them:"
INTRO = """
`killable VERB --help` prints the same text. Results go to stdout, everything else to stderr. With `--json` a verb
prints JSON. A job is named by its id or by a unique prefix of it. The verbs reach the server at `--url`, or at
`KILLABLE_URL`; the API key comes from `KILLABLE_API_KEY`. [Exit codes](exit-codes.md) lists the exit codes of the
command.

Options of `killable` itself stand before the verb:
"""
