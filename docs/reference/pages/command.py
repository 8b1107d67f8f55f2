"""command.md: every verb of `killable` with its arguments and options, from what `--help` is made of."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import click

from killable.api.cli.app import app
from killable.api.cli.declarations.verb_command import OPTIONS, VerbCommand, panel_of
from killable.api.cli.verbs import PANELS, VERBS
from pages.markdown import code, document, fence, first_sentence, prose, slug, table

ORDER = ("Jobs", "Server", "Commands", "Machine")
OPTION_COLUMNS = ("Option", "Default", "Meaning")


def page() -> str:
    assert PANELS.keys() == set(ORDER)
    sections: list[str] = []
    for panel in ORDER:
        verbs = PANELS[panel]
        overview = (
            (f"[`{verb.name}`](#{slug(f'killable {verb.name}')})", first_sentence(verb.help or "")) for verb in verbs
        )
        sections += [f"## {panel}", table(("Verb", "What it does"), overview)]
        sections += [part for verb in verbs for part in _verb(verb)]
    options = table(OPTION_COLUMNS, map(_row, app.params))
    return document("The command", INTRO, options, COMMON_INTRO, table(OPTION_COLUMNS, COMMON), _aliases(), *sections)


def _verb(verb: VerbCommand) -> Iterable[str]:
    arguments = [each for each in verb.params if isinstance(each, click.Argument)]
    options = [each for each in verb.params if isinstance(each, click.Option)]
    usage = [
        "killable",
        str(verb.name),
        *(["[OPTIONS]"] if options else []),
        *(str(each.metavar) for each in arguments),
    ]
    yield f"### `killable {verb.name}`"
    yield fence(" ".join(usage))
    yield prose(verb.help or "")
    yield table(("Argument", "Meaning"), ((code(each.metavar.strip("[].")), each.help) for each in arguments))
    own = [each for each in options if _row(each) not in COMMON]
    for panel, group in groupby(own, key=panel_of):
        yield f"**{panel}**" if panel != OPTIONS else ""
        yield table(OPTION_COLUMNS, map(_row, group))
    common = [code(each.opts[0]) for each in options if each not in own]
    yield f"Common options: {', '.join(common)}." if common else ""
    yield fence("\n".join(verb.examples), "sh") if verb.examples else ""


def _row(option: click.Option) -> tuple[str, ...]:
    value = "" if option.is_flag else f" {option.metavar or option.type.name.upper()}"
    names = sorted(option.opts, key=len)
    about = f"{option.help} Variable: `{option.envvar}`.".strip() if option.envvar else option.help or ""
    return ", ".join(code(f"{name}{value}") for name in names), _default(option), about


def _default(option: click.Option) -> str:
    default = option.to_info_dict()["default"]
    if option.is_flag or default in (None, "", ()):
        return ""
    return code(f"{default:g}" if isinstance(default, float) else str(default))


def _aliases() -> str:
    names = ", ".join(
        f"{code(name)} is {code(verb.runs.split('.')[-1])}" for name, verb in VERBS.items() if verb.hidden
    )
    return f"Aliases of verbs: {names}."


COMMON = [_row(each) for each in VERBS["ps"].params if each.name in ("as_json", "url")]
"""Options of many verbs; shown once."""
COMMON_INTRO = "Common options, of each verb that names them:"
INTRO = """
`killable VERB --help` prints the same text. Results go to stdout, everything else to stderr. With `--json` a verb
prints JSON. A job is named by its id or by a unique prefix of it. The verbs reach the server at `--url`, or at
`KILLABLE_URL`; the API key comes from `KILLABLE_API_KEY`. [Exit codes](exit-codes.md) lists the exit codes of the
command.

Options of `killable` itself stand before the verb:
"""
