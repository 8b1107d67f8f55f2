"""The documents as their readers see them: which blocks of code a page has, and what is to be done with each.

The conventions, which `test_docs.py` enforces:

- A `python` block whose first line is a comment with a file name (`# my_jobs.py`) is that file. So are blocks of
  `toml`, `ini`, `yaml` and `dockerfile`. Any other `python` block is a program, and is run.
- A `text` block right behind such a program is its output, and is compared.
- A `console` block has commands, lines that begin with `$ `, which are run in order. The lines behind a command are its
  output, and are compared. A line `...` stands for any number of lines.
- A `python` block with the comment `<!-- cell -->` in front of it is a cell of a notebook: all cells of a page are one
  program. A `text` block behind a cell is what a notebook shows below it.
- All blocks of a page are run in one folder, from the first to the last. Servers end with the page.
- A block that is not run, because what it needs is not installed or because it is a drawing, has the comment
  `<!-- not run: REASON -->` in front of it. `test_docs.py` has a list of them.
- A block that another test runs has the comment `<!-- run by: tests/e2e/test_readme.py -->` in front of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
GENERATED = DOCS / "reference"
"""Its pages are made from the code, and tested where they are made."""
DECISIONS = DOCS / "decisions"
"""For maintainers: nothing in them is run."""

FILE_LANGUAGES = ("python", "toml", "ini", "yaml", "dockerfile")
LANGUAGES = (*FILE_LANGUAGES, "console", "text", "json", "mermaid")

_MARK = re.compile(r"<!-- (?:(not run|run by): (.+?)|(cell)) -->")
_FILE_NAME = re.compile(r"# ([\w./@-]+)$")
_MARKDOWN = MarkdownIt()


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    """Of its first line of text, counted from 1."""
    language: str
    text: str
    mark: str = ""
    """Empty, `not run`, `run by` or `cell`."""
    because: str = ""
    """Why it is not run, or by which test it is."""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """The name of the file that it is, if it is one."""
        found = _FILE_NAME.match(self.text.partition("\n")[0]) if self.language in FILE_LANGUAGES else None
        return found[1] if found else None


@dataclass(frozen=True)
class Step:
    """A command of a `console` block, and what it is said to print."""

    line: int
    command: str
    output: tuple[str, ...]


def pages() -> list[Path]:
    """Return the pages for users that people write."""
    elsewhere = {GENERATED, DECISIONS}
    return [path for path in sorted(DOCS.rglob("*.md")) if not elsewhere & set(path.parents)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def blocks_of(path: Path) -> list[Block]:
    """Return the blocks of a page. Raise ValueError for one that breaks a convention."""
    blocks = []
    mark = because = ""
    for token in _MARKDOWN.parse(path.read_text()):
        if token.type == "html_block":
            found = _MARK.fullmatch(token.content.strip())
            mark, because = (found[1] or found[3], found[2] or "") if found else ("", "")
            continue
        if token.type in ("fence", "code_block") and token.map is not None:
            language = token.info.strip() if token.type == "fence" else "(indented)"
            if not language.startswith("{"):  # those are directives of the site
                block = Block(name_of(path), token.map[0] + 2, language, token.content, mark, because)
                if language not in LANGUAGES:
                    raise ValueError(f"{block.place}: a block of {language or 'no language'!r}; there are {LANGUAGES}")
                blocks.append(block)
        mark = because = ""
    return blocks


def steps_of(block: Block) -> Iterator[Step]:
    """Yield the commands of a `console` block. Raise ValueError for output that belongs to none."""
    command, line, output = "", 0, list[str]()
    for number, text in enumerate(block.text.splitlines(), block.line):
        if text.startswith("$ "):
            if command:
                yield Step(line, command, tuple(output))
            command, line, output = text.removeprefix("$ "), number, []
        elif not command:
            raise ValueError(f"{block.page}:{number}: output in front of the first command")
        else:
            output.append(text)
    if not command:
        raise ValueError(f"{block.place}: no command")
    yield Step(line, command, tuple(output))


def inline_commands(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the commands that a page names in its sentences, with the line of their paragraph."""
    for token in _MARKDOWN.parse(path.read_text()):
        for child in token.children or ():
            if child.type == "code_inline" and child.content.startswith("killable "):
                yield (token.map or [0])[0] + 1, child.content
