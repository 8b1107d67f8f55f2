"""Every row of `tests/rows.toml` is claimed by a test, and every code of an ending is reached by a real process.

Claims are read from the marks in the tests. `tests/process/conftest.py` checks that a claimed code was reached.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

from support.hostile_job_table import TABLE

from contract import rows
from contract.source import Source, check, sources
from killable.workers.error_codes import CODES


def claimed_codes() -> set[str]:
    """Return what the marks `code` of the tests with real processes name."""
    return {
        str(argument.value)
        for each in sources("tests/process")
        if ".code(" in each.text
        for node in each.nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "code"
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }


@check
def unknown_rows(looked_at: Sequence[Source]) -> list[str]:
    known = set(rows.ids())
    claims = [claim for each in looked_at for claim in rows.claims_of(each.name, each.text)]
    return [f"{claim.path}:{claim.line} {claim.row}" for claim in claims if claim.row not in known]


def test_every_claimed_row_is_known() -> None:
    assert unknown_rows(sources("tests")) == []


def unclaimed(known: Iterable[str], looked_at: Iterable[rows.Claim]) -> set[str]:
    return set(known) - {claim.row for claim in looked_at}


def test_every_row_is_claimed_by_a_test() -> None:
    known = rows.ids()
    assert len(known) == len(set(known))
    assert unclaimed(known, rows.claims()) == set()
    assert unclaimed([*known, "B99"], rows.claims()) == {"B99"}, "the control"


def test_the_page_of_the_rows_is_not_stale() -> None:
    assert rows.PAGE.read_text("utf-8") == rows.page(), f"docs/rows.md is stale: run {rows.COMMAND}"
    assert rows.page(rows.claims()[1:]) != rows.page(), "the control"


def unreached(claimed: Iterable[str]) -> set[str]:
    """Return codes of endings that are not claimed, and claimed ones that are none."""
    endings = {code for code, line in CODES.items() if line.state is not None}
    return {*claimed, *(case.code for case in TABLE if case.code)} ^ endings


def test_every_code_of_an_ending_is_reached_by_a_real_process() -> None:
    claimed = claimed_codes()
    assert unreached(claimed) == set()
    by_marks_alone = claimed - {case.code for case in TABLE}
    assert unreached(claimed - by_marks_alone) == by_marks_alone and by_marks_alone, "the control"
    assert unreached({*claimed, "no.such"}) == {"no.such"}, "the other one"
