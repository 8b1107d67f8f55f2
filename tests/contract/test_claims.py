"""Every row of the specification is claimed by a test, and every code of an ending is reached by a real process.

What is claimed is read from the tests' own marks; `tests/process/conftest.py` checks that a claimed code was reached.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Sequence

import pytest
from support.hostile_cases import TABLE

from contract.source import Source, check, sources
from killable.workers.errors import CODES


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
    looked_at = sources(f"tests/{folder}".rstrip("/"))
    return marks_of(kind, [each for each in looked_at if each.path.name.startswith("test_")])


def marks_of(kind: str, looked_at: Sequence[Source]) -> list[tuple[str, str]]:
    found = []
    for each in looked_at:
        for node in ast.walk(each.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == kind:
                names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                found += [(str(name), f"{each.name}:{node.lineno}") for name in names]
    return found


@check
def unknown_rows(looked_at: Sequence[Source]) -> list[str]:
    return [f"{where} {row}" for row, where in marks_of("row", looked_at) if row not in ROWS + PEERS]


def test_every_claimed_row_is_one_of_the_specification() -> None:
    assert unknown_rows(sources("tests")) == []


def claims(row: str, looked_at: Sequence[tuple[str, str]]) -> list[str]:
    return [where for claimed, where in looked_at if claimed == row]


@pytest.mark.parametrize("row", PROMISED)
def test_every_promised_row_is_claimed_by_a_test(row: str) -> None:
    found = claims(row, marks("row"))
    assert found
    assert not claims(row, [claim for claim in marks("row") if claim[1] not in found]), "the control"


def unreached(claimed: Iterable[str]) -> set[str]:
    """Return codes of endings that are not claimed, and claimed ones that are none."""
    endings = {code for code, line in CODES.items() if line.state is not None}
    return {*claimed, *(case.code for case in TABLE if case.code)} ^ endings


def test_every_code_of_an_ending_is_reached_by_a_real_process() -> None:
    claimed = {code for code, _ in marks("code", "process")}
    assert unreached(claimed) == set()
    by_marks_alone = claimed - {case.code for case in TABLE}
    assert unreached(claimed - by_marks_alone) == by_marks_alone and by_marks_alone, "the control"
    assert unreached({*claimed, "no.such"}) == {"no.such"}, "the other one"
