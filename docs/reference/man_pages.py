"""Write the man pages from the declarations of the verbs and of killable.toml, and the scripts with which shells
complete: `make man`, or with [--check].

Nothing here is typed twice: it is what `--help` and the reference pages are made of. The wheel installs the pages under
share/man, where man(1) of an environment's `bin` finds them, and the scripts where bash-completion and fish look.
With --check nothing is written; the exit code is 1 when a
page is stale.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from killable.api.cli.app import app
from killable.api.cli.declarations.verb_command import VerbCommand
from killable.api.cli.parameters.completion_scripts import script_of
from killable.api.cli.verbs import PANELS, VERBS
from killable.supervisor.configuration.example import example

FOLDER = Path(__file__).parent.parent / "man"
SCRIPTS = {"bash": "killable", "zsh": "_killable", "fish": "killable.fish"}
"""The name under which each shell looks for the script of a command."""
ENVIRONMENT = (
    ("KILLABLE_URL", "Address of the server, where --url is not given."),
    ("KILLABLE_API_KEY", "The API key that requests are sent with; of a server, a key that it accepts."),
    ("KILLABLE_CONFIG", "The configuration of a server, where --config is not given."),
    ("NO_COLOR", "If set, nothing is coloured."),
)


def pages() -> dict[Path, str]:
    """Return the text of each page, by its file."""
    verbs = [verb for verb in VERBS.values() if not verb.hidden]
    made = {FOLDER / f"killable-{verb.name}.1": _page_of(verb) for verb in verbs}
    return {
        FOLDER / "killable.1": _overview(),
        **made,
        FOLDER / "killable.toml.5": _configuration(),
        **{FOLDER / "completion" / name: script_of(app, shell) for shell, name in SCRIPTS.items()},
    }


def escaped(text: str) -> str:
    """Return a text as roff has to have it: no line is a request, and a hyphen is one that can be searched for."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("’", "'")
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text)
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in text.split("\n"))


def _head(name: str, section: int) -> str:
    # Without a date: a page changes when what it says does.
    return f'.TH "{name.upper()}" "{section}" "" "killable" "killable"\n.nh\n.ds AD l\n.ad l'


def _section(title: str, *parts: str) -> Iterator[str]:
    if any(parts):
        yield f".SH {title}"
        yield from (part for part in parts if part)


def _paragraphs(text: str) -> str:
    blocks = [block.strip() for block in re.split(r"\n\s*\n", text) if block.strip() != "\b"]
    return "\n.PP\n".join(escaped(" ".join(block.split())) for block in blocks)


def _items(items: list[tuple[str, str]]) -> str:
    return "\n".join(f".TP\n\\fB{escaped(name)}\\fR\n{escaped(' '.join(text.split()))}" for name, text in items)


def _verbatim(lines: str) -> str:
    return f".nf\n{escaped(lines)}\n.fi"


def _options(options: list[click.Option]) -> str:
    rows = []
    for option in options:
        value = "" if option.is_flag else f" {option.metavar or option.type.name.upper()}"
        default = option.to_info_dict()["default"]
        about = option.help or ""
        if option.envvar:
            about += f" Variable: {option.envvar}."
        if not option.is_flag and default not in (None, "", ()):
            about += f" Default: {default}."
        rows.append((", ".join(f"{name}{value}" for name in sorted(option.opts, key=len)), about))
    return _items(rows)


def _page_of(verb: VerbCommand) -> str:
    arguments = [each for each in verb.params if isinstance(each, click.Argument)]
    options = [each for each in verb.params if isinstance(each, click.Option)]
    usage = " ".join([*(["[OPTIONS]"] if options else []), *(str(each.metavar) for each in arguments)])
    summary, _, rest = (verb.help or "").partition("\n\n")
    name = f"killable-{verb.name}"
    parts = [
        _head(name, 1),
        *_section("NAME", f"{escaped(name)} \\- {escaped(_lower(' '.join(summary.split())))}"),
        *_section("SYNOPSIS", f"\\fBkillable {escaped(str(verb.name))}\\fR {escaped(usage)}".rstrip()),
        *_section("DESCRIPTION", _paragraphs(f"{summary}\n\n{rest}")),
        *_section("ARGUMENTS", _items([(str(each.metavar), each.help or "") for each in arguments])),  # type: ignore[attr-defined]
        *_section("OPTIONS", _options(options)),
        *_section("EXAMPLES", _verbatim("\n".join(verb.examples)) if verb.examples else ""),
        *_section("SEE ALSO", "\\fBkillable\\fR(1), \\fBkillable.toml\\fR(5)"),
    ]
    return "\n".join(parts) + "\n"


