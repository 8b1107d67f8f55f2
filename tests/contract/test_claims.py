"""Every row of the specification is claimed by a test, and every code of an ending is reached by a real process.

What is claimed is read from the tests' own marks; `tests/process/conftest.py` checks that a claimed code was reached.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest
from support.hostile_cases import TABLE

from killable.workers.errors import CODES

TESTS = Path(__file__).parents[1]


def numbered(letter: str, last: int) -> tuple[str, ...]:
    return tuple(f"{letter}{number}" for number in range(1, last + 1))


ROWS = (
    *numbered("A", 28), *numbered("B", 20), *numbered("C", 10), *numbered("D", 24), *numbered("E", 14),
    *numbered("F", 9), *numbered("G", 11), *numbered("H", 12),
)  # fmt: skip
"""Rows that must work, by section."""
PEERS = tuple(f"PEERS-{name}" for name in (*"ABCDEFGHIJKLMNO", *range(1, 16)))
"""What no other system has, by letter, and what users of others complain about, by number."""

PROMISED = (
    *numbered("B", 20), *numbered("C", 10), *numbered("D", 24), "H1", "H2", "H4", "H6", "H8", "H10", "H11",
    *PEERS,
)  # fmt: skip


@functools.cache
def marks(kind: str, folder: str = "") -> list[tuple[str, str]]:
    """Return what each `pytest.mark.<kind>` of the tests names, and where."""
    found = []
    for path in sorted((TESTS / folder).rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == f"pytest.mark.{kind}":
                names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                found += [(str(name), f"{path.relative_to(TESTS)}:{node.lineno}") for name in names]
    return found


def test_every_claimed_row_is_one_of_the_specification() -> None:
    unknown = [(row, where) for row, where in marks("row") if row not in ROWS + PEERS]
    assert not unknown


@pytest.mark.parametrize("row", PROMISED)
def test_every_promised_row_is_claimed_by_a_test(row: str) -> None:
    assert [where for claimed, where in marks("row") if claimed == row]


def test_every_code_of_an_ending_is_reached_by_a_real_process() -> None:
    endings = {code for code, line in CODES.items() if line.state is not None}
    reached = {code for code, _ in marks("code", "process")} | {case.code for case in TABLE if case.code}
    assert reached == endings
