"""The rows that tests name, and docs/rows.md, the page that is made from them.

`python tests/contract/rows.py` writes the page anew.
"""

from __future__ import annotations

import ast
import functools
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parents[1]
DATA = TESTS / "rows.toml"
PAGE = TESTS.parent / "docs" / "rows.md"
COMMAND = "python tests/contract/rows.py"
HEAD = """\
# Rows

What killable has to do, a row each, and the tests that show it. A test names its rows with `pytest.mark.row`; the texts
are in `tests/rows.toml`. This page is generated: run `python tests/contract/rows.py` to write it anew.
"""


class Row(NamedTuple):
    """One capability."""

    id: str
    capability: str
    done_when: str


class Claim(NamedTuple):
    """A test that names a row."""

    row: str
    path: str
    """As `tests/unit/test_errors.py`."""
    line: int
    test: str
    """The name of the test; empty: every test of the file."""


@functools.cache
def sections() -> tuple[tuple[str, tuple[Row, ...]], ...]:
    """Return the titles of the sections, each with its rows."""
    data = tomllib.loads(DATA.read_text("utf-8"))
    return tuple(
        (section["title"], tuple(Row(name, **texts) for name, texts in section["rows"].items()))
        for section in data["sections"]
    )


def ids() -> list[str]:
    """Return the ids of all rows, in the order of the page."""
    return [row.id for _, rows in sections() for row in rows]


@functools.cache
def claims_of(path: str, text: str) -> tuple[Claim, ...]:
    """Return the claims of one file of tests."""
    tree = ast.parse(text) if ".row(" in text else ast.Module([], [])
    return tuple(Claim(row, path, line, test) for row, line, test in _marks(tree, ""))


def _marks(node: ast.AST, test: str) -> Iterator[tuple[str, int, str]]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        test = node.name
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "row":
        names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        yield from ((str(name), node.lineno, test) for name in names)
    for child in ast.iter_child_nodes(node):
        yield from _marks(child, test)


@functools.cache
def claims() -> tuple[Claim, ...]:
    """Return what all tests claim, by file and line."""
    found: list[Claim] = []
    for path in sorted(TESTS.rglob("test_*.py")):
        found += claims_of(path.relative_to(TESTS.parent).as_posix(), path.read_text("utf-8"))
    return tuple(found)


def page(looked_at: Sequence[Claim] | None = None) -> str:
    """Return the text of docs/rows.md."""
    by_row: dict[str, list[Claim]] = {}
    for claim in claims() if looked_at is None else looked_at:
        by_row.setdefault(claim.row, []).append(claim)
    parts = [HEAD]
    for title, rows in sections():
        parts.append(f"\n## {title}\n")
        for row in rows:
            parts.append(f"\n### {row.id}: {row.capability}\n\nDone when: {row.done_when}\n\n")
            parts += _lines(by_row.get(row.id, []))
    return "".join(parts)


def _lines(looked_at: Iterable[Claim]) -> Iterator[str]:
    tests: dict[str, list[str]] = {}
    for claim in looked_at:
        names = tests.setdefault(claim.path, [])
        name = f"`{claim.test}`" if claim.test else "every test"
        if name not in names:
            names.append(name)
    for path, names in sorted(tests.items()):
        yield f"- `{path}`: {', '.join(names)}\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