def _overview() -> str:
    options = [each for each in app.params if isinstance(each, click.Option)]
    verbs = []
    for panel, members in PANELS.items():
        verbs.append(f".SS {panel}")
        verbs.append(_items([(f"killable-{verb.name}(1)", verb.summary) for verb in members]))
    codes = str(app.epilog or "").partition(": ")[2].rstrip(".")
    exits = [(number, words) for number, _, words in (each.partition(" ") for each in re.split(r", (?=\d)", codes))]
    parts = [
        _head("killable", 1),
        *_section("NAME", "killable \\- run CPU\\-bound jobs in worker processes that can always be stopped"),
        *_section("SYNOPSIS", "\\fBkillable\\fR [OPTIONS] COMMAND [ARGS]..."),
        *_section("DESCRIPTION", _paragraphs(app.help or "")),
        *_section("COMMANDS", *verbs),
        *_section("OPTIONS", _options(options)),
        *_section("ENVIRONMENT", _items([*ENVIRONMENT])),
        *_section("EXIT STATUS", _items(exits)),
        *_section("SEE ALSO", "\\fBkillable.toml\\fR(5)"),
    ]
    return "\n".join(parts) + "\n"


def _configuration() -> str:
    about = (
        "The configuration of `killable serve`: ./killable.toml, the file of --config, or that of KILLABLE_CONFIG. "
        "A flag goes before a variable (KILLABLE_SERVER__PORT for port in [server]), a variable before the file, the "
        "file before a decorator of the code. `killable check` tells every fault, and `killable config` each value in "
        "force with where it comes from.\n\nBelow is every key with its default and its meaning."
    )
    parts = [
        _head("killable.toml", 5),
        *_section("NAME", "killable.toml \\- configuration of a killable server"),
        *_section("DESCRIPTION", _paragraphs(about)),
        *_section("KEYS", *_keys()),
        *_section("SEE ALSO", "\\fBkillable\\-config\\fR(1), \\fBkillable\\-check\\fR(1), \\fBkillable\\-serve\\fR(1)"),
    ]
    return "\n".join(parts) + "\n"


def _keys() -> Iterator[str]:
    """Yield the tables of the example, each key with what its comment says."""
    about: list[str] = []
    is_head = False
    for line in example():
        if line.startswith("["):
            yield f".SS {escaped(line)}"
        elif is_head and line.startswith("#"):
            yield escaped(line.lstrip("# "))
        elif line.startswith("#"):
            about.append(line.lstrip("# "))
        elif line:
            key, _, behind = line.partition("  # ")
            yield _items([(key.rstrip(), " ".join([*about, behind]).strip() or "\\&")])
            about = []
        if not line:
            about = []
        is_head = line.startswith("[")


def _lower(sentence: str) -> str:
    """Return the first sentence of a summary as a NAME line has it."""
    first = re.split(r"(?<=[a-z)])[.:](?:\s|$)", sentence)[0]
    return f"{first[0].lower()}{first[1:]}"


def main(arguments: list[str]) -> int:
    made = pages()
    there = {path for path in FOLDER.rglob("*") if path.is_file()}
    stale = {path: text for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text}
    if "--check" in arguments:
        for path in sorted({*stale, *(there - made.keys())}):
            print(f"stale: {path.name}; run `make man`")
        return 1 if stale or there - made.keys() else 0
    (FOLDER / "completion").mkdir(parents=True, exist_ok=True)
    for path in there - made.keys():
        path.unlink()
    for path, text in stale.items():
        path.write_text(text, "utf-8")
        print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
